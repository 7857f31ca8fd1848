"""Environment that all torture tests share: a Postgres server, the engine, a receiver, sinks, and a monitor of their resources."""

from __future__ import annotations

import random
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.engine_program import FILTER, EngineProgram
from tests.ports import free_port
from tests.torture.judge import Kill, Sink, Verdict, judge
from tests.torture.load import Change
from tests.torture.receiver import ReceiverProgram
from tests.waiting import eventually
from userhooks.shared.percentiles import nearest_rank
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

PUBLICATION = "torture_pub"
_FUNCTION = "functions:\n  - name: rows-of-user\n    type: filter\n    code: |-\n" + "".join(f"      {x}\n" for x in FILTER.splitlines())


@dataclass
class Outcome:
    """Result of a part: figures, and descriptions of faults. A part without faults has passed."""

    title: str
    seed: int
    figures: dict[str, str]
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{self.title} (seed {self.seed})", *(f"  {name:<{width}}  {value}" for name, value in self.figures.items())]
        return "\n".join(lines + [f"  FAULT: {fault}" for fault in self.faults])


class Lab:
    """One run; `sinks` are those that the judge checks."""

    def __init__(self, folder: Path, server: PostgresServer, receiver: ReceiverProgram, engine: EngineProgram) -> None:
        self.server = server
        self.receiver = receiver
        self.engine = engine
        self.url = server.url()
        self.folder = folder
        self.sinks: list[Sink] = []
        self.kills: list[Kill] = []

    def sink(self, sink: Sink, *, port: int | None = None, **fields: Any) -> None:
        """Create a sink at the receiver's first origin, or at another port."""
        if sink.group == "user":
            fields["tables"] = [{"name": "public.notifications", "group_column_names": ["user_id"]}]
        if sink.user is not None:
            fields |= {"filter": "rows-of-user", "annotations": {"user_id": str(sink.user)}}
        self.engine.sink(f"sink-{sink.number}", f"http://127.0.0.1:{port or self.receiver.ports[0]}/{sink.number}", **fields)
        self.sinks.append(sink)

    def kill_engine(self) -> None:
        """Kill the engine with SIGKILL, and wait until the receiver has recorded everything in flight."""
        killed_at = time.monotonic()
        self.engine.kill()
        self.receiver.settle()
        self.kills.append(Kill(killed_at, time.monotonic()))

    def sql(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query on a new connection."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def owed(self, committed: Sequence[Change], sinks: Sequence[Sink] | None = None) -> int:
        """Return how many messages these sinks (all by default) must receive."""
        total: dict[int | None, int] = {None: len(committed)}
        for change in committed:
            total[change.user] = total.get(change.user, 0) + 1
        return sum(total.get(sink.user, 0) for sink in (self.sinks if sinks is None else sinks))

    def await_all(self, committed: Sequence[Change], within: float, sinks: Sequence[Sink] | None = None) -> float:
        """Wait until these sinks (all by default) have received everything, for at most `within` seconds; returns the seconds waited."""
        started = time.monotonic()
        expected = self.owed(committed, sinks)
        numbers = None if sinks is None else [sink.number for sink in sinks]
        with suppress(AssertionError):  # the judge reports what is missing
            eventually(lambda: self.receiver.distinct(numbers) >= expected, within=within, every=0.05)
        return time.monotonic() - started

    def judge(self, committed: Sequence[Change]) -> Verdict:
        """Compare everything that arrived with what was committed."""
        return judge(committed, self.sinks, self.receiver.arrivals(), self.kills)

    def latencies(self, sinks: Sequence[Sink], start: int = 0) -> list[float]:
        """Return the sorted seconds from commit to receipt of these sinks' messages, ignoring the first `start` arrivals overall."""
        numbers = {sink.number for sink in sinks}
        return sorted(arrival.latency for arrival in self.receiver.arrivals(start) if arrival.sink in numbers)


def milliseconds(latencies: Sequence[float]) -> str:
    """Format the p50 and p99 of sorted seconds as milliseconds."""
    if not latencies:
        return "-"
    return f"p50 {nearest_rank(latencies, 50) * 1000:.1f} ms, p99 {nearest_rank(latencies, 99) * 1000:.1f} ms (n={len(latencies):,})"


@contextmanager
def lab(*, users: int, seed: int, **config: Any) -> Iterator[Lab]:
    """Set up an environment with users 1 to `users`, and remove it afterward; `config` is passed to the engine."""
    with tempfile.TemporaryDirectory(prefix="userhooks-torture-") as path:
        folder = Path(path)
        server = PostgresServer(folder, port=free_port(), password=secrets.token_hex(16), log=folder / "postgres.log")
        receiver: ReceiverProgram | None = None
        engine: EngineProgram | None = None
        try:
            server.start()
            Database(server.url()).set_up(PUBLICATION)
            receiver = ReceiverProgram(folder, seed=random.Random(seed).randrange(1 << 30))
            engine = EngineProgram(server.url(), folder, publication=PUBLICATION, **config).start()
            run = Lab(folder, server, receiver, engine)
            run.sql("insert into users (name) select 'user ' || n from generate_series(4, %s) n", users)
            engine.ask("POST", "/api/config/apply", {"yaml": _FUNCTION})
            yield run
        finally:
            if engine is not None:
                engine.stop()
            if receiver is not None:
                receiver.close()
            server.remove()


class Watch:
    """Context manager that samples the engine's memory, the WAL kept by its slot, and the size of its store."""

    def __init__(self, lab: Lab, *, every: float = 0.25) -> None:
        self.memory = self.wal = self.unconfirmed = self.store = 0
        self._lab = lab
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._cpu_before = self._cpu()
        self._started = time.monotonic()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.sample()

    def sample(self) -> None:
        """Take one sample of everything that is available."""
        with suppress(psutil.Error):
            self.memory = max(self.memory, int(psutil.Process(self._lab.engine.pid).memory_info().rss))
        with suppress(psycopg.OperationalError):
            for retained, unconfirmed in self._lab.sql(
                "select pg_current_wal_lsn() - restart_lsn, pg_current_wal_lsn() - confirmed_flush_lsn from pg_replication_slots"
            ):
                self.wal = max(self.wal, int(retained or 0))
                self.unconfirmed = max(self.unconfirmed, int(unconfirmed or 0))
        self.store = max(self.store, store_size(self._lab))

    def _cpu(self) -> float:
        times = psutil.Process(self._lab.engine.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def cpu(self) -> float:
        """Return the share of one core that the engine has used since the watch started; meaningless if the engine was restarted."""
        return (self._cpu() - self._cpu_before) / (time.monotonic() - self._started)

    def figures(self) -> dict[str, str]:
        """Return the figures as text, by name."""
        return {
            "engine memory, peak": f"{self.memory / 1e6:.0f} MB",
            "WAL kept by the slot, peak": f"{self.wal / 1e6:.1f} MB ({self.unconfirmed / 1e6:.1f} MB unconfirmed)",
            "store size, peak": f"{self.store / 1e6:.1f} MB",
        }


def store_size(lab: Lab) -> int:
    """Return the size of the store in bytes, including SQLite's additional files."""
    total = 0
    for path in lab.folder.glob("engine.db*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
