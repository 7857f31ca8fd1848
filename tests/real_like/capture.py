"""The reading of the slot as a real Sequin does it: a change to any sink makes it restart, rows cost more the more sinks there are, new
sinks miss what comes first and are sent what came before them, and too much for too many sinks brings it down until they are fewer.
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
"""What stops replication for good, as it is in the WAL, which is read again after each restart"""
_STOPS_BACKFILLS = sql.SQL("select exists (select from {} row where row::text ~ '-infinity|24:00:00')")
"""Whether a table has a value at which a backfill neither goes on nor fails"""


class Past:
    """The changes of the last seconds, which a restart reads again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changes: deque[tuple[float, Change]] = deque()

    def note(self, change: Change) -> None:
        """Keep a change, and forget those that are too old."""
        now = time.monotonic()
        self._changes.append((now, change))
        while self._changes[0][0] < now - self._seconds:
            self._changes.popleft()

    def before(self, lsn: int) -> list[Change]:
        """Return what is kept and was committed before that LSN."""
        oldest = time.monotonic() - self._seconds
        return [change for at, change in self._changes if at >= oldest and change.commit_lsn < lsn]


def remember(past: Past) -> None:
    """Note every change that is matched against the sinks."""
    match = TableRoutes.match

    def noting(self: TableRoutes, change: Change) -> Any:
        past.note(change)
        return match(self, change)

    TableRoutes.match = noting  # type: ignore[method-assign]


class SentAgain:
    """What a message that the slot does not owe was read from."""

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Nothing waits for it."""

    def release(self) -> None:
        """Nothing waits for it."""


class RealLikeReader(SlotReader):
    """Reads the slot, but stands still after each change to a sink, and while there is too much to do."""

    manners: ClassVar[Manners]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._still_until = 0.0
        self._debt = 0.0
        self._paid_at = 0.0
        self._burst = 0
        self.stuck = False
        self.stopped = False
        super().__init__(*args, **kwargs)

    @property
    def is_busy(self) -> bool:
        """Whether the server has more to do than it can."""
        return self.stuck or self.stopped or time.monotonic() < self._still_until

    def stand_still(self, seconds: float) -> None:
        """Read nothing for a while."""
        self._still_until = max(self._still_until, time.monotonic() + seconds)
        self._throttle()

    def relieve(self) -> None:
        """There are fewer sinks: perhaps it can go on."""
        if self.stuck and self.manners.fits(len(self._catalog.sinks)):
            self.stuck = False
            self._burst = 0
            self.stand_still(self.manners.restart(len(self._catalog.sinks)) * 4)

    def _throttle(self) -> None:
        left = self._still_until - time.monotonic()
        if self._slot_stream is None or not (self.stuck or self.stopped or left > 0):
            super()._throttle()
            return
        self._slot_stream.pause()
        if not (self.stuck or self.stopped):
            asyncio.get_running_loop().call_later(left + 0.002, self._throttle)  # a timer may come a little early

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
            self.stand_still(self._debt)


class RealLikeBackfills(Backfills):
    """Backfills that start late, and stop at values that a real server cannot read."""

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
    """Completes backfills late."""

    manners: ClassVar[Manners]

    async def _read_all(self, run: Any, stream: Any) -> BackfillResource:
        ended = await super()._read_all(run, stream)
        await asyncio.sleep(self.manners.backfill_counts)
        return ended


class RealLikeRegistry(SinkRegistry):
    """Sinks whose changes make replication restart, and that are live late."""

    manners: ClassVar[Manners]
    past: ClassVar[Past]
    reader: RealLikeReader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._still_sending: dict[str, SinkResource] = {}
        self._applied: deque[float] = deque(maxlen=50)
        """when functions were applied"""
        self.unseen: set[str] = set()
        """sinks that replication does not know yet, by id"""
        self._later: set[asyncio.Task[None]] = set()
        super().__init__(*args, **kwargs)

    async def _restarted(self) -> None:
        """A change to any sink: replication restarts, and only now what was disabled is."""
        self.reader.stand_still(self.manners.restart(len(self._catalog.sinks)))
        self.reader.relieve()
        while self._still_sending:
            _, sink = self._still_sending.popitem()
            if self._catalog.sinks.get(sink.id) == sink:
                self._catalog.sinks[sink.id] = self._deliveries[sink.id].sink
                await super().save_sink(sink)

    async def save_sink(self, sink: SinkResource) -> None:
        before = self._catalog.sinks.get(sink.id)
        if before is not None and before.status == "active" and sink.status == "disabled":
            self._catalog.sinks[sink.id] = self._still_sending[sink.id] = sink
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
        just_applied = sum(at > time.monotonic() - 1.0 for at in self._applied)
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
                delivery.owe(PendingMessage(change, SentAgain(), delivery.queue.group_of(change)))

    def close(self) -> None:
        """Nothing becomes live any more."""
        for task in self._later:
            task.cancel()


class RealLikeMonitor(Monitor):
    """Shows sinks that replication does not know yet as initializing."""

    registry: RealLikeRegistry

    def health(self, sink: SinkResource) -> dict[str, Any]:
        shown = super().health(sink)
        if sink.id in self.registry.unseen:
            waiting = [{"name": check["name"], "status": "waiting"} for check in shown["checks"][1:]]
            return {**shown, "status": "initializing", "checks": [{**shown["checks"][0], "status": "initializing"}, *waiting]}
        return shown


class RealLikeEngine(Engine):
    """The engine made of these parts."""

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
