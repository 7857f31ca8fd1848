"""Reading of the slot as in a real Sequin.

A change to any sink restarts replication, and each row takes longer the more sinks there are. New sinks miss the first rows and get some
older ones. A large burst for many sinks stalls replication until there are fewer sinks.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from psycopg import AsyncConnection, sql

from tests.real_like.manners import Manners
from userhooks.engine.backfill.backfill_runner import BackfillRunner
from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.change import Change
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.engine import Engine
from userhooks.engine.monitor import Monitor
from userhooks.engine.resources import BackfillResource, FunctionResource, HttpEndpoint, SinkResource
from userhooks.engine.routing import TableRoutes
from userhooks.engine.sink_registry import SinkRegistry

_ROWS = b"IUD"
_ARRAY_WITH_BOUNDS = re.compile(rb"\[-?\d+:-?\d+\]=\{")
"""A value in the WAL that stops replication for good, since the WAL is read again after each restart."""
_STOPS_BACKFILLS = sql.SQL("select exists (select from {} row where row::text ~ '-infinity|24:00:00')")
"""Query for whether a table has a value that stalls a backfill without an error."""


class Past:
    """The changes of the last few seconds, which are read again after a restart."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changes: deque[tuple[float, Change]] = deque()

    def record(self, change: Change) -> None:
        """Record a change, and drop those that are too old."""
        now = time.monotonic()
        self._changes.append((now, change))
        while self._changes[0][0] < now - self._seconds:
            self._changes.popleft()

    def before(self, lsn: int) -> list[Change]:
        """Return the recorded changes that were committed before an LSN."""
        oldest = time.monotonic() - self._seconds
        return [change for recorded_at, change in self._changes if recorded_at >= oldest and change.commit_lsn < lsn]


def remember(past: Past) -> None:
    """Record every change that is matched against the sinks."""
    match = TableRoutes.match

    def recording_match(self: TableRoutes, change: Change) -> Any:
        past.record(change)
        return match(self, change)

    TableRoutes.match = recording_match  # type: ignore[method-assign]


class Resent:
    """Source of a message that does not hold the slot; stands in for its transaction."""

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Nothing waits for it."""

    def release(self) -> None:
        """Nothing waits for it."""


class RealLikeReader(SlotReader):
    """Slot reader that pauses after each change to a sink, and while it is overloaded."""

    manners: ClassVar[Manners]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._paused_until = 0.0
        self._debt = 0.0
        self._paid_at = 0.0
        self._burst = 0
        self.stuck = False
        self.stopped = False
        super().__init__(*args, **kwargs)

    @property
    def is_busy(self) -> bool:
        """Whether the server is paused or overloaded."""
        return self.stuck or self.stopped or time.monotonic() < self._paused_until

    def pause_for(self, seconds: float) -> None:
        """Pause reading for a while."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
        self._throttle()

    def resume_if_relieved(self) -> None:
        """Resume after a stall if there are now few enough sinks."""
        if self.stuck and self.manners.fits(len(self._catalog.sinks)):
            self.stuck = False
            self._burst = 0
            self.pause_for(self.manners.restart(len(self._catalog.sinks)) * 4)

    def _throttle(self) -> None:
        remaining = self._paused_until - time.monotonic()
        if self._slot_stream is None or not (self.stuck or self.stopped or remaining > 0):
            super()._throttle()
            return
        self._slot_stream.pause()
        if not (self.stuck or self.stopped):
            asyncio.get_running_loop().call_later(remaining + 0.002, self._throttle)  # a timer may come a little early

    def _take(self, payload: bytes) -> None:
        if payload[0] in _ROWS and _ARRAY_WITH_BOUNDS.search(payload):
            self.stopped = True
        if self.stopped:
            self._throttle()
            return
        super()._take(payload)
        if payload[0] not in _ROWS:
            return
        sinks = len(self._catalog.sinks)
        now = time.monotonic()
        self._debt -= now - self._paid_at
        self._paid_at = now
        if self._debt < 0:
            self._debt, self._burst = 0.0, 0
        self._debt += self.manners.row(sinks)
        self._burst += 1
        if self.manners.overwhelmed(sinks, self._burst):
            self.stuck = True
            self._throttle()
        elif self._debt > 0.02:
            self.pause_for(self._debt)


class RealLikeBackfills(Backfills):
    """Backfills that start late, and stall at values that a real server cannot read."""

    manners: ClassVar[Manners]
    rng: ClassVar[random.Random]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known: set[str] = set()
        self._starting: set[asyncio.Task[None]] = set()
        super().__init__(*args, **kwargs)

    def _run(self, backfill: BackfillResource) -> None:
        if backfill.id in self._known:
            super()._run(backfill)
            return
        self._known.add(backfill.id)
        task = asyncio.create_task(self._run_late(backfill, self.manners.backfill_starts(self.rng)))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _run_late(self, created: BackfillResource, delay: float) -> None:
        await asyncio.sleep(delay)

        async def stops(connection: AsyncConnection[Any]) -> bool:
            cursor = await connection.execute(_STOPS_BACKFILLS.format(sql.Identifier(*created.table)))
            row = await cursor.fetchone()
            return row is not None and row[0]

        if await self._admin.ask(stops):
            return
        backfill = self._catalog.backfills.get(created.id)
        if backfill is not None and backfill.state == "active":
            super()._run(backfill)

    async def close(self) -> None:
        for task in self._starting:
            task.cancel()
        await super().close()


class RealLikeRunner(BackfillRunner):
    """Backfill runner that completes backfills late."""

    manners: ClassVar[Manners]

    async def _read_all(self, run: Any, stream: Any) -> BackfillResource:
        ended = await super()._read_all(run, stream)
        await asyncio.sleep(self.manners.backfill_counts)
        return ended


class RealLikeRegistry(SinkRegistry):
    """Registry in which changing a sink restarts replication, and new sinks go live late."""

    manners: ClassVar[Manners]
    past: ClassVar[Past]
    reader: RealLikeReader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._not_yet_disabled: dict[str, SinkResource] = {}
        self._applied: deque[float] = deque(maxlen=50)
        """Times at which functions were applied."""
        self.unseen: set[str] = set()
        """IDs of the sinks that replication does not know yet."""
        self._later: set[asyncio.Task[None]] = set()
        super().__init__(*args, **kwargs)

    async def _restarted(self) -> None:
        """Restart replication after a change to a sink; only now do disabled sinks stop sending."""
        self.reader.pause_for(self.manners.restart(len(self._catalog.sinks)))
        self.reader.resume_if_relieved()
        while self._not_yet_disabled:
            _, sink = self._not_yet_disabled.popitem()
            if self._catalog.sinks.get(sink.id) == sink:
                self._catalog.sinks[sink.id] = self._deliveries[sink.id].sink
                await super().save_sink(sink)

    async def save_sink(self, sink: SinkResource) -> None:
        before = self._catalog.sinks.get(sink.id)
        if before is not None and before.status == "active" and sink.status == "disabled":
            self._catalog.sinks[sink.id] = self._not_yet_disabled[sink.id] = sink
            return
        await self._restarted()
        await super().save_sink(sink)

    async def create(self, endpoints: Sequence[HttpEndpoint], sinks: Sequence[SinkResource]) -> None:
        await super().create(endpoints, sinks)
        await self._restarted()

    async def delete_sinks(self, sink_ids: Sequence[str]) -> None:
        await super().delete_sinks(sink_ids)
        await self._restarted()

    async def save_function(self, function: FunctionResource) -> None:
        await super().save_function(function)
        self._applied.append(time.monotonic())
        await self._restarted()

    def _live_from(self, sink: SinkResource, start_lsn: int) -> None:
        self.unseen.add(sink.id)
        just_applied = sum(applied_at > time.monotonic() - 1.0 for applied_at in self._applied)
        task = asyncio.create_task(self._live_late(sink, start_lsn, self.manners.unseen(just_applied)))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _live_late(self, sink: SinkResource, created_lsn: int, delay: float) -> None:
        await asyncio.sleep(delay)
        later_lsn = await self._wal_end()
        self.unseen.discard(sink.id)
        present = self._catalog.sinks.get(sink.id)
        if present is None or present.status == "disabled":
            return
        super()._live_from(present, later_lsn)
        delivery = self._deliveries[sink.id]
        for change in self.past.before(created_lsn):
            if delivery.queue.filter(change):
                delivery.owe(PendingMessage(change, Resent(), delivery.queue.group_of(change)))

    def close(self) -> None:
        """Let no more sinks go live."""
        for task in self._later:
            task.cancel()


class RealLikeMonitor(Monitor):
    """Monitor that shows sinks as initializing until replication knows them."""

    registry: RealLikeRegistry

    def health(self, sink: SinkResource) -> dict[str, Any]:
        health = super().health(sink)
        if sink.id in self.registry.unseen:
            waiting_checks = [{"name": check["name"], "status": "waiting"} for check in health["checks"][1:]]
            return {**health, "status": "initializing", "checks": [{**health["checks"][0], "status": "initializing"}, *waiting_checks]}
        return health


class RealLikeEngine(Engine):
    """The engine, assembled from these parts."""

    manners: ClassVar[Manners]
    reader: RealLikeReader
    registry: RealLikeRegistry
    monitor: RealLikeMonitor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.registry.reader = self.reader
        self.monitor.registry = self.registry

    async def close(self) -> None:
        self.registry.close()
        await super().close()
