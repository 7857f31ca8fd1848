"""Regular flushes: what is delivered or moved to disk is committed to the store, and only then is the slot confirmed.

Which LSN may be confirmed is decided in `capture/confirmed_lsn.py`, what moves to disk in `delivery/`; SQL is in `state_store.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from userhooks.engine.capture.transactions import Stream
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.sink_delivery import LONG_SECONDS
from userhooks.engine.state_store import Flush, StateStore

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.05
"""From one flush to the next, its own time included; on a fast disk, acknowledgements are durable within 100 ms."""
_LEAST_PAUSE_SECONDS = 0.01


class Confirmable(Protocol):
    """The reader of the slot: its stream, once there is one, and the LSN that Postgres knows to be confirmed."""

    stream: Stream | None
    confirmed: int

    def confirm(self, lsn: int) -> None:
        """Confirm everything before `lsn`."""


class Flusher:
    """Keeps store and slot in step with the deliveries; `write` runs a method of the store on its thread."""

    def __init__(
        self, store: StateStore, write: Callable[..., Awaitable[Any]], *, reader: Confirmable, deliveries: Deliveries, backlog: Backlog
    ) -> None:
        self.lock = asyncio.Lock()
        """Held by a flush: of one that is cut off nobody knows whether it is written."""
        self.problem: str | None = None
        """why the last flush failed; None when it did not"""
        self._store = store
        self._write = write
        self._reader = reader
        self._deliveries = deliveries
        self._backlog = backlog
        self._positions: deque[tuple[float, int]] = deque()
        self._old = 0

    async def run(self, store_path: Path) -> None:
        """Flush again and again; trouble is noted, and the next flush tries again."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(max(_LEAST_PAUSE_SECONDS, FLUSH_SECONDS - (time.monotonic() - last)))
            last = time.monotonic()
            try:
                await self.flush()
                self.problem = None
            except sqlite3.Error as exc:
                problem = (
                    f"The engine's store cannot be written: {exc}. What is not delivered waits in Postgres' WAL meanwhile. "
                    f"Make room on the disk of {store_path}."
                )
                if problem != self.problem:
                    log.error("%s", problem)
                self.problem = problem
            except Exception:
                log.exception("progress could not be noted; the slot keeps what is not confirmed")

    def note_position(self, now: float) -> None:
        """Note the position read at `now`; messages from before the one of `LONG_SECONDS` ago move to disk with the next flush."""
        if self._reader.stream is not None:
            self._positions.append((now, self._reader.stream.progress.read))
        while self._positions and self._positions[0][0] <= now - LONG_SECONDS:
            self._old = self._positions.popleft()[1]

    async def flush(self) -> None:
        """Commit acknowledgements and messages that move to disk; then confirm the slot. Raises sqlite3.Error."""
        async with self.lock:
            await self._flush()

    async def _flush(self) -> None:
        reader, stream = self._reader, self._reader.stream
        lsn = reader.confirmed if stream is None else stream.progress.confirmable()
        old, self._old = self._old if lsn < self._old else 0, 0
        batch = self._backlog.collect(self._deliveries.pending() if old else (), old)
        taken = []
        for transaction in stream.progress.unsettled() if stream is not None else ():
            if transaction.acknowledged:
                done, transaction.acknowledged = transaction.acknowledged, []
                batch.flush.acknowledged.setdefault(transaction.commit_lsn, []).extend(done)
                taken.append((transaction, done))
        if lsn == reader.confirmed and not batch.flush:
            self._backlog.is_written(batch)
            return
        try:
            await self._write(self._store.flush, lsn, batch.flush)
        except Exception as exc:
            self._backlog.is_not_written(batch)
            for transaction, done in taken:
                transaction.acknowledged[:0] = done
            if isinstance(exc, sqlite3.Error) and batch.flush.kept:  # there may be no room for more; deleting delivered rows may make some
                await self._write(self._store.flush, reader.confirmed, Flush(done=batch.flush.done))
            raise
        self._backlog.is_written(batch)
        if stream is not None:
            reader.confirm(lsn)
