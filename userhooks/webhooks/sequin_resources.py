"""The resources of Sequin's Management API: endpoints, sinks, backfills, and functions. Pure; `sequin_client.py` makes the calls.

Fields and states are those of Sequin 0.14.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Self

from userhooks.shared.html_table import html_table

FunctionState = Literal["same", "different", "missing"]
SinkStatus = Literal["active", "paused", "disabled"]
BackfillState = Literal["active", "paused", "completed", "cancelled", "failed"]

BACKFILL_STARTS_WITHIN_S = 20.0
"""Maximum seconds until an idle Sequin server reads a backfill's first row; recordings show 2.6 to 20 s."""
UNREADABLE_VALUE = (
    "If the sink is active, Sequin probably cannot read a value of the table: a date of -infinity or a time of 24:00 stops it without an "
    "error. Cancel the backfill (update_backfill(sink, id, 'cancelled') of the Sequin client), correct the row, and start it again."
)
"""Advice for an active backfill that has read nothing after `BACKFILL_STARTS_WITHIN_S`."""

ACTIONS = ("insert", "update", "delete")


@dataclass(frozen=True)
class Health:
    """The answer of `/health`: whether the server is up, and its version, such as `v0.14.6`."""

    ok: bool
    version: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Parse an answer."""
        return cls(data["ok"] is True, str(data["rev"]))


@dataclass(frozen=True)
class Endpoint:
    """An HTTP endpoint, which sinks send to; its encrypted headers are left out, since the API masks them."""

    id: str
    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Parse an answer; the endpoint of a CLI tunnel has no URL."""
        return cls(str(data["id"]), str(data["name"]), str(data.get("url") or ""), data["headers"])


@dataclass(frozen=True)
class Sink:
    """A webhook sink. `filter` is a function's name or "none".

    `health`, `error`, `is_initializing`, and `active_backfills` are set only when a sink is read, not when it is created or updated.
    """

    id: str
    name: str
    database: str
    status: SinkStatus
    filter: str | None
    include_tables: tuple[str, ...]
    annotations: Mapping[str, Any]
    actions: tuple[str, ...]
    endpoint: str
    batch: bool
    batch_size: int
    max_retry_count: int | None
    health: str | None
    error: str | None
    is_initializing: bool
    active_backfills: tuple[Backfill, ...]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Parse an answer; servers before 0.10 send neither `source` nor `filter`, so the sink appears to have none."""
        health = data.get("health") or {}
        # Two checks may report the same error: a failing filter also blocks delivery.
        errors = dict.fromkeys(str(check["error"]) for check in health.get("checks", ()) if check.get("error"))
        return cls(
            id=str(data["id"]),
            name=str(data["name"]),
            database=str(data["database"]),
            status=data["status"],
            filter=data.get("filter"),
            include_tables=tuple((data.get("source") or {}).get("include_tables") or ()),
            annotations=data.get("annotations") or {},
            actions=tuple(data["actions"]),
            endpoint=str(data["destination"].get("http_endpoint")),
            batch=data["destination"].get("batch") is True,
            batch_size=int(data["batch_size"]),
            max_retry_count=data.get("max_retry_count"),
            health=health.get("status"),
            error="; ".join(dict.fromkeys(errors)) or None,
            is_initializing=any(check.get("status") == "initializing" for check in health.get("checks", ())),
            active_backfills=tuple(Backfill.of(backfill) for backfill in data.get("active_backfills") or ()),
        )


@dataclass(frozen=True)
class NewEndpoint:
    """An HTTP endpoint to create; `encrypted_headers` are sent with every webhook and never shown again."""

    name: str
    url: str
    encrypted_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class NewSink:
    """A webhook sink to create, with the fields of `SequinClient.create_sink`."""

    name: str
    endpoint: str
    include_tables: tuple[str, ...]
    filter_function: str
    annotations: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[str, ...] = ACTIONS
    batch: bool = True
    batch_size: int = 1


@dataclass(frozen=True)
class Backfill:
    """A backfill. Its counters include the rows of all users; `rows_initial_count` is None until Sequin has counted the table's rows.

    `error` says why the backfill cannot read, if Sequin reports it.
    """

    id: str
    sink_name: str
    table: str
    state: BackfillState
    rows_initial_count: int | None
    rows_processed_count: int
    rows_ingested_count: int
    inserted_at: datetime
    error: str | None = None

    @property
    def has_read_nothing(self) -> bool:
        """Whether the backfill is active and has not read a row yet."""
        return self.state == "active" and self.rows_processed_count == 0 and self.rows_ingested_count == 0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Parse an answer."""
        return cls(
            id=str(data["id"]),
            sink_name=str(data["sink_consumer"]),
            table=str(data["table"]),
            state=data["state"],
            rows_initial_count=data["rows_initial_count"],
            rows_processed_count=int(data["rows_processed_count"]),
            rows_ingested_count=int(data["rows_ingested_count"]),
            inserted_at=datetime.fromisoformat(data["inserted_at"]),
            error=data.get("error"),
        )

    def _repr_html_(self) -> str:
        total = "not counted yet" if self.rows_initial_count is None else self.rows_initial_count
        counts = {"rows in the table": total, "rows processed": self.rows_processed_count, "rows ingested": self.rows_ingested_count}
        error = {} if self.error is None else {"error": self.error}
        return html_table("Backfill", {"sink": self.sink_name, "table": self.table, "state": self.state, **counts, **error})


@dataclass(frozen=True)
class Function:
    """A function as `config/export` lists it: `type` is filter, transform, routing, path, or enrichment."""

    name: str
    type: str
    code: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Parse a YAML entry, flat or nested."""
        inner = data.get("function") or data
        return cls(str(data["name"]), str(inner["type"]), str(inner.get("code") or ""))
