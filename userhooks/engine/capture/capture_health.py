"""Health of the capture side, for the engine and for each sink: problems with Postgres, lost changes, unpublished tables.

`lost_changes.py` decides which sinks a loss affects. The wording of the problems is in `postgres/diagnosis.py`.
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
    """Current problems, and losses until backfills have made up for them.

    `write` runs a method of the store on the store's thread.
    """

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
        self._trouble: Trouble | None = Trouble("The engine is not connected to Postgres yet.", "Wait: it connects by itself.")
        self._backfills: dict[str, Trouble] = {}
        """Maps a sink id to the problem that keeps its backfill from reading."""
        lost = store.meta(_LOST)
        self._lost = LostRange.of_json(lost) if lost else None
        self._incomplete: tuple[object, dict[str, list[TableName]]] | None = None
        """The sinks to backfill after the loss, cached with the state they were computed from."""

    # --- problems ------------------------------------------------------------------------------------------------------

    def note_error(self, exc: BaseException) -> None:
        """Record the error that keeps the slot from being read, and log it if it is new."""
        self.note(self._admin.describe(exc))

    def note(self, trouble: Trouble) -> None:
        """Record the problem that keeps the slot from being read, and log it if it is new."""
        if trouble != self._trouble:
            log.error("%s", trouble)
        self._trouble = trouble

    def is_reading(self) -> None:
        """Record that the slot is being read, which clears the problem."""
        self._trouble = None
        self._incomplete = None

    def note_backfill(self, sink_id: str, table: TableName, exc: BaseException | None) -> str | None:
        """Record the error that keeps a sink's backfill from reading its table, and return the problem as text.

        When the backfill can read again, pass None for `exc`; the result is then None.
        """
        trouble = self._admin.describe(exc, table) if exc is not None else None
        if trouble is None:
            self._backfills.pop(sink_id, None)
            return None
        if trouble != self._backfills.get(sink_id):
            self._backfills[sink_id] = trouble
            log.warning("a backfill cannot read its table: %s", trouble)
        return str(trouble)

    def check_tables(self) -> None:
        """Raise DatabaseUnavailable if the tables could not be read yet."""
        trouble = self._tables.trouble or self._trouble
        if not self._catalog.tables and trouble is not None:
            raise Unavailable(trouble)

    @property
    def problem(self) -> str | None:
        """The problems between the engine and Postgres as text, or None if there are none."""
        problems = [str(trouble) for trouble in (self._trouble, self._tables.trouble) if trouble is not None]
        if self._lost is not None and (incomplete := self._to_backfill()):
            problems.append(f"{self._lost} Start a backfill of each sink whose health asks for one ({len(incomplete)} of them).")
        return " ".join(problems) or None

    def problem_of(self, sink: SinkResource) -> str | None:
        """Return the problems that keep rows from a sink, as text, or None if there are none.

        These are problems with Postgres, lost changes, unpublished tables, and a backfill that cannot read.
        """
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
        """Return the sinks and tables that were not backfilled since the loss.

        The result is cached until a backfill is created or the tables are read again.
        """
        assert self._lost is not None  # noqa: S101
        catalog = self._catalog
        state = (self._lost, self._tables.readings, len(catalog.backfills), next(reversed(catalog.backfills), None))
        if self._incomplete is None or self._incomplete[0] != state:
            incomplete = to_backfill(self._lost, self._router.starts(), catalog.sinks, catalog.tables.values(), catalog.backfills.values())
            self._incomplete = (state, incomplete)
        return self._incomplete[1]

    async def lose(self, start: int, end: int, reason: str) -> None:
        """Store a range of lost changes; call this before the engine's position moves past them.

        `start` and `end` are LSNs. A loss that still needs backfills is merged with the new one.
        """
        at = utc_now()
        self._incomplete = None
        if self._lost is not None and self._to_backfill():
            start = min(start, self._lost.start)
        started = tuple(backfill.id for backfill in self._catalog.backfills.values() if backfill.inserted_at >= at)
        lost = LostRange(start, end, at, reason, started)
        await self._write(self._store.set_meta, _LOST, lost.json())
        self._lost = lost
        log.error("%s Start a backfill of each affected sink.", lost)

    def knows_loss_at(self, lsn: int) -> bool:
        """Return whether changes committed after this LSN are known to be lost."""
        return self._lost is not None and lsn < self._lost.end
