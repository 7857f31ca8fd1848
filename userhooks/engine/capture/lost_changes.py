"""Changes that Postgres itself has lost, and which sinks have not had a backfill since. Pure; they are found by `slot_keeper.py`
and kept by `capture_health.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.resources import BackfillResource, SinkResource, Table, TableName


@dataclass(frozen=True, slots=True)
class LostRange:
    """Changes committed between two LSNs that will never come, and why; they concern the sinks that began before `end`.

    `at` is UTC ISO 8601 with seconds; `backfills` are the ids of those that had begun in that second or later when the loss was found.
    """

    start: int
    end: int
    at: str
    reason: str
    backfills: tuple[str, ...]

    @classmethod
    def of_json(cls, text: str) -> LostRange:
        """Read what `json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "backfills": tuple(fields["backfills"])})

    def json(self) -> str:
        """Return the form in which the store keeps it."""
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
    """Return for each sink that missed changes the tables of which no backfill has begun since; `starts` are the sinks' first LSNs.

    A table without a primary key counts until the sink is disabled or deleted, since no backfill can bring it.
    """
    begun = {
        (backfill.sink_id, backfill.table)
        for backfill in backfills
        if backfill.inserted_at >= lost.at and backfill.id not in lost.backfills and backfill.state not in ("cancelled", "failed")
    }
    names = [(table.schema, table.name) for table in tables]
    incomplete = {}
    for sink_id, start in starts.items():
        sink = sinks.get(sink_id)
        if sink is not None and sink.status != "disabled" and start < lost.end:
            missing = [name for name in names if sink.source.covers(*name) and (sink_id, name) not in begun]
            if missing:
                incomplete[sink_id] = missing
    return incomplete


def describe_lost(lost: LostRange, tables: Iterable[TableName]) -> str:
    """Return what a sink's health says."""
    return f"{lost} Start a backfill of {', '.join('.'.join(name) for name in tables)} to bring what is there now."
