"""Regular flushes, which commit progress to the store and then confirm the slot.

`capture/confirmable_lsn.py` determines the LSN to confirm, `delivery/` the messages that move to disk; `state_store.py` has the SQL.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from userhooks.engine.capture.transactions import Stream
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.sink_delivery import LONG_SECONDS
from userhooks.engine.state_store import Flush, SinkCounts, StateStore

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.05
"""Seconds from the start of one flush to the start of the next. On a fast disk, acknowledgements are durable within 100 ms."""
_LEAST_PAUSE_SECONDS = 0.01


class Confirmable(Protocol):
    """A reader of the slot: its stream, once it is connected, and the last LSN confirmed to Postgres."""

    stream: Stream | None
    confirmed: int

    def confirm(self, lsn: int) -> None:
        """Confirm everything before `lsn`."""


class Flusher:
    """Saves the progress of deliveries to the store and the slot. `write` runs a method of the store on the store's thread."""

    def __init__(
        self, store: StateStore, write: Callable[..., Awaitable[Any]], *, reader: Confirmable, deliveries: Deliveries, backlog: Backlog
    ) -> None:
        self.lock = asyncio.Lock()
        """Held during a flush. Take it before cancelling `run`, since it is unknown whether a cancelled flush was written."""
        self.problem: str | None = None
        """why the last flush failed; None if it succeeded"""
        self._store = store
        self._write = write
        self._reader = reader
        self._deliveries = deliveries
        self._backlog = backlog
        self._positions: deque[tuple[float, int]] = deque()
        self._old = 0
        self._counts: dict[int, SinkCounts] = {}

    async def run(self, store_path: Path) -> None:
        """Flush until cancelled; a failure sets `problem`, and the next flush tries again."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(max(_LEAST_PAUSE_SECONDS, FLUSH_SECONDS - (time.monotonic() - last)))
            last = time.monotonic()
            try:
                await self.flush()
                self.problem = None
            except sqlite3.Error as exc:
                problem = (
                    f"The engine's store cannot be written: {exc}. Free up space on the disk that holds {store_path}. "
                    "Until then, Postgres keeps undelivered changes in its WAL."
                )
                if problem != self.problem:
                    log.error("%s", problem)
                self.problem = problem
            except Exception:
                log.exception("cannot save progress; the slot keeps all unconfirmed changes")

    def note_position(self, now: float) -> None:
        """Record the stream's position at `now`. The next flush moves to disk all messages read more than `LONG_SECONDS` ago."""
        if self._reader.stream is not None:
            self._positions.append((now, self._reader.stream.progress.read))
        while self._positions and self._positions[0][0] <= now - LONG_SECONDS:
            self._old = self._positions.popleft()[1]

    def note_counts(self, counts: Iterable[SinkCounts]) -> None:
        """Save the changed counters of sinks during the next flush."""
        self._counts.update({each.sink: each for each in counts})

    async def flush(self) -> None:
        """Commit acknowledgements, messages moving to disk, and changed counters, then confirm the slot. Raises sqlite3.Error."""
        async with self.lock:
            await self._flush()

    async def _flush(self) -> None:
        reader, stream = self._reader, self._reader.stream
        lsn = reader.confirmed if stream is None else stream.progress.confirmable()
        old, self._old = self._old if lsn < self._old else 0, 0
        batch = self._backlog.collect(self._deliveries.pending() if old else (), old)
        counts, self._counts = self._counts, {}
        batch.flush.counts = list(counts.values())
        collected = []
        for transaction in stream.progress.unsettled() if stream is not None else ():
            if transaction.acknowledged:
                done, transaction.acknowledged = transaction.acknowledged, []
                batch.flush.acknowledged.setdefault(transaction.commit_lsn, []).extend(done)
                collected.append((transaction, done))
        if lsn == reader.confirmed and not batch.flush:
            self._backlog.is_written(batch)
            return
        try:
            await self._write(self._store.flush, lsn, batch.flush)
        except Exception as exc:
            self._backlog.is_not_written(batch)
            self._counts = counts | self._counts
            for transaction, done in collected:
                transaction.acknowledged[:0] = done
            if isinstance(exc, sqlite3.Error) and batch.flush.kept:  # The disk may be full; deleting delivered rows may free some space.
                await self._write(self._store.flush, reader.confirmed, Flush(done=batch.flush.done))
            raise
        self._backlog.is_written(batch)
        if stream is not None:
            reader.confirm(lsn)
