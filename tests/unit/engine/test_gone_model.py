"""Endpoints that answer 410 while their sinks are created, changed, and deleted: the real engine and API compared with a simple model.

Time, the wire, and the disk thread are simulated. Each sink has an owner who makes one call at a time; meanwhile its URL may answer 410 at
any point of a call. `USERHOOKS_MODEL_SEED=…` repeats one run and prints its trace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.unit.engine import simulated
from tests.unit.engine.simulated import Answer, Clock, DiskThread, Wire
from tests.unit.engine.wal import TYPES, insert
from userhooks.engine import engine, flusher, housekeeping, sink_registry
from userhooks.engine.apps import management_app
from userhooks.engine.capture.confirmable_lsn import Progress
from userhooks.engine.capture.transactions import Stream
from userhooks.engine.delivery.http_client import OriginKey
from userhooks.engine.engine import Engine
from userhooks.engine.resources import Column, Table
from userhooks.engine.startup import Config

RUNS = 50
CALLS = 12
SETTLED_WITHIN = 20.0
"""Simulated seconds, after the last call and the last disk failure, within which every sink must have its final status."""
GIVEN = os.environ.get("USERHOOKS_MODEL_SEED")
TOKEN = "token"
TABLE = Table("public", "notes", (Column("id", 23, -1),), ("id",), "d")
RELATION = b"R" + struct.pack(">I", 7) + b"public\0notes\0d" + struct.pack(">H", 1) + b"\1id\0" + struct.pack(">Ii", 23, -1)


async def _nothing() -> None:
    """Do nothing, in place of methods that need a real Postgres."""


class SimulatedEngine(Engine):
    """The engine on a simulated disk and wire; the simulated Postgres answers every query with the end of its WAL."""

    def __init__(self, run: Run) -> None:
        self.run = run
        loop = asyncio.get_running_loop()
        disk = DiskThread(loop, seconds=run.disk_seconds, fails=lambda: run.full, done=lambda *_: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "StoreThread", lambda: disk)
            patch.setattr(engine, "HttpClient", lambda **_: Wire(run, timeout=4.0, places=100))
            super().__init__(Config(7376, 8376, TOKEN, "postgresql://u@h/d", Path(":memory:")), rng=run.rng)
        self.admin.ask = self._ask  # type: ignore[method-assign]
        self.tables.refresh = self._read_tables  # type: ignore[method-assign]
        self.reader.connect = self.reader.run = _nothing  # type: ignore[method-assign]
        self.tables.knows_types.set()
        self.catalog.tables["public", "notes"] = TABLE
        self.reader.stream = Stream(Progress(100), self.reader._router, self.catalog.tables, TYPES, {}, lambda _: None)
        self.reader.stream.take(RELATION)

    async def _ask(self, _question: Any) -> Any:
        await asyncio.sleep(self.run.rng.uniform(0.0, 0.2))
        return self.run.end

    async def _read_tables(self) -> None:
        await asyncio.sleep(self.run.rng.uniform(0.0, 0.2))


class Owner:
    """One sink as its owner knows it, according to the calls that succeeded."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.exists = False
        self.status = "active"
        self.batch_size = 1
        self.host = ""
        self.since = 0.0
        """start of the call that last set the status; earlier responses of the URL no longer count"""
        self.excused = False
        """whether an earlier URL of the sink answered 410, which may have paused it"""

    async def call(self, method: str, path: str, body: Any = None) -> bool:
        """Make a call; return False if it was refused because the store is full, in which case nothing has changed."""
        answer = await self.run.http.request(method, f"/api/{path}", json=body)
        self.run.record(self.name, method, path, body, answer.status_code)
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    def new_host(self) -> str:
        return f"{self.name}-{self.run.rng.randrange(10**6)}"

    async def step(self) -> None:
        """Make a random call, then check the sink."""
        rng, began = self.run.rng, self.run.clock.now
        roll = rng.random()
        if not self.exists:
            await self.create()
        elif roll < 0.35:
            if await self.call("DELETE", f"sinks/{self.name}"):
                self.exists = False
        elif roll < 0.6:
            size = rng.randrange(1, 50)
            if await self.call("PATCH", f"sinks/{self.name}", {"batch_size": size}):
                self.batch_size = size
        elif roll < 0.8:
            status = rng.choice(["active", "paused"])
            if await self.call("PATCH", f"sinks/{self.name}", {"status": status}):
                self.status, self.since, self.excused = status, began, False
        else:
            host = self.new_host()
            if await self.call("PATCH", f"destinations/http_endpoints/{self.name}", {"url": f"http://{host}/"}):
                self.excused = self.is_gone
                self.host = host
        await self.check()

    async def create(self) -> None:
        host, began = self.new_host(), self.run.clock.now
        method, path = ("PATCH", f"/{self.name}") if self.host else ("POST", "")
        if not await self.call(method, f"destinations/http_endpoints{path}", {"name": self.name, "url": f"http://{host}/"}):
            return
        self.host = host
        body = {"name": self.name, "database": "postgres", "source": {"include_tables": ["public.notes"]}}
        if await self.call("POST", "sinks", {**body, "destination": {"type": "webhook", "http_endpoint": self.name}}):
            self.exists, self.status, self.batch_size, self.since, self.excused = True, "active", 1, began, False

    @property
    def is_gone(self) -> bool:
        return self.excused or any(self.since <= at <= self.run.clock.now for at in self.run.gone[self.host])

    async def shown(self) -> dict[str, Any] | None:
        answer = await self.run.http.get(f"/api/sinks/{self.name}")
        return answer.json() if answer.status_code == 200 else None

    async def check(self) -> dict[str, Any] | None:
        shown = await self.shown()
        assert (shown is not None) == self.exists, f"{self.name} {'still exists after its deletion' if shown else 'no longer exists'}"
        if shown is not None:
            assert shown["batch_size"] == self.batch_size, f"{self.name} lost a change: {shown['batch_size']}, not {self.batch_size}"
            if shown["status"] != self.status:
                assert shown["status"] == "paused", f"{self.name} is {shown['status']}, but was set to {self.status}"
                assert self.is_gone, f"{self.name} was paused, but its current URL has not answered 410"
        return shown

    async def check_at_last(self) -> None:
        """Check that a sink whose URL answers 410 is paused, even if the store was full at first."""
        shown = await self.check()
        if shown is not None and self.status == "active" and self.host in self.run.gone_hosts:
            assert shown["status"] == "paused", f"{self.name} is {shown['status']}, but its URL answers 410"


class Run:
    """Owners, receivers, and a disk, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        self.trace: list[str] = []
        self.end = 100
        self.full = False
        self.slow = rng.choice([0.01, 0.3, 1.0])
        self.gone_hosts: set[str] = set()
        self.kept_hosts: set[str] = set()
        self.gone: dict[str, list[float]] = defaultdict(list)
        """host -> times at which it answers 410"""
        self.over = False

    def record(self, *items: object) -> None:
        self.trace.append(f"{self.clock.now - 1000:9.3f} " + " ".join(map(str, items)))

    # the simulated environment

    def connecting(self, key: OriginKey) -> tuple[float, str]:
        return 0.001, ""

    def request(self, key: OriginKey, request: bytes) -> Answer:
        host = key[1]
        if host not in self.gone_hosts | self.kept_hosts:
            (self.gone_hosts if self.rng.random() < 0.6 else self.kept_hosts).add(host)
        is_gone = host in self.gone_hosts
        after = self.rng.choice([0.001, 0.1, 0.5])
        if is_gone:
            self.gone[host].append(self.clock.now + after)
        self.record(host, "is asked, answers", 410 if is_gone else 200, "after", after)
        return Answer(after, 410 if is_gone else 200)

    def disk_seconds(self) -> float:
        return self.rng.uniform(0.0, self.slow)

    async def commit_now_and_then(self) -> None:
        while not self.over:
            await asyncio.sleep(self.rng.choice([0.05, 0.5]))
            self.commit()

    def commit(self) -> None:
        lsn, self.end = self.end, self.end + 20
        begin, commit = b"B" + struct.pack(">QqI", lsn, 0, lsn), b"C\0" + struct.pack(">QQq", lsn, self.end, 0)
        assert self.engine.reader.stream is not None
        for payload in (begin, insert(7, [b"%d" % lsn]), commit):
            self.engine.reader.stream.take(payload)

    async def own(self, owner: Owner) -> None:
        for _ in range(CALLS):
            await owner.step()
            await asyncio.sleep(self.rng.choice([0.0, 0.1, 1.0]))

    async def fill_the_disk_now_and_then(self) -> None:
        while not self.over:
            await asyncio.sleep(self.rng.uniform(0.0, 3.0))
            self.full = self.rng.random() < 0.3
            self.record("disk", "full" if self.full else "well")

    async def live(self) -> None:
        self.engine = engine = SimulatedEngine(self)
        await engine.start()
        transport = httpx.ASGITransport(management_app(engine))
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7376", headers=headers) as self.http:
            owners = [Owner(self, f"sink-{n}") for n in range(self.rng.choice([1, 3]))]
            around = [asyncio.create_task(self.commit_now_and_then()), asyncio.create_task(self.fill_the_disk_now_and_then())]
            try:
                await asyncio.gather(*(self.own(owner) for owner in owners))
            finally:
                self.over = True
                await asyncio.gather(*around)
            self.full = False
            self.commit()
            self.record("the last row is committed")
            await asyncio.sleep(SETTLED_WITHIN)
            for owner in owners:
                await owner.check_at_last()


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run(seed)

    def now() -> float:
        return run.clock.now

    for module in (flusher, housekeeping, sink_registry):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now, perf_counter=now))
    try:
        simulated.run(run.clock, run.live())
    except BaseException as exc:
        trace = "\n".join(run.trace[-200:])
        exc.add_note(f"USERHOOKS_MODEL_SEED={seed}; its trace:\n{trace if GIVEN else '(run it alone to read it)'}")
        raise
    return run


@pytest.fixture(autouse=True)
def in_a_separate_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_410_pauses_its_sink_and_neither_revives_one_nor_undoes_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    first = int(GIVEN) if GIVEN else random.randrange(10**9)
    print(f"seeds from {first}")
    runs = [play(seed, monkeypatch) for seed in ([first] if GIVEN else range(first, first + RUNS))]
    if not GIVEN:
        assert sum(len(run.gone_hosts) for run in runs) > RUNS
