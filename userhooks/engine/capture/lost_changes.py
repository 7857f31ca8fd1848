"""Changes that Postgres has lost, and the sinks that still need a backfill because of them. No I/O.

`slot_keeper.py` detects losses; `capture_health.py` stores them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.resources import BackfillResource, SinkResource, Table, TableName


@dataclass(frozen=True, slots=True)
class LostRange:
    """A range of LSNs whose changes were lost, and the reason; it affects the sinks that started before `end`.

    `at` is when the loss was detected: UTC, ISO 8601, to the second. `backfills` contains the ids of backfills created within that second
    but before the loss was detected, which therefore do not make up for it.
    """

    start: int
    end: int
    at: str
    reason: str
    backfills: tuple[str, ...]

    @classmethod
    def of_json(cls, text: str) -> LostRange:
        """Parse the text that `json` returned."""
        fields = json.loads(text)
        return cls(**{**fields, "backfills": tuple(fields["backfills"])})

    def json(self) -> str:
        """Return the range as JSON text for the store."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"Postgres has lost the changes committed between {show_lsn(self.start)} and {show_lsn(self.end)} ({self.reason})."


def to_backfill(
    lost: LostRange,
    starts: Mapping[str, int],
    sinks: Mapping[str, SinkResource],
    tables: Iterable[Table],
    backfills: Iterable[BackfillResource],
) -> dict[str, list[TableName]]:
    """Map each sink that missed changes to the tables that were not backfilled since the loss.

    `starts` maps sink ids to the sinks' start LSNs. A table without a primary key cannot be backfilled, so it stays listed until the sink
    is disabled or deleted.
    """
    backfilled = {
        (backfill.sink_id, backfill.table)
        for backfill in backfills
        if backfill.inserted_at >= lost.at and backfill.id not in lost.backfills and backfill.state not in ("cancelled", "failed")
    }
    names = [(table.schema, table.name) for table in tables]
    incomplete = {}
    for sink_id, start in starts.items():
        sink = sinks.get(sink_id)
        if sink is not None and sink.status != "disabled" and start < lost.end:
            missing = [name for name in names if sink.source.covers(*name) and (sink_id, name) not in backfilled]
            if missing:
                incomplete[sink_id] = missing
    return incomplete


def describe_lost(lost: LostRange, tables: Iterable[TableName]) -> str:
    """Return the text for a sink's health: the loss, and the tables to backfill."""
    return f"{lost} Start a backfill of {', '.join('.'.join(name) for name in tables)} to bring the current rows."
