"""A sink's `health` object, with the names, wording, and order recorded from Sequin 0.14.6. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from userhooks.engine.resources import SinkResource, SinkStatus, Table, TableName

FILTER_FAILED = "[filter]: "
"""Prefix of the error of a message whose filter failed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The state of a sink, from which its health is derived.

    `reached`: a message was delivered, failed, or is pending. `tried`: a message was delivered or failed. `moved`: a message was delivered.
    `notice`: see `partly_recorded`. `problem`: what keeps changes from reaching the sink, as text. `error`: the error of the last delivery
    attempt; None if it succeeded. `discarded`: number of messages that were discarded and not redelivered since.
    """

    status: SinkStatus
    reached: bool
    tried: bool
    moved: bool
    notice: bool
    problem: str | None
    error: str | None
    discarded: int

    @property
    def filter_error(self) -> str | None:
        """The error that the filter raised in the last delivery attempt; None if it did not raise. If set, it is also `delivery_error`."""
        return self.error if self.error is not None and self.error.startswith(FILTER_FAILED) else None

    @property
    def delivery_error(self) -> str | None:
        """The error of deliveries; None if all is well. Discarded messages are an error until they are redelivered."""
        if self.error is None and self.discarded:
            return f"{self.discarded:,} message(s) discarded after the last attempt. Redeliver them once the receiver works again."
        return self.error


def health(condition: Condition) -> dict[str, Any]:
    """Return the `health` object that the API shows: an overall status and five checks, failing ones with their `error`."""
    settled = "notice" if condition.notice else "healthy"
    reached, tried, moved = ("healthy" if is_so else "waiting" for is_so in (condition.reached, condition.tried, condition.moved))
    checks = [
        {"name": "Sink configuration", "status": settled},
        _check("Message filtering", reached, condition.filter_error),
        _check("Message ingestion", reached, condition.problem),
        {"name": "Messages pending delivery", "status": tried},
        _check("Message delivery", moved, condition.delivery_error),
    ]
    return {"name": "Consumer health", "status": overall(condition), "checks": checks}


def overall(condition: Condition) -> str:
    """Return the overall status: paused (also for disabled sinks), error, healthy, or waiting (for the first delivery)."""
    if condition.status != "active":
        return "paused"
    if condition.problem is not None or condition.delivery_error is not None:
        return "error"
    if condition.moved:
        return "healthy"
    return "waiting"


def _check(name: str, status: str, error: str | None) -> dict[str, Any]:
    return {"name": name, "status": status} if error is None else {"name": name, "status": "error", "error": error}


def partly_recorded(sink: SinkResource, tables: Mapping[TableName, Table]) -> bool:
    """Return whether a table of the sink lacks REPLICA IDENTITY FULL, so that deletes and old values are incomplete."""
    return any(table.replica_identity != "f" and sink.source.covers(*name) for name, table in tables.items())
