"""All backfills of the engine: starting, pausing, going on after trouble or a restart. How one reads its table is in `backfill.py`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from psycopg import Error

from userhooks.engine import tables
from userhooks.engine.backfill import BackfillRun
from userhooks.engine.clock import utc_now
from userhooks.engine.delivery import SinkDelivery
from userhooks.engine.reader import Reader
from userhooks.engine.rendering import TableShape
from userhooks.engine.resources import Backfill, BackfillState, Catalog
from userhooks.engine.store import Store
from userhooks.engine.values import SESSION_SETTINGS

log = logging.getLogger(__name__)

Cursor = tuple[str, ...]
"""values of the primary key's columns up to which every row is handed over"""


class Backfills:
    """The running backfills, and the cursors of all; `write` runs a method of the store on its thread."""

    def __init__(
        self,
        database_url: str,
        *,
        catalog: Catalog,
        deliveries: Mapping[str, SinkDelivery],
        reader: Reader,
        store: Store,
        write: Callable[..., Awaitable[Any]],
    ) -> None:
        self._database_url = database_url
        self._catalog = catalog
        self._deliveries = deliveries
        self._reader = reader
        self._store = store
        self._write = write
        self._running: dict[str, tuple[BackfillRun, asyncio.Task[None]]] = {}
        self._failing: set[asyncio.Task[None]] = set()
        self._cursors: dict[str, Cursor | None] = {}

    def restore(self, backfill: Backfill, cursor: Cursor | None) -> None:
        """Take over one that the store has kept; `run_active` starts it."""
        self._catalog.backfills[backfill.id] = backfill
        self._cursors[backfill.id] = cursor

    async def create(self, backfill: Backfill) -> None:
        """Start a backfill at once."""
        await self._write(self._store.save, backfill)
        self.restore(backfill, None)
        if backfill.state == "active":
            self._run(backfill)

    async def change(self, backfill_id: str, state: BackfillState) -> Backfill:
        """Pause, resume or cancel; the caller has checked that the transition is allowed."""
        if state != "active":
            await self._stop(backfill_id)
        backfill = self._catalog.backfills[backfill_id]
        canceled_at = utc_now(micro=True) if state == "cancelled" else backfill.canceled_at
        backfill = replace(backfill, state=state, updated_at=utc_now(), canceled_at=canceled_at)
        await self._save(backfill, self._cursors.get(backfill_id))
        if state == "active":
            self._run(backfill)
        return backfill

    async def cancel_those_of(self, sink_id: str) -> None:
        """Cancel what is not at its end: the sink is deleted or disabled."""
        for backfill in list(self._catalog.backfills.values()):
            if backfill.sink_id == sink_id and backfill.state in ("active", "paused"):
                await self.change(backfill.id, "cancelled")

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
        for run, _ in list(self._running.values()):
            run.watermark(token)

    async def close(self) -> None:
        """Stop all; they go on from their cursors at the next start."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._failing, return_exceptions=True)

    def _run(self, backfill: Backfill) -> None:
        stream = self._reader.stream
        if stream is None or backfill.id in self._running:
            return  # `run_active` is called once the stream is there
        table = self._catalog.tables.get(backfill.table)
        if table is None or not table.primary_key:
            failing = asyncio.create_task(
                self._fail(backfill, "the table has no primary key" if table else "the table is not in the publication")
            )
            self._failing.add(failing)
            failing.add_done_callback(self._failing.discard)
            return
        run = BackfillRun(
            backfill,
            table,
            TableShape.of_table(table, self._reader.types),
            self._deliveries[backfill.sink_id],
            self._cursors.get(backfill.id),
            connect=lambda: tables.connect(self._database_url, settings=SESSION_SETTINGS),
            save=self._save,
            now_us=lambda: time.time_ns() // 1000,
            now_text=utc_now,
            visible=lambda: list(stream.recent_xids),
        )
        stream.watchers.append(run)
        self._running[backfill.id] = (run, asyncio.create_task(self._attend(run)))

    async def _attend(self, run: BackfillRun) -> None:
        """Run a backfill to its end; after trouble with Postgres, start over from its cursor."""
        stream = self._reader.stream
        assert stream is not None  # noqa: S101
        try:
            while True:
                try:
                    await run.run()
                    break
                except (Error, OSError) as exc:
                    self._reader.backfill_trouble(run.sink_id, exc)
                    await asyncio.sleep(1.0)
                except Exception:
                    log.exception("backfill %s cannot go on", run.backfill.id)
                    await self._fail(run.backfill, "an error in the engine; see its log")
                    return
            done = replace(run.backfill, state="completed", completed_at=utc_now(micro=True), updated_at=utc_now())
            await self._save(done, None)
            log.info("backfill %s is completed: %d rows", done.id, done.rows_processed_count)
        finally:
            stream.watchers.remove(run)
            self._running.pop(run.backfill.id, None)
            self._reader.backfill_trouble(run.sink_id, None)

    async def _fail(self, backfill: Backfill, reason: str) -> None:
        log.error("backfill %s of %s failed: %s", backfill.id, ".".join(backfill.table), reason)
        await self._save(replace(backfill, state="failed", updated_at=utc_now()), None)

    async def _stop(self, backfill_id: str) -> None:
        running = self._running.get(backfill_id)
        if running is None:
            return
        run, task = running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._deliveries[run.sink_id].withdraw(run.owns)

    async def _save(self, backfill: Backfill, cursor: Cursor | None) -> None:
        self.restore(backfill, cursor)
        self._reader.backfill_trouble(backfill.sink_id, None)
        await self._write(self._store.save_backfill, backfill, cursor)
