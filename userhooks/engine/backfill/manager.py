"""All backfills of the engine: starting, pausing, going on after trouble or a restart. How one reads its table is in `run.py`.

Backfills take turns, a few at a time, so that however many there are they need few connections, and none waits for another's receiver.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor, DataError, Error, OperationalError, ProgrammingError
from psycopg.errors import InsufficientPrivilege

from userhooks.engine.backfill.page_query import Cursor, PageQuery
from userhooks.engine.backfill.run import BackfillRun, Failed, Interrupted, TableChanged
from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.clock import utc_now
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.functions import Bound
from userhooks.engine.postgres.admin_connection import AdminConnection
from userhooks.engine.resources import BackfillRange, BackfillResource, BackfillState, Catalog
from userhooks.engine.routing import Router
from userhooks.engine.startup import APPLICATION
from userhooks.engine.state_store import StateStore
from userhooks.errors import DatabaseUnavailable
from userhooks.shared.postgres_connections import connect_async

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Backfills that read at the same time, each by a connection"""
_PAUSE_SECONDS = 1.0
_COUNT_AFTER_SECONDS = 0.5
_READING = {"synchronous_commit": "local", "lock_timeout": "5s"}
"""`local`: a watermark has to be in the WAL here at once, and need not wait for a synchronous standby, which may be down"""
_COUNTING = {"statement_timeout": "30s", "max_parallel_workers_per_gather": "0"}
"""The count is for people who watch, and must not be in the way of anything"""
_MAY_PASS = (OperationalError, InsufficientPrivilege, OSError, DatabaseUnavailable)


class Backfills:
    """The running backfills, and the cursors of all; `write` runs a method of the store on its thread."""

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
        self._database_url = database_url
        self._catalog = catalog
        self._deliveries = deliveries
        self._router = router
        self._admin = admin
        self._tables = tables
        self._health = health
        self._reader = reader
        self._store = store
        self._write = write
        self._running: dict[str, tuple[BackfillRun, asyncio.Task[None]]] = {}
        self._in_turn: set[BackfillRun] = set()
        self._halted: set[str] = set()
        self._cursors: dict[str, Cursor | None] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._connections: list[AsyncConnection[Any]] = []
        self._counting = asyncio.Semaphore(1)

    # --- what can be done to them --------------------------------------------------------------------------------------

    def restore(self, backfill: BackfillResource, cursor: Cursor | None) -> None:
        """Take over one that the store has kept; `run_active` starts it."""
        self._catalog.backfills[backfill.id] = backfill
        self._cursors[backfill.id] = cursor

    async def hindrance(self, wanted: BackfillRange) -> str | None:
        """Return why Postgres cannot read a table like this, in its words; None when it can. Raises DatabaseUnavailable."""
        table, sort_column, start = wanted
        query = PageQuery(self._catalog.tables[table], sort_column, start).page(None, None, 0)

        async def try_it(connection: AsyncConnection[Any]) -> str | None:
            try:
                await AsyncRawCursor(connection).execute(*query)
            except InsufficientPrivilege as exc:
                return str(self._admin.describe(exc, table))
            except (DataError, ProgrammingError) as exc:
                return str(exc).splitlines()[0]
            return None

        return await self._admin.ask(try_it)

    async def create(self, backfill: BackfillResource) -> None:
        """Start a backfill at once."""
        await self._write(self._store.save, backfill)
        self.restore(backfill, None)
        if backfill.state == "active":
            self._run(backfill)

    async def change(self, backfill_id: str, state: BackfillState) -> BackfillResource:
        """Pause, resume or cancel; the caller has checked that the transition is allowed. One that ends by itself meanwhile has ended."""
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
            self.run_active()  # this one too, if it was to stop and that could not be stored
        return backfill

    @asynccontextmanager
    async def halted(self, sink_ids: Collection[str]) -> AsyncIterator[list[BackfillResource]]:
        """Hold what these sinks' backfills do while the block deletes or disables the sinks; those that it leaves active go on.

        Yields the unfinished ones as they are when cancelled, for the block to store together with the sinks.
        """
        self._halted.update(sink_ids)
        try:
            cancelled = []
            for backfill_id in [one.id for one in self._catalog.backfills.values() if one.sink_id in sink_ids]:
                await self._stop(backfill_id)
                one = self._catalog.backfills[backfill_id]
                if one.state in ("active", "paused"):
                    cancelled.append(replace(one, state="cancelled", updated_at=utc_now(), canceled_at=utc_now(micro=True)))
            yield cancelled
        finally:
            self._halted.difference_update(sink_ids)
            self.run_active()

    def run_active(self) -> None:
        """Start every active backfill that does not run yet."""
        for backfill in list(self._catalog.backfills.values()):
            if backfill.state == "active":
                self._run(backfill)

    def poke(self, sink_id: str) -> None:
        """The sink has changed or has caught up: those of its backfills that wait for it look again."""
        for run, _ in self._running.values():
            if run.sink_id == sink_id:
                run.poke()

    def watermark(self, token: str) -> None:
        """A watermark came by in the stream."""
        for run in list(self._in_turn):
            run.watermark(token)

    async def close(self) -> None:
        """Stop all; they go on from their cursors at the next start."""
        runs = list(self._running.values())
        for _, task in runs:
            task.cancel()
        await asyncio.gather(*(task for _, task in runs), return_exceptions=True)
        for run, _ in runs:
            try:
                await self._save(run.backfill, run.cursor)
            except sqlite3.Error as exc:
                log.error("how far backfill %s has come could not be noted: %s", run.backfill.id, exc)

    async def _stop(self, backfill_id: str) -> None:
        running = self._running.get(backfill_id)
        if running is None:
            return
        run, task = running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._running.pop(backfill_id, None)  # a task that is cancelled before its first step does not do so itself
        if self._catalog.backfills[backfill_id].state == "active":
            self.restore(run.backfill, run.cursor)
        self._deliveries[run.sink_id].queue.withdraw(run.owns)

    async def _save(self, backfill: BackfillResource, cursor: Cursor | None) -> None:
        await self._write(self._store.save_backfill, backfill, cursor)
        self.restore(backfill, cursor)

    # --- keeping one going ---------------------------------------------------------------------------------------------

    def _run(self, backfill: BackfillResource) -> None:
        stream = self._reader.stream
        if stream is None or backfill.id in self._running or backfill.sink_id in self._halted:
            return  # `run_active` is called once the stream is there, and after a halt
        run = BackfillRun(
            backfill,
            self._deliveries[backfill.sink_id],
            self._cursors.get(backfill.id),
            bound=lambda: self._bound(backfill.sink_id),
            streamed=lambda: list(stream.recent_xids),
            now_us=lambda: time.time_ns() // 1000,
            now_text=utc_now,
            report=lambda exc: self._note(run, exc),
        )
        self._running[backfill.id] = (run, asyncio.create_task(self._attend(run)))

    def _bound(self, sink_id: str) -> Bound | None:
        route = self._router.route(sink_id)
        return None if route is None else route.bound

    async def _attend(self, run: BackfillRun) -> None:
        """Let a backfill have its turns until the end of the table is delivered; after trouble with Postgres it goes on."""
        helpers = [asyncio.create_task(self._keep_saving(run)), asyncio.create_task(self._count(run))]
        try:
            end = await self._read_all(run)
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._save_at_last(end)
        finally:
            for helper in helpers:
                helper.cancel()
            self._running.pop(run.backfill.id, None)
            self._health.note_backfill(run.sink_id, run.table, None)
            if not self._running:
                await self._hang_up()

    async def _read_all(self, run: BackfillRun) -> BackfillResource:
        """Return what has become of the backfill."""
        try:
            await self._read_to_the_end(run)
            await run.delivered()
        except Failed as exc:
            return self._failed(run.backfill, str(exc))
        except Exception:
            log.exception("backfill %s cannot go on", run.backfill.id)
            return self._failed(run.backfill, "an error in the engine; see its log")
        done = run.backfill
        counted = done.rows_processed_count if done.rows_initial_count is None else done.rows_initial_count
        log.info("backfill %s is completed: %d rows", done.id, done.rows_processed_count)
        return replace(
            done, state="completed", error=None, completed_at=utc_now(micro=True), updated_at=utc_now(), rows_initial_count=counted
        )

    async def _read_to_the_end(self, run: BackfillRun) -> None:
        refused: str | None = None
        stream = self._reader.stream
        assert stream is not None  # noqa: S101  # it is there before the first run is
        self._use_table(run)
        stream.watchers.append(run)
        try:
            while True:
                try:
                    if await self._turn(run):
                        return
                    refused = None
                    self._note(run, None)
                except Interrupted as exc:
                    log.info("backfill %s reads a page again: %s", run.backfill.id, exc)
                except _MAY_PASS as exc:
                    self._note(run, exc)
                    await asyncio.sleep(_PAUSE_SECONDS)
                except (Error, TableChanged) as exc:
                    if refused == str(exc):
                        raise Failed(f"{'.'.join(run.table)} cannot be read: {refused}") from exc
                    refused = str(exc)
                    await self._look_at_tables(run)
        finally:
            stream.watchers.remove(run)

    def _failed(self, backfill: BackfillResource, reason: str) -> BackfillResource:
        log.error("backfill %s of %s has failed: %s", backfill.id, ".".join(backfill.table), reason)
        return replace(backfill, state="failed", error=reason, updated_at=utc_now())

    async def _look_at_tables(self, run: BackfillRun) -> None:
        try:
            await self._tables.refresh()
        except DatabaseUnavailable as exc:
            self._note(run, exc)
            await asyncio.sleep(_PAUSE_SECONDS)

    def _note(self, run: BackfillRun, exc: BaseException | None) -> None:
        """Show what keeps a backfill from reading, at the sink and at the backfill itself, or None once it goes on."""
        error = self._health.note_backfill(run.sink_id, run.table, exc)
        if error != run.backfill.error:
            run.backfill = replace(run.backfill, error=error)
            self._catalog.backfills[run.backfill.id] = run.backfill

    async def _turn(self, run: BackfillRun) -> bool:
        """Wait for a turn and take it; True when nothing is left to read."""
        await run.room()
        async with self._connection() as connection:
            self._use_table(run)
            self._in_turn.add(run)
            try:
                return await run.turn(connection)
            finally:
                self._in_turn.discard(run)

    def _use_table(self, run: BackfillRun) -> None:
        table = self._catalog.tables.get(run.table)
        if table is None:
            raise Failed(f"{'.'.join(run.table)} is not in the publication any more, or was dropped.")
        run.use(table, self._tables.types)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """One of a few connections, when it is free; one that had trouble is closed."""
        async with self._places:
            if self._connections:
                connection = self._connections.pop()
            else:
                connection = await connect_async(self._database_url, application_name=APPLICATION, settings=_READING)
                connection.prepare_threshold = None  # a plan that fits any value would not use that a user has few rows
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            self._connections.append(connection)

    async def _hang_up(self) -> None:
        while self._connections:
            await self._connections.pop().close()

    async def _keep_saving(self, run: BackfillRun) -> None:
        while True:
            await run.progressed.wait()
            run.progressed.clear()
            pages = run.unsaved
            await self._save_at_last(run.backfill, run.cursor)
            run.saved(pages)

    async def _save_at_last(self, backfill: BackfillResource, cursor: Cursor | None = None) -> None:
        """Save, and when the store cannot be written, try until it can."""
        while True:
            try:
                await self._save(backfill, cursor)
                return
            except sqlite3.Error as exc:
                log.error("how far backfill %s has come could not be noted: %s", backfill.id, exc)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _count(self, run: BackfillRun) -> None:
        """Count the rows once reading has begun or must wait, so that nothing waits for it; what takes too long is known at the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_AFTER_SECONDS):
                await run.begun.wait()
        if run.backfill.rows_initial_count is not None:
            return
        async with self._counting:
            try:
                self._use_table(run)
                async with await connect_async(self._database_url, application_name=APPLICATION, settings=_COUNTING) as connection:
                    await run.count(connection)
            except (Error, OSError, Failed) as exc:
                log.info("the rows that backfill %s reads were not counted: %s", run.backfill.id, exc)
