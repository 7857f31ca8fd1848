"""Deliveries, backlog, and store compared with a model, over hundreds of random runs with a simulated clock and wire.

A run draws sinks, transactions, receivers, disks, and failures from its seed. `Ledger` is the model and knows nothing of the engine: it
records commits, requests, responses, and flushes, and checks what may be sent and what must have been delivered.
`USERHOOKS_MODEL_SEED=… pytest tests/unit/engine/test_delivery_model.py` repeats one run and prints its trace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import struct
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from tests.unit.engine import simulated
from tests.unit.engine.simulated import Answer, Clock, DiskThread, MemoryStore, Wire
from tests.unit.engine.wal import TYPES, insert, update
from userhooks.engine.capture.confirmable_lsn import Progress
from userhooks.engine.capture.transactions import Stream
from userhooks.engine.change import Change
from userhooks.engine.delivery import pending_message
from userhooks.engine.delivery.circuit_breaker import DOWN_AFTER
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.http_client import OriginKey
from userhooks.engine.delivery.latency_histogram import HistogramPool
from userhooks.engine.delivery.pending_message import MemoryBudget
from userhooks.engine.delivery.retry import RetrySchedule
from userhooks.engine.delivery.sink_delivery import Attempt, SinkDelivery
from userhooks.engine.delivery.sink_history import Histories
from userhooks.engine.engine import Engine
from userhooks.engine.flusher import Flusher
from userhooks.engine.functions import Bound, bind_column_filters
from userhooks.engine.message_format import SinkForm
from userhooks.engine.resources import Column, ColumnFilter, HttpEndpoint, SinkResource, SinkTable, Table
from userhooks.engine.routing import Route, Router

RUNS = 500
STEPS = 16
SCHEDULE = RetrySchedule(base=0.2, cap=12.0, last=7)
TIMEOUT = 4.0
DRAINED_WITHIN = 120.0
"""Simulated seconds within which everything must be delivered once failures stop: the longest wait plus what is queued behind it."""
GIVEN = os.environ.get("USERHOOKS_MODEL_SEED")

TABLE = Table("public", "notes", (Column("id", 23, -1), Column("owner", 23, -1)), ("id",), "d")
RELATION = b"R" + struct.pack(">I", 7) + b"public\0notes\0d" + struct.pack(">H", 2)
RELATION += b"".join(b"%b\0" % name + struct.pack(">Ii", 23, -1) for name in (b"\1id", b"\0owner"))
EVERYTHING = ("insert", "update", "delete")


# --- the model: what may and must be sent -----------------------------------------------------------------------------------


class Due:
    """A change that must be delivered to a sink.

    `groups` has two items if the change moves its row to another group. `free`: its order is no longer guaranteed, since it was redelivered
    on request or dropped while in flight.
    """

    __slots__ = (
        "attempts",
        "free",
        "groups",
        "idx",
        "lsn",
        "moving",
        "not_before",
        "noted",
        "noted_attempts",
        "promised",
        "sink",
        "status",
    )

    def __init__(self, sink: int, lsn: int, idx: int, groups: tuple[object, ...]) -> None:
        self.sink = sink
        self.lsn = lsn
        self.idx = idx
        self.groups = groups
        self.status = "owed"  # owed, delivered, discarded, dropped
        self.noted = False
        self.attempts = self.promised = self.noted_attempts = 0
        self.not_before = 0.0
        self.moving = self.free = False

    def __repr__(self) -> str:
        return f"{self.sink}:{self.lsn}.{self.idx}{list(self.groups)} {self.status}"


class Account:
    """One sink in the ledger."""

    def __init__(self, sink: SinkResource) -> None:
        self.sink = sink
        self.queues: dict[object, list[Due]] = defaultdict(list)
        self.moving: dict[object, int] = {}
        self.requests = 0
        self.misses = 0
        self.gone = False
        self.start = 0
        self.address = self.life = 0
        self.largest = sink.batch_size


class Ledger:
    """The model: which changes are pending, in flight, delivered, or discarded, and which of these states survive a kill."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.accounts: dict[int, Account] = {}
        self.dues: dict[tuple[int, int, int], Due] = {}
        self.moving: dict[Any, tuple[Account, list[Due], int, int]] = {}
        self.unrepeated: dict[Any, bytes] = {}
        self.written: dict[bytes, int] = defaultdict(int)
        self.changed: list[Due] = []
        self.trace: list[str] = []
        self.repeats = self.sent = 0

    def record(self, *items: object) -> None:
        self.trace.append(f"{self.clock.now - 1000:9.3f} " + " ".join(map(str, items)))

    # commits and calls

    def owe(self, number: int, lsn: int, idx: int, groups: tuple[object, ...]) -> None:
        due = Due(number, lsn, idx, groups)
        self.dues[number, lsn, idx] = due
        for group in groups:
            self.accounts[number].queues[group].append(due)

    def configured(self, number: int, sink: SinkResource) -> None:
        """Apply new settings of a sink; messages in backoff may be sent at once."""
        account = self.accounts[number]
        account.address += sink.endpoint_id != account.sink.endpoint_id
        account.sink = sink
        account.largest = max(account.largest, sink.batch_size)
        account.misses = 0
        account.gone = False
        self._hurry(number)

    def _hurry(self, number: int) -> None:
        for due in self.dues.values():
            if due.sink == number:
                due.not_before = 0.0

    def dropped(self, number: int) -> None:
        """Disable a sink: drop its pending messages; requests in flight may finish, but are not retried."""
        account = self.accounts[number]
        account.life += 1
        for due in self.dues.values():
            if due.sink == number and due.status == "owed":
                due.status = "dropped"
                due.free = False
        account.queues.clear()

    def again(self, number: int, rows: Sequence[tuple[int, int]]) -> None:
        """Make discarded messages pending again, behind all others."""
        for lsn, idx in rows:
            due = self.dues[number, lsn, idx]
            assert due.status in ("discarded", "dropped"), f"{due} was not discarded"
            due.status = "owed"
            due.free = True
            due.noted = False
            due.attempts = due.promised = due.noted_attempts = 0
            due.not_before = 0.0

    # requests and responses

    def sends(self, attempt: Any, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        account = self.accounts[int(head.split(b" ", 2)[1].rpartition(b"/")[2])]
        sink = account.sink
        document = orjson.loads(body)
        messages = document["data"] if sink.batch else [document]
        dues = [self._due(account, m["metadata"]["commit_lsn"], m["metadata"]["commit_idx"]) for m in messages]
        self.record("sends", sink.name, dues)
        assert sink.status == "active", f"{sink.name} is {sink.status} and sends {dues}"
        assert not account.gone, f"{sink.name} got 410 and sends {dues}"
        assert len(dues) <= account.largest, f"{len(dues)} messages in a batch of at most {account.largest}"
        assert account.misses < DOWN_AFTER or not account.requests, f"{sink.name} is down and has two requests in flight"
        places: dict[object, int] = defaultdict(int)
        for due in dues:
            assert due.status == "owed" or due.free, f"{due} is sent again"
            assert due.status == "dropped" or self.clock.now >= due.not_before - 1e-6, (
                f"{due} is sent {due.not_before - self.clock.now} s too early"
            )
            assert due.groups or not due.moving, f"{due} is in flight twice"
            for group in due.groups:
                assert group not in account.moving, f"two batches of group {group} are in flight: {dues}"
                if not due.free:
                    place = places[group]
                    places[group] += 1
                    queue = account.queues[group]
                    assert queue[place] is due, f"{due} overtakes {queue[place]}"
        account.moving.update({group: 1 for due in dues for group in due.groups})
        account.requests += 1
        for due in dues:
            due.moving = True
        self.moving[attempt] = (account, dues, account.life, account.address)
        self.unrepeated[attempt] = request
        self.written[request] += 1
        self.sent += len(dues)

    def sends_again(self, attempt: Any) -> None:
        """Record that an attempt's request is repeated: at most once, and only if the sink has not changed since."""
        account, dues, life, address = self.moving[attempt]
        self.record("repeats", account.sink.name, dues)
        assert attempt in self.unrepeated, f"{dues} are repeated twice within one attempt"
        assert account.sink.status == "active", f"{account.sink.name} is {account.sink.status} and repeats {dues}"
        assert (account.life, account.address) == (life, address), f"{account.sink.name} has changed and repeats {dues}"
        assert not account.gone, f"{account.sink.name} got 410 and repeats {dues}"
        self.written[self.unrepeated.pop(attempt)] += 1

    def _due(self, account: Account, lsn: int, idx: int) -> Due:
        """Return a sink's change; one from before the sink was enabled may be sent if it was read and stored while enabling."""
        key = int(account.sink.id), lsn, idx
        if key not in self.dues:
            assert lsn < account.start, f"no sink must get {key}"
            due = self.dues[key] = Due(*key, ())
            due.status, due.free = "dropped", True
        return self.dues[key]

    def arrived(self, request: bytes) -> None:
        """Record that a receiver got a request, which must be one that a sink has just sent."""
        assert self.written[request] > 0, "a request was sent or repeated without a sink sending it"
        self.written[request] -= 1

    def answered(self, attempt: Any, status: int | None, retry_after: float | None) -> None:
        account, dues, life, address = self.moving.pop(attempt)
        self.unrepeated.pop(attempt, None)
        self.record("answer", status, retry_after, dues)
        account.requests -= 1
        for due in dues:
            due.moving = False
            for group in due.groups:
                account.moving.pop(group, None)
        if status is not None and 200 <= status < 300:
            if account.misses >= DOWN_AFTER:
                self._hurry(int(account.sink.id))
            account.misses = 0
            for due in dues:
                self._close(account, due, "delivered")
            return
        if life != account.life:
            return
        if address == account.address:
            account.misses += attempt.is_new
            account.gone = account.gone or status == 410
        else:  # sent to the previous URL
            retry_after = None
        wait = SCHEDULE.wait(dues[0].attempts + 1 if len(dues) == 1 else 1, 0.0)
        asked = 0.0 if retry_after is None else min(retry_after, SCHEDULE.cap)
        for due in dues:
            due.not_before = self.clock.now + max(wait, asked)
        if len(dues) == 1:
            due, most = dues[0], account.sink.max_retry_count
            due.attempts += 1
            due.promised = due.attempts
            self.changed.append(due)
            if most is not None and due.attempts >= most:
                self._close(account, due, "discarded")

    def _close(self, account: Account, due: Due, status: str) -> None:
        if due.status == "owed":
            due.status = status
            for group in () if due.free else due.groups:
                account.queues[group].remove(due)
            self.changed.append(due)

    # flushes

    def snapshot(self) -> list[tuple[Due, str, int]]:
        """Return what the next flush must save; the attempts of a message in flight are saved after its next failure."""
        return [(due, due.status, due.noted_attempts if due.moving else due.promised) for due in self.changed]

    def noted(self, snapshot: list[tuple[Due, str, int]]) -> None:
        """Record that a flush was committed."""
        for due, status, attempts in snapshot:
            if due.status == status:
                due.noted = status != "owed"
                due.noted_attempts = max(attempts, due.noted_attempts)
        self.changed = [due for due in self.changed if (due.status != "owed" and not due.noted) or due.promised != due.noted_attempts]

    def compare(self, store: MemoryStore, *, killed: bool) -> None:
        """Compare the store with the ledger: nothing is lost or doubled. After a kill, states that were not saved are undone."""
        confirmed, acknowledged = store.confirmed_lsn(), store.acknowledged()
        kept = defaultdict(list)
        for one in store.read_backlog([row for row, _ in store.backlog()], 10**9)[0]:
            kept[one.sink, one.lsn, one.idx].append(one.attempts)
        given_up = {(n, k.lsn, k.idx) for n in self.accounts for k, _, _ in store.read_discarded(n, 10**6)}
        for key, due in self.dues.items():
            on_disk = kept.pop(key, [])
            in_wal = due.lsn >= confirmed and (due.idx, due.sink) not in acknowledged.get(due.lsn, ())
            waits = len(on_disk) + in_wal
            if due.status == "dropped":
                due.free = due.free or (killed and waits > 0)
                continue
            assert waits <= 1, f"{due} is pending twice: {on_disk} in the store, in the WAL: {in_wal}"
            assert not (waits and key in given_up), f"{due} is discarded and pending"
            if due.status == "owed":
                assert waits == 1, f"{due} is lost: confirmed up to {confirmed}"
            if due.noted:
                assert waits == 0, f"{due} was saved as {due.status} but is pending again"
            if due.status == "discarded":
                assert waits or key in given_up, f"{due} was discarded but is not stored"
            if not killed:
                continue
            if waits and due.status != "owed":
                account = self.accounts[due.sink]
                if account.sink.status == "disabled" or due.lsn < account.start:
                    due.status, due.free = "dropped", True
                    continue
                self.repeats += due.status == "delivered"
                due.status = "owed"
            kept_attempts = on_disk[0] if on_disk else 0
            if waits:
                assert due.noted_attempts <= kept_attempts <= due.attempts, (
                    f"{due} has failed {due.attempts} times, {due.noted_attempts} of them before the last flush; {kept_attempts} are stored"
                )
                due.attempts = due.promised = due.noted_attempts = kept_attempts
            due.noted = not waits
        for number, lsn, idx in kept:  # stored while the sink was being enabled, although committed before
            account = self.accounts[number]
            if account.sink.status != "disabled":
                self._due(account, lsn, idx)
        if killed:
            for due in self.dues.values():
                due.moving = False
                due.not_before = 0.0
            self.changed.clear()
            self.moving.clear()
            self.unrepeated.clear()
            self.written.clear()
            for account in self.accounts.values():
                account.moving.clear()
                account.requests = account.misses = 0
                account.gone = False
                account.queues.clear()
            for due in self.dues.values():  # in commit order
                if due.status == "owed" and not due.free:
                    for group in due.groups:
                        self.accounts[due.sink].queues[group].append(due)


# --- one lifetime of the engine -----------------------------------------------------------------------------------------------


class WatchedDelivery(SinkDelivery):
    """A delivery that reports each request and its outcome to the ledger, even if the request never reaches the wire."""

    life: Life

    def next_request(self) -> tuple[bytes, Attempt] | None:
        made = super().next_request()
        if made is not None and not self.life.dead:
            self.life.ledger.sends(made[1], made[0])
        return made

    def may_repeat(self, attempt: Attempt) -> bool:
        may = super().may_repeat(attempt)
        if may and not self.life.dead:
            self.life.ledger.sends_again(attempt)
        return may

    def answered(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        if not self.life.dead:
            self.life.ledger.answered(attempt, status, retry_after)
        super().answered(attempt, status, error, retry_after)


class Life:
    """The engine from start to stop or kill, with the real flushes and shutdown, but without Postgres, sockets, or threads."""

    close = Engine.close

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ledger = run.ledger
        self.loop = asyncio.get_running_loop()
        self._main: Any = asyncio.current_task()
        self.dead = False
        self.problems: list[BaseException] = []
        self.loop.set_exception_handler(self._problem)
        self._store = run.store
        self._disk = DiskThread(self.loop, seconds=run.disk_seconds, fails=run.disk_fails, done=self._job_done)
        self._store_thread = self._disk
        self._client = Wire(run, timeout=TIMEOUT, places=run.places)
        self._snapshot: list[tuple[Due, str, int]] = []
        knows_types = asyncio.Event()
        knows_types.set()
        self._backlog = Backlog(self._store, self._disk.write, knows_types=knows_types, on_gone=self._gone, on_caught_up=lambda _: None)
        self.router = Router()
        self.load = MemoryBudget(self._read_on, messages=(run.high, run.high // 2), size=(run.high_size, run.high_size // 2))
        confirmed = self._store.confirmed_lsn()
        stream = Stream(Progress(confirmed), self.router, {("public", "notes"): TABLE}, TYPES, self._store.acknowledged(), lambda _: None)
        self.reader = SimpleNamespace(stream=stream, confirmed=confirmed, confirm=self._confirm, close=_nothing)
        self.backfills = self.admin = SimpleNamespace(close=_nothing)
        self.tables = SimpleNamespace(close=lambda: None)
        self._reading = False
        self._next = next((i for i, (lsn, _) in enumerate(run.wal) if lsn >= confirmed), len(run.wal))
        self.deliveries = Deliveries()
        reader: Any = self.reader
        self.flusher = Flusher(self._store, self._disk.write, reader=reader, deliveries=self.deliveries, backlog=self._backlog)
        for number, sink in run.sinks.items():
            self.deliveries[sink.id] = one = WatchedDelivery(
                sink,
                run.endpoints[sink.endpoint_id],
                FORM,
                number,
                client=self._client,
                budget=self.load,
                schedule=SCHEDULE,
                rng=run.rng,
                disk=self._backlog,
                latencies=HistogramPool(),
                histories=Histories(),
            )
            one.life = self
            if sink.status != "disabled":
                self.route(number, run.starts[number])
        self._backlog.restore_shapes(TYPES)
        waiting: dict[int, array[int]] = {}
        for row, number in self._store.backlog():
            waiting.setdefault(number, array("q")).append(row)
        given_up = self._store.discarded_count()
        for one in self.deliveries.values():
            one.discarded = given_up.get(one.queue.number, 0)
            rows = waiting.get(one.queue.number, ())
            if one.sink.status == "disabled":
                self._backlog.done(rows)
            else:
                one.restore(rows)
        stream.take(RELATION)
        self._tasks = [self.loop.create_task(self._flush_now_and_then())]
        self._read_on()

    def _problem(self, _: Any, context: dict[str, Any]) -> None:
        """Fail the run because of an exception in a callback."""
        if not self.dead:
            self.problems.append(context.get("exception") or AssertionError(context["message"]))
            self._main.cancel()  # it may be waiting for the failed callback

    # reading

    def route(self, number: int, start_lsn: int) -> None:
        sink = self.run.sinks[number]
        bound = self.run.filters[number]
        self.router.add(Route(sink.id, self.deliveries[sink.id], sink.source, sink.actions, start_lsn, bound, None))
        self.deliveries[sink.id].queue.filter = (lambda _: True) if bound is None else bound.accepts

    def _read_on(self) -> None:
        """Schedule the next read, unless memory is full or everything is read."""
        if not self._reading and not self.load.is_full and self._next < len(self.run.wal):
            self._reading = True
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        self._reading = False
        if not self.load.is_full and self._next < len(self.run.wal) and not self.dead:
            _, payloads = self.run.wal[self._next]
            self._next += 1
            for payload in payloads:
                self.reader.stream.take(payload)
            self._read_on()

    # flushing

    def _confirm(self, lsn: int) -> None:
        assert lsn == self._store.confirmed_lsn(), f"the slot is confirmed up to {lsn}, but the store up to {self._store.confirmed_lsn()}"
        self.reader.confirmed = lsn

    async def _flush_now_and_then(self) -> None:
        looked = self.loop.time()
        while True:
            await asyncio.sleep(self.run.rng.choice(self.run.flush_seconds))
            try:
                await self.flush()
            except sqlite3.Error as exc:
                self.ledger.record("flush failed:", exc)
            if self.loop.time() - looked > 1.0:
                looked = self.loop.time()
                self.flusher.note_position(looked)
                for one in self.deliveries.pending():
                    one.notice_slowness()

    async def flush(self) -> None:
        """Flush; responses received before the flush must be saved afterwards."""
        self._snapshot = snapshot = self.ledger.snapshot()
        await self.flusher.flush()
        if not self.dead:
            self.ledger.noted(snapshot)

    def _job_done(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if function == self._store.take_discarded:
            self.ledger.again(*self._again)
        if function == self._store.flush:
            lsn, batch = args
            whole = bool(batch.kept or batch.acknowledged or batch.attempts or batch.discarded) or lsn > self.reader.confirmed
            self.ledger.record("flushed", lsn, f"stored {len(batch.kept)} done {len(batch.done)} discarded {len(batch.discarded)}")
            if whole:
                self.ledger.noted(self._snapshot)
            if self.run.rng.random() < self.run.dies:
                self.run.ledger.record("killed after a commit")
                self.kill()

    def _gone(self, one: SinkDelivery) -> None:
        def pause() -> None:
            sink = self.run.sinks[one.queue.number]
            if sink.status == "active":
                self.configure(one.queue.number, status="paused")

        self.loop.call_later(0.05, pause)

    # API calls

    def configure(self, number: int, **changes: Any) -> None:
        if self.dead:
            return
        sink = self.run.sinks[number] = replace(self.run.sinks[number], **changes)
        self.ledger.record("configures", sink.name, changes)
        self.ledger.configured(number, sink)
        self.deliveries[sink.id].configure(sink, self.run.endpoints[sink.endpoint_id], FORM)

    def disable(self, number: int) -> None:
        """Disable a sink as `SinkRegistry.save_sink` does."""
        sink = self.run.sinks[number]
        self.router.remove(sink.id)
        self.configure(number, status="disabled")
        self.ledger.dropped(number)
        self.deliveries[sink.id].drop()

    async def enable(self, number: int) -> None:
        """Enable a sink as `SinkRegistry.save_sink` does: first route its changes, then ask for the end of the WAL."""
        sink = self.run.sinks[number]
        one = self.deliveries[sink.id]
        one.hold()
        before = self.run.starts[number]
        self.route(number, 0)
        await asyncio.sleep(self.run.rng.random())
        if self.dead:
            return
        self.run.starts[number] = self.ledger.accounts[number].start = max(before, self.run.end)
        self._store.save(self.run.sinks[number], start_lsn=self.run.starts[number])
        self.configure(number, status="active")
        self.route(number, self.run.starts[number])
        one.release(self.run.starts[number])

    async def redeliver(self, number: int) -> None:
        if self.run.sinks[number].status == "disabled":  # the API refuses this
            return
        found = [(k.id, k.lsn, k.idx) for k, _, _ in self._store.read_discarded(number, 10**6)]
        one = self.deliveries[str(number)]
        if found:
            self.ledger.record("redelivers", found)
            self._again = number, [(lsn, idx) for _, lsn, idx in found]
            with suppress(sqlite3.Error):
                assert await self._backlog.redeliver(one, [i for i, _, _ in found]) == len(found)

    # the end

    def kill(self) -> None:
        """Kill the process: nothing that happens from now on has an effect outside it."""
        if not self.dead and asyncio.current_task() is not self._main:
            self._main.cancel()  # it may be waiting for something that will never happen
        self.dead = self._disk.dead = True

    def check(self) -> None:
        if self.problems:
            raise self.problems[0]


FORM = SinkForm(
    {"id": "c", "name": "c", "annotations": {}}, {"id": "d", "name": "d", "hostname": "h", "database": "d", "annotations": {}}, "iso8601"
)


async def _nothing() -> None:
    """Do nothing, in place of parts that do not exist here."""


# --- one run ------------------------------------------------------------------------------------------------------------------

MODES = {  # how receivers respond: weights of the cases in `Run.request`
    "well": {"ok": 1.0},
    "slow": {"ok": 0.5, "late": 0.5},
    "flaky": {"ok": 0.6, "500": 0.2, "429": 0.05, "hangs up": 0.1, "late": 0.05},
    "down": {"500": 0.8, "429": 0.1, "hangs up": 0.1},
    "hangs": {"hangs": 0.9, "ok": 0.1},
    "refuses": {"ok": 1.0},
    "gone": {"410": 0.3, "ok": 0.7},
}


class Run:
    """Random steps drawn from a seed; each kill or stop starts a new life of the engine."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.lives = self.steps = 0
        self.is_over = False
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        self.ledger = Ledger(self.clock)
        self.store = MemoryStore()
        self.wal: list[tuple[int, list[bytes]]] = []
        self.end = 100
        self.store.set_confirmed(100)
        self.places = rng.choice([4, 12, 200])
        self.high = rng.choice([4, 20, 1000])
        self.flush_seconds = rng.choice([(0.05,), (0.05, 0.3), (0.05, 0.5, 2.0)])
        self.dies = rng.choice([0.0, 0.0, 0.05])
        self.disk = "well"
        self.slow_disk = rng.random() < 0.3
        self.poison: set[tuple[int, int]] = set()
        self.poisonous = rng.choice([0.0, 0.0, 0.1])
        self.healed = False
        self.endpoints = {str(i): HttpEndpoint(str(i), f"e{i}", "http", f"receiver-{i}", 80) for i in range(3)}
        self.modes = {f"receiver-{i}": rng.choice(list(MODES)) if rng.random() < 0.5 else "well" for i in range(3)}
        self.sinks: dict[int, SinkResource] = {}
        self.starts: dict[int, int] = {}
        self.filters: dict[int, Bound | None] = {}
        for number in range(1, rng.choice([1, 2, 4]) + 1):
            self._make_sink(number)
        self.high_size = rng.choice([40, 400, 10**6])
        self.windows = {
            "WINDOW": rng.choice([2, 4, 10, 1000]),
            "WINDOW_BYTES": rng.choice([1, 100, 10**6]),
            "LEAST_WINDOW": rng.choice([1, 2]),
            "ALL_WINDOWS": rng.choice([1, 1000]),
            "ALL_WINDOWS_BYTES": rng.choice([100, 10**6]),
        }
        self.limits = {
            "sink_delivery.SLOW_FROM_MESSAGES": rng.choice([2, 1000]),
            "sink_delivery.SLOW_FROM_BYTES": (room := rng.choice([1, 100, 10**6])),
            "sink_delivery.IN_FLIGHT_BYTES": room,
            "retry_queue.FULL_AT_BYTES": room,
            "pending_queue.LARGE_BYTES": rng.choice([1, 10**6]),
            "pending_queue.WAITING_PER_GROUP": rng.choice([1, 3, 100]),
            "retry_queue.FULL_AT_BATCHES": rng.choice([1, 3, 1000]),
            "sink_delivery.IN_FLIGHT_PER_SINK": rng.choice([1, 3, 50]),
        }

    def _make_sink(self, number: int) -> None:
        rng = self.rng
        by = rng.choice(["row", "row", "owner", "nothing"])
        size = rng.choice([1, 1, 3, 10])
        sink = SinkResource(
            str(number),
            f"sink-{number}",
            rng.choice(list(self.endpoints)),
            path=f"/{number}",
            batch=size > 1 or rng.random() < 0.5,
            batch_size=size,
            tables=(SinkTable(("public", "notes"), ("owner",)),) if by == "owner" else (),
            message_grouping=by != "nothing",
            max_retry_count=rng.choice([None, None, 1, 2, 4]),
        )
        assert self.store.save(sink, start_lsn=0) == number
        self.sinks[number] = sink
        self.starts[number] = 0
        wanted = rng.choice([None, None, 1])
        self.filters[number] = None if wanted is None else bind_column_filters([ColumnFilter("owner", "==", float(wanted))])
        self.ledger.accounts[number] = Account(sink)

    # the simulated environment

    def connecting(self, key: OriginKey) -> tuple[float, str]:
        return self.rng.choice([0.001, 0.02]), "the connection was refused" if self.modes[key[1]] == "refuses" else ""

    def request(self, key: OriginKey, request: bytes) -> Answer:
        if self.life.dead:
            return Answer(None)
        assert b"\r\nhost: %b" % key[1].encode() in request, "a request reached the wrong host"
        self.ledger.arrived(request)
        rng = self.rng
        if self.healed:
            return Answer(0.01)
        if self.poison and any(b'"commit_lsn":%d,' % lsn in request and b'"commit_idx":%d,' % idx in request for lsn, idx in self.poison):
            return Answer(0.01, 500)
        ways = MODES[self.modes[key[1]]]
        match rng.choices(list(ways), list(ways.values()))[0]:
            case "ok":
                return Answer(rng.choice([0.001, 0.01, 0.2]), rng.choice([200, 200, 204]))
            case "late":
                return Answer(rng.uniform(0.5, TIMEOUT + 1))
            case "429":
                return Answer(0.01, 429, retry_after=rng.choice([0, 1, 5, 100]))
            case "hangs up":
                return Answer(rng.choice([0.0, 0.5]), None)
            case "hangs":
                return Answer(None)
            case code:
                return Answer(rng.choice([0.001, 0.3]), int(code))

    def disk_seconds(self) -> float:
        return self.rng.uniform(0.0, 1.5 if self.slow_disk and not self.healed else 0.01)

    def disk_fails(self) -> bool:
        return self.disk == "full" or (self.disk == "flaky" and self.rng.random() < 0.4)

    # steps

    def commit(self) -> None:
        rng = self.rng
        lsn, self.end = self.end, self.end + 20
        payloads = [b"B" + struct.pack(">QqI", lsn, 0, lsn)]
        for idx in range(rng.choice([1, 1, 2, 5, 12])):
            row, owner = rng.randrange(5), rng.randrange(3)
            before = (rng.randrange(5), rng.randrange(3)) if rng.random() < 0.3 else (row, owner)
            new = [b"%d" % row, b"%d" % owner]
            payloads.append(insert(7, new) if before == (row, owner) else update(7, new, [b"%d" % value for value in before]))
            if rng.random() < self.poisonous:
                self.poison.add((lsn, idx))
            for number, sink in self.sinks.items():
                if sink.status == "disabled" or (self.filters[number] is not None and owner != 1):
                    continue
                groups = {before[1], owner} if sink.tables else {before[0], row}
                self.ledger.owe(number, lsn, idx, tuple(groups) if sink.message_grouping else ())
        payloads.append(b"C\0" + struct.pack(">QQq", lsn, self.end, 0))
        self.wal.append((lsn, payloads))
        self.ledger.record("commits", lsn, len(payloads) - 2)
        self.life._read_on()

    async def step(self) -> bool:
        """Do one random step; return whether this life continues."""
        rng, life = self.rng, self.life
        number = rng.choice(list(self.sinks))
        sink = self.sinks[number]
        roll = rng.random()
        if roll < 0.45:
            self.commit()
        elif roll < 0.60:
            host = rng.choice(list(self.modes))
            self.modes[host] = rng.choice(list(MODES)) if rng.random() < 0.6 else "well"
            self.ledger.record(host, "now", self.modes[host])
        elif roll < 0.68 and sink.status != "disabled":
            life.configure(number, status="paused" if sink.status == "active" else "active")
        elif roll < 0.75 and sink.status != "disabled":
            changes: dict[str, Any] = {"endpoint_id": rng.choice(list(self.endpoints))}
            if sink.batch:
                changes["batch_size"] = rng.choice([1, 2, 10])
            changes["max_retry_count"] = rng.choice([None, 1, 3])
            life.configure(number, **changes)
        elif roll < 0.78:
            if sink.status == "disabled":
                await life.enable(number)
            else:
                life.disable(number)
        elif roll < 0.83:
            self.disk = rng.choice(["well", "well", "flaky", "full"])
            self.ledger.record("disk", self.disk)
        elif roll < 0.87:
            await life.redeliver(number)
        elif roll < 0.90:
            life.deliveries[sink.id].queue.filter_again()
        elif roll < 0.94:
            self.ledger.record("killed")
            life.kill()
        elif roll < 0.96:
            self.ledger.record("stops")
            await self.stop()
            return False
        await asyncio.sleep(rng.choice([0.0, 0.01, 0.2, 1.0, rng.uniform(0, 10)]))
        life.check()
        return not life.dead

    async def stop(self) -> None:
        """Shut down as the program does on SIGTERM."""
        await self.life.close()  # type: ignore[misc]
        self.life.kill()

    async def live(self) -> None:
        """Run one life, until the next kill or stop or until nothing is pending at the end of the run."""
        self.lives += 1
        self.rng.seed(f"{self.seed}, life {self.lives}")  # independent of how many numbers the end of the last life drew
        self.life = life = Life(self)
        try:
            while self.steps < STEPS:
                self.steps += 1
                if not await self.step():
                    break
            else:
                await self.drain()
                self.is_over = True
        except asyncio.CancelledError:
            pass
        finally:
            life.kill()
        life.check()

    async def drain(self) -> None:
        """Stop all failures and resume all sinks, then check that everything is delivered and nothing is left behind."""
        self.healed, self.disk, self.dies = True, "well", 0.0
        self.modes = dict.fromkeys(self.modes, "well")
        life, began = self.life, self.clock.now
        for number, sink in self.sinks.items():
            if sink.status == "paused":
                life.configure(number, status="active")
        self.ledger.record("drains")
        while not self.is_drained():
            assert self.clock.now - began < DRAINED_WITHIN, f"not drained: {str(self.left())[:2000]}"
            await asyncio.sleep(0.5)
            life.check()
        self.ledger.compare(self.store, killed=False)

    def is_drained(self) -> bool:
        return self.store.confirmed_lsn() == self.end and not any(self.left())

    def left(self) -> list[Any]:
        deliveries = [d for d in self.life.deliveries.values() if d.sink.status == "active"]
        return [
            [due for due in self.ledger.dues.values() if due.status == "owed" and self.sinks[due.sink].status == "active"],
            self.life.load.waiting,
            [(d.queue.number, d.queue.count) for d in deliveries if d.queue.count],
            [(d.queue.number, d.in_flight, d.retrying) for d in deliveries if d.in_flight or d.retrying],
            [(d.queue.number, dict(d.queue.groups)) for d in deliveries if d.queue.groups],
            [d.queue.number for d in deliveries if d.queue.spill.in_use],
            [(row, number) for row, number in self.store.backlog() if self.sinks[number].status == "active"],
            [d.queue.number for d in deliveries if d.discarded != len(self.store.read_discarded(d.queue.number, 10**6))],
        ]

    def play(self) -> None:
        """Run lives until the run is over."""
        while not self.is_over:
            simulated.run(self.clock, self.live())
            self.ledger.compare(self.store, killed=True)


def _hash_of(attempt: Attempt) -> int:
    """Return a deterministic hash, so that the order of a set does not depend on memory addresses."""
    first: Change = attempt.messages[0].change
    return hash((attempt.started, first.commit_lsn, first.commit_idx))


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run(seed)
    monkeypatch.setattr(Attempt, "__hash__", _hash_of)
    for name, value in run.limits.items():
        monkeypatch.setattr(f"userhooks.engine.delivery.{name}", value)
    for name, value in run.windows.items():
        monkeypatch.setattr(pending_message, name, value)
    try:
        run.play()
    except BaseException as exc:
        trace = "\n".join(run.ledger.trace[-1500:])
        exc.add_note(f"USERHOOKS_MODEL_SEED={seed}; its trace:\n{trace if GIVEN else '(run it alone to read it)'}")
        raise
    return run


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a temporary folder, and do not log the errors of a disk that is full a thousand times."""
    monkeypatch.chdir(tmp_path)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def seeds() -> Iterator[int]:
    """Yield the seed from the environment, or `RUNS` seeds starting at a random one."""
    first = int(GIVEN) if GIVEN else random.randrange(10**9)
    print(f"seeds from {first}")
    yield from [first] if GIVEN else range(first, first + RUNS)


def test_nothing_is_lost_repeated_or_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [play(seed, monkeypatch).ledger for seed in seeds()]
    if not GIVEN:
        assert sum(ledger.sent for ledger in runs) > 10 * RUNS
        assert sum(ledger.repeats for ledger in runs) > RUNS // 10
        assert sum(due.status == "discarded" for ledger in runs for due in ledger.dues.values()) > RUNS // 10


def test_a_seed_gives_the_same_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = next(seeds())
    assert play(seed, monkeypatch).ledger.trace == play(seed, monkeypatch).ledger.trace


def quiet(size: int = 1, **sink: Any) -> Run:
    """Return a run with one sink and no failures."""
    run = Run(0)
    run.dies, run.disk, run.slow_disk, run.high, run.flush_seconds, run.places = 0.0, "well", False, 10**6, (0.05,), 200
    run.poison, run.poisonous, run.modes = set(), 0.0, dict.fromkeys(run.modes, "well")
    run.sinks = {1: replace(run.sinks[1], endpoint_id="0", batch=True, batch_size=size, tables=(), message_grouping=True, **sink)}
    run.filters = {1: None}
    run.ledger.accounts = {1: Account(run.sinks[1])}
    return run


def test_attempts_are_as_far_apart_as_the_schedule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    run = quiet(max_retry_count=9)
    sent: list[float] = []
    monkeypatch.setattr(run, "request", lambda *_: [sent.append(run.clock.now), Answer(0.0, 500)][1])

    async def live() -> None:
        run.life = life = Life(run)
        run.commit()
        await asyncio.sleep(600)
        life.check()
        assert life.deliveries["1"].discarded == len(run.ledger.dues)
        life.kill()

    monkeypatch.setattr(run.rng, "choice", lambda options: options[0])  # one change
    simulated.run(run.clock, live())
    waits = [later - earlier for earlier, later in pairwise(sent)]
    bounds = [(SCHEDULE.wait(n, 0.0), SCHEDULE.wait(n, 1.0)) for n in range(1, 9)]
    assert len(waits) == len(bounds)
    assert all(least - 1e-6 <= wait <= most + 0.06 for wait, (least, most) in zip(waits, bounds, strict=True)), (waits, bounds)
