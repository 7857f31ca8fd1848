"""What is wrong between the engine and Postgres, for the engine as a whole and for each sink: trouble, lost changes, absent tables.

What a loss is, and which sinks it concerns, is decided in `lost_changes.py`; the wording is in `postgres/diagnosis.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from userhooks.engine.capture.lost_changes import LostRange, describe_lost, to_backfill
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.clock import utc_now
from userhooks.engine.postgres.admin_connection import AdminConnection
from userhooks.engine.postgres.diagnosis import Trouble, Unavailable
from userhooks.engine.resources import Catalog, SinkResource, TableName
from userhooks.engine.routing import Router
from userhooks.engine.state_store import StateStore

log = logging.getLogger(__name__)

_LOST = "lost"


class CaptureHealth:
    """Trouble of now, and losses until they are made up for; `write` runs a method of the store on its thread."""

    def __init__(
        self,
        admin: AdminConnection,
        tables: PublishedTables,
        *,
        catalog: Catalog,
        router: Router,
        store: StateStore,
        write: Callable[..., Awaitable[Any]],
    ) -> None:
        self._admin = admin
        self._tables = tables
        self._catalog = catalog
        self._router = router
        self._store = store
        self._write = write
        self._trouble: Trouble | None = Trouble("The engine is not connected to Postgres yet.", "Wait: it goes on by itself.")
        self._backfills: dict[str, Trouble] = {}
        """sink id -> what keeps its backfill from reading"""
        lost = store.meta(_LOST)
        self._lost = LostRange.of_json(lost) if lost else None
        self._incomplete: tuple[object, dict[str, list[TableName]]] | None = None
        """sinks that have to be backfilled after the loss, and what that was found from"""

    # --- trouble -------------------------------------------------------------------------------------------------------

    def note_error(self, exc: BaseException) -> None:
        """Note the error that keeps the slot from being read; the log tells once."""
        self.note(self._admin.describe(exc))

    def note(self, trouble: Trouble) -> None:
        """Note what keeps the slot from being read; the log tells once."""
        if trouble != self._trouble:
            log.error("%s", trouble)
        self._trouble = trouble

    def is_reading(self) -> None:
        """The slot is read: the trouble is over."""
        self._trouble = None
        self._incomplete = None

    def note_backfill(self, sink_id: str, table: TableName, exc: BaseException | None) -> str | None:
        """Note what keeps a sink's backfill from reading its table, or None once it goes on, and return it as text."""
        trouble = self._admin.describe(exc, table) if exc is not None else None
        if trouble is None:
            self._backfills.pop(sink_id, None)
            return None
        if trouble != self._backfills.get(sink_id):
            self._backfills[sink_id] = trouble
            log.warning("a backfill is interrupted: %s", trouble)
        return str(trouble)

    def check_tables(self) -> None:
        """Raise DatabaseUnavailable while the tables are not known yet."""
        trouble = self._tables.trouble or self._trouble
        if not self._catalog.tables and trouble is not None:
            raise Unavailable(trouble)

    @property
    def problem(self) -> str | None:
        """What is wrong between the engine and Postgres, as text; None when all is well."""
        problems = [str(trouble) for trouble in (self._trouble, self._tables.trouble) if trouble is not None]
        if self._lost is not None and (incomplete := self._to_backfill()):
            problems.append(f"{self._lost} Start a backfill of the sinks whose health says so; there are {len(incomplete)}.")
        return " ".join(problems) or None

    def problem_of(self, sink: SinkResource) -> str | None:
        """What keeps rows from a sink, as text: trouble, lost changes, a table not published, a backfill that cannot read."""
        problems = [str(self._trouble)] if self._trouble is not None else []
        if self._lost is not None and (incomplete := self._to_backfill().get(sink.id)):
            problems.append(describe_lost(self._lost, incomplete))
        problems += self._tables.problems_of(sink.source.include_tables or ())
        if self._tables.trouble is not None:
            problems.append(str(self._tables.trouble))
        if self._trouble is None and sink.id in self._backfills:
            problems.append(str(self._backfills[sink.id]))
        return " ".join(problems) or None

    # --- lost changes --------------------------------------------------------------------------------------------------

    def _to_backfill(self) -> dict[str, list[TableName]]:
        """Return the sinks without a backfill since the loss; found anew after a new backfill or another reading of the tables."""
        assert self._lost is not None  # noqa: S101
        catalog = self._catalog
        seen = (self._lost, self._tables.readings, len(catalog.backfills), next(reversed(catalog.backfills), None))
        if self._incomplete is None or self._incomplete[0] != seen:
            incomplete = to_backfill(self._lost, self._router.starts(), catalog.sinks, catalog.tables.values(), catalog.backfills.values())
            self._incomplete = (seen, incomplete)
        return self._incomplete[1]

    async def lose(self, start: int, end: int, reason: str) -> None:
        """Store that changes are lost, before anything moves on past them."""
        at = utc_now()
        self._incomplete = None
        if self._lost is not None and self._to_backfill():
            start = min(start, self._lost.start)
        begun = tuple(backfill.id for backfill in self._catalog.backfills.values() if backfill.inserted_at >= at)
        lost = LostRange(start, end, at, reason, begun)
        await self._write(self._store.set_meta, _LOST, lost.json())
        self._lost = lost
        log.error("%s Start backfills.", lost)

    def knows_loss_at(self, lsn: int) -> bool:
        """Whether changes committed after this LSN are known to be lost."""
        return self._lost is not None and lsn < self._lost.end
