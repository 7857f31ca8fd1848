"""A sink's `health`, with Sequin's names, words and order (0.14.6, recorded). Pure: what is known of the sink in, JSON values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from userhooks.engine.resources import SinkResource, SinkStatus, Table, TableName

FILTER_FAILED = "[filter]: "
"""Beginning of the error of a message whose filter failed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is known of a sink, in plain values.

    `reached`: a message of the sink was delivered, failed or waits. `tried`: one was delivered or failed. `moved`: one was delivered.
    `notice`: see `partly_recorded`. `problem`: what keeps changes from the sink, in words. `error`: what the last delivery attempt failed
    with; None after a success. `discarded`: messages that were given up and not sent again since.
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
        """What the filter raised for the last message that it was asked about; the message fails with it, so deliveries do as well."""
        return self.error if self.error is not None and self.error.startswith(FILTER_FAILED) else None

    @property
    def delivery_error(self) -> str | None:
        """What is wrong with deliveries, in words; a message that was given up keeps it wrong until it is sent again."""
        if self.error is None and self.discarded:
            return f"{self.discarded:,} message(s) were given up after the last attempt; redeliver them to bring them to the receiver."
        return self.error


def health(condition: Condition) -> dict[str, Any]:
    """Return the object that GET and list of sinks show: an overall status and five checks, those in trouble with their `error`."""
    settled = "notice" if condition.notice else "healthy"
    reached, tried, moved = ("healthy" if one else "waiting" for one in (condition.reached, condition.tried, condition.moved))
    checks = [
        {"name": "Sink configuration", "status": settled},
        _check("Message filtering", reached, condition.filter_error),
        _check("Message ingestion", reached, condition.problem),
        {"name": "Messages pending delivery", "status": tried},
        _check("Message delivery", moved, condition.delivery_error),
    ]
    return {"name": "Consumer health", "status": overall(condition), "checks": checks}


def overall(condition: Condition) -> str:
    """Return the overall status: paused (also for disabled sinks), error, healthy, or waiting for the first delivery."""
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
    """Whether a table of the sink has no REPLICA IDENTITY FULL, so that deletes and old values come in part only."""
    return any(table.replica_identity != "f" and sink.source.covers(*name) for name, table in tables.items())
