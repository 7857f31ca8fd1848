"""Starts, pauses, and cancels backfills, and resumes them after a restart. `backfill_runner.py` executes them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor, DataError, ProgrammingError
from psycopg.errors import InsufficientPrivilege

from userhooks.engine.backfill.backfill_runner import BackfillRunner
from userhooks.engine.backfill.page_query import Cursor, PageQuery
from userhooks.engine.backfill.reading_connections import ReadingConnections
from userhooks.engine.backfill.run import BackfillRun
from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.capture.transactions import Stream
from userhooks.engine.clock import utc_now
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.functions import Bound
from userhooks.engine.postgres.admin_connection import AdminConnection
from userhooks.engine.resources import BackfillRange, BackfillResource, BackfillState, Catalog
from userhooks.engine.routing import Router
from userhooks.engine.state_store import StateStore

log = logging.getLogger(__name__)


class Backfills:
    """The running backfills, and the cursors of all backfills; `write` runs a method of the store on the store's thread."""

    def __init__(
        self,
        database_url: str,
        *,
        catalog: Catalog,
        deliveries: Mapping[str, SinkDelivery],
        router: Router,
        admin: AdminConnection,
        tables: PublishedTables,
        health: CaptureHealth,
        reader: SlotReader,
        store: StateStore,
        write: Callable[..., Awaitable[Any]],
    ) -> None:
        self._catalog = catalog
        self._deliveries = deliveries
        self._router = router
        self._admin = admin
        self._reader = reader
        self._store = store
        self._write = write
        self._running: dict[str, tuple[BackfillRun, asyncio.Task[None]]] = {}
        self._halted: set[str] = set()
        self._cursors: dict[str, Cursor | None] = {}
        self._connections = ReadingConnections(database_url)
        self._runner = BackfillRunner(self._connections, catalog=catalog, tables=tables, health=health, save=self._save)

    # --- operations ----------------------------------------------------------------------------------------------------

    def restore(self, backfill: BackfillResource, cursor: Cursor | None) -> None:
        """Add a backfill that was read from the store; `run_active` starts it."""
        self._catalog.backfills[backfill.id] = backfill
        self._cursors[backfill.id] = cursor

    async def find_obstacle(self, backfill_range: BackfillRange) -> str | None:
        """Return Postgres' error message if it cannot read these rows, else None; raises DatabaseUnavailable."""
        table, sort_column, start = backfill_range
        query = PageQuery(self._catalog.tables[table], sort_column, start).page(None, None, 0)

        async def try_query(connection: AsyncConnection[Any]) -> str | None:
            try:
                await AsyncRawCursor(connection).execute(*query)
            except InsufficientPrivilege as exc:
                return str(self._admin.describe(exc, table))
            except (DataError, ProgrammingError) as exc:
                return str(exc).splitlines()[0]
            return None

        return await self._admin.ask(try_query)

    async def create(self, backfill: BackfillResource) -> None:
        """Store a new backfill, and start it if it is active."""
        await self._write(self._store.save, backfill)
        self.restore(backfill, None)
        if backfill.state == "active":
            self._run(backfill)

    async def change(self, backfill_id: str, state: BackfillState) -> BackfillResource:
        """Pause, resume, cancel, or complete a backfill; the caller has checked that the transition is allowed.

        A backfill that ends by itself in the meantime keeps its final state.
        """
        if state != "active":
            await self._stop(backfill_id)
        backfill = self._catalog.backfills[backfill_id]
        if backfill.state in ("active", "paused"):
            canceled_at = utc_now(micro=True) if state == "cancelled" else None
            completed_at = utc_now(micro=True) if state == "completed" else None
            backfill = replace(backfill, state=state, error=None, updated_at=utc_now(), canceled_at=canceled_at, completed_at=completed_at)
        try:
            await self._save(backfill, self._cursors.get(backfill_id))
        finally:
            self.run_active()  # Also restarts this backfill if its new state could not be stored.
        return backfill

    @asynccontextmanager
    async def halted(self, sink_ids: Collection[str]) -> AsyncIterator[list[BackfillResource]]:
        """Stop the sinks' backfills while the block deletes or disables the sinks; backfills that are still active afterwards resume.

        Yields the unfinished backfills in their cancelled form, for the block to store together with the sinks.
        """
        self._halted.update(sink_ids)
        try:
            cancelled = []
            for backfill_id in [backfill.id for backfill in self._catalog.backfills.values() if backfill.sink_id in sink_ids]:
                await self._stop(backfill_id)
                backfill = self._catalog.backfills[backfill_id]
                if backfill.state in ("active", "paused"):
                    cancelled.append(replace(backfill, state="cancelled", updated_at=utc_now(), canceled_at=utc_now(micro=True)))
            yield cancelled
        finally:
            self._halted.difference_update(sink_ids)
            self.run_active()

    def run_active(self) -> None:
        """Start every active backfill that is not running."""
        for backfill in list(self._catalog.backfills.values()):
            if backfill.state == "active":
                self._run(backfill)

    def poke(self, sink_id: str) -> None:
        """Wake the backfills that wait for a sink, because it has changed or caught up."""
        for run, _ in self._running.values():
            if run.sink_id == sink_id:
                run.poke()

    def watermark(self, token: str) -> None:
        """Handle a watermark from the stream."""
        self._runner.watermark(token)

    async def close(self) -> None:
        """Stop all backfills; they resume from their cursors at the next start."""
        runs = list(self._running.values())
        for _, task in runs:
            task.cancel()
        await asyncio.gather(*(task for _, task in runs), return_exceptions=True)
        for run, _ in runs:
            try:
                await self._save(run.progress.backfill, run.progress.cursor)
            except sqlite3.Error as exc:
                log.error("cannot save the progress of backfill %s: %s", run.id, exc)

    async def _stop(self, backfill_id: str) -> None:
        running = self._running.get(backfill_id)
        if running is None:
            return
        run, task = running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._running.pop(backfill_id, None)  # A task that is cancelled before its first step does not remove itself.
        if self._catalog.backfills[backfill_id].state == "active":
            self.restore(run.progress.backfill, run.progress.cursor)
        self._deliveries[run.sink_id].queue.withdraw(run.progress.owns)

    async def _save(self, backfill: BackfillResource, cursor: Cursor | None) -> None:
        await self._write(self._store.save_backfill, backfill, cursor)
        self.restore(backfill, cursor)

    # --- running -------------------------------------------------------------------------------------------------------

    def _run(self, backfill: BackfillResource) -> None:
        stream = self._reader.stream
        if stream is None or backfill.id in self._running or backfill.sink_id in self._halted:
            return  # `run_active` is called again when the stream exists, and after `halted`.
        run = BackfillRun(
            backfill,
            self._deliveries[backfill.sink_id],
            self._cursors.get(backfill.id),
            bound=lambda: self._bound(backfill.sink_id),
            streamed=lambda: list(stream.recent_xids),
            now_us=lambda: time.time_ns() // 1000,
            now_text=utc_now,
            report=lambda exc: self._runner.note(run, exc),
        )
        self._running[backfill.id] = (run, asyncio.create_task(self._run_to_the_end(run, stream)))

    def _bound(self, sink_id: str) -> Bound | None:
        route = self._router.route(sink_id)
        return None if route is None else route.bound

    async def _run_to_the_end(self, run: BackfillRun, stream: Stream) -> None:
        try:
            await self._runner.run(run, stream)
        finally:
            self._running.pop(run.id, None)
            if not self._running:
                await self._connections.hang_up()
