"""Runs backfills until their tables are read and delivered: takes turns, handles errors, saves progress, counts rows.

A few backfills read at a time, in turns. So any number of backfills needs only a few connections, and none waits for another's receiver.
`run.py` reads the tables.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from psycopg import Error, OperationalError
from psycopg.errors import InsufficientPrivilege

from userhooks.engine.backfill.page_query import Cursor
from userhooks.engine.backfill.reading_connections import ReadingConnections
from userhooks.engine.backfill.row_handover import Interrupted
from userhooks.engine.backfill.run import BackfillRun, Failed, TableChanged
from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.capture.transactions import Stream
from userhooks.engine.clock import utc_now
from userhooks.engine.resources import BackfillResource, Catalog
from userhooks.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
"""Pause after an error before the next attempt."""
_COUNT_AFTER_SECONDS = 0.5
"""Seconds to wait for the first watermark before the rows are counted anyway."""
_TRANSIENT_ERRORS = (OperationalError, InsufficientPrivilege, OSError, DatabaseUnavailable)
"""Errors after which the backfill keeps trying, until the cause is fixed."""


class BackfillRunner:
    """Runs backfills; `save` stores a backfill with its cursor."""

    def __init__(
        self,
        connections: ReadingConnections,
        *,
        catalog: Catalog,
        tables: PublishedTables,
        health: CaptureHealth,
        save: Callable[[BackfillResource, Cursor | None], Awaitable[None]],
    ) -> None:
        self._connections = connections
        self._catalog = catalog
        self._tables = tables
        self._health = health
        self._save = save
        self._in_turn: set[BackfillRun] = set()

    def watermark(self, token: str) -> None:
        """Pass a watermark from the stream to the run that wrote it."""
        for run in list(self._in_turn):
            run.watermark(token)

    async def run(self, run: BackfillRun, stream: Stream) -> None:
        """Run a backfill until it completes or fails, and save the result."""
        helpers = [asyncio.create_task(self._keep_saving(run)), asyncio.create_task(self._count(run))]
        try:
            end = await self._read_all(run, stream)
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._save_with_retries(end)
        finally:
            for helper in helpers:
                helper.cancel()
            self._health.note_backfill(run.sink_id, run.table, None)

    def note(self, run: BackfillRun, exc: BaseException | None) -> None:
        """Show the error that keeps a backfill from reading, in the sink's health and in the backfill; None clears it."""
        error = self._health.note_backfill(run.sink_id, run.table, exc)
        if error != run.progress.backfill.error:
            run.progress.backfill = replace(run.progress.backfill, error=error)
            self._catalog.backfills[run.id] = run.progress.backfill

    # --- reading -------------------------------------------------------------------------------------------------------

    async def _read_all(self, run: BackfillRun, stream: Stream) -> BackfillResource:
        """Read and deliver the table, and return the completed or failed backfill."""
        try:
            await self._read_to_the_end(run, stream)
            await run.delivered()
        except Failed as exc:
            return _failed(run.progress.backfill, str(exc))
        except Exception:
            log.exception("backfill %s has failed", run.id)
            return _failed(run.progress.backfill, "an error in the engine; see its log")
        done = run.progress.backfill
        initial_count = done.rows_processed_count if done.rows_initial_count is None else done.rows_initial_count
        log.info("backfill %s has completed: %d rows", done.id, done.rows_processed_count)
        return replace(
            done, state="completed", error=None, completed_at=utc_now(micro=True), updated_at=utc_now(), rows_initial_count=initial_count
        )

    async def _read_to_the_end(self, run: BackfillRun, stream: Stream) -> None:
        last_error: str | None = None
        self._use_table(run)
        stream.watchers.append(run.handover)
        try:
            while True:
                try:
                    if await self._turn(run):
                        return
                    last_error = None
                    self.note(run, None)
                except Interrupted as exc:
                    log.info("backfill %s reads a page again: %s", run.id, exc)
                except _TRANSIENT_ERRORS as exc:
                    self.note(run, exc)
                    await asyncio.sleep(_PAUSE_SECONDS)
                except (Error, TableChanged) as exc:
                    if last_error == str(exc):
                        raise Failed(f"{'.'.join(run.table)} cannot be read: {last_error}") from exc
                    last_error = str(exc)
                    await self._refresh_tables(run)
        finally:
            stream.watchers.remove(run.handover)

    async def _turn(self, run: BackfillRun) -> bool:
        """Wait for a turn and take it; return whether nothing is left to read."""
        await run.room()
        async with self._connections.for_reading() as connection:
            self._use_table(run)
            self._in_turn.add(run)
            try:
                return await run.turn(connection)
            finally:
                self._in_turn.discard(run)

    def _use_table(self, run: BackfillRun) -> None:
        table = self._catalog.tables.get(run.table)
        if table is None:
            raise Failed(f"{'.'.join(run.table)} is no longer in the publication, or was dropped.")
        run.use(table, self._tables.types)

    async def _refresh_tables(self, run: BackfillRun) -> None:
        try:
            await self._tables.refresh()
        except DatabaseUnavailable as exc:
            self.note(run, exc)
            await asyncio.sleep(_PAUSE_SECONDS)

    # --- background tasks ----------------------------------------------------------------------------------------------

    async def _keep_saving(self, run: BackfillRun) -> None:
        progress = run.progress
        while True:
            await progress.progressed.wait()
            progress.progressed.clear()
            pages = progress.unsaved
            await self._save_with_retries(progress.backfill, progress.cursor)
            progress.saved(pages)

    async def _save_with_retries(self, backfill: BackfillResource, cursor: Cursor | None = None) -> None:
        """Save the backfill, retrying until the store can be written."""
        while True:
            try:
                await self._save(backfill, cursor)
                return
            except sqlite3.Error as exc:
                log.error("cannot save the progress of backfill %s: %s", backfill.id, exc)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _count(self, run: BackfillRun) -> None:
        """Count the rows to read, unless that is already known.

        Counting starts after the first watermark or _COUNT_AFTER_SECONDS, so that it does not delay reading. If it takes too long, the
        count is only known at the end.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_AFTER_SECONDS):
                await run.has_started.wait()
        if run.progress.backfill.rows_initial_count is not None:
            return
        try:
            async with self._connections.for_counting() as connection:
                self._use_table(run)
                await run.count(connection)
        except (Error, OSError, Failed) as exc:
            log.info("cannot count the rows of backfill %s: %s", run.id, exc)


def _failed(backfill: BackfillResource, reason: str) -> BackfillResource:
    log.error("backfill %s of %s has failed: %s", backfill.id, ".".join(backfill.table), reason)
    return replace(backfill, state="failed", error=reason, updated_at=utc_now())
