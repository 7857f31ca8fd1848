"""What is measured with a crowd: webhooks per second, messages in batches, latency at a steady rate, what N users cost.

Rates run from the first commit to the last receipt. CPU times are the operating system's, of whole processes. Everything can be stopped
at any moment; rows stay until the crowd is closed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from userhooks.capacity.card import Card, Point
from userhooks.lessons.generator import progress_shown
from userhooks.shared.percentiles import nearest_rank

if TYPE_CHECKING:
    import psycopg

    from userhooks.capacity.load_users import LoadUsers

PER_TRANSACTION = 1000
PATIENCE = 30.0
"""Seconds without a single message after which a measurement is given up"""
MANY = 100
"""Users above which their sinks are not changed for a measurement in batches"""
_TICKS = 100
"""Transactions per second, at most, of a steady rate"""
_SETTLED_SECONDS = 0.3

_INSERT = """
    INSERT INTO public.notifications (user_id, message)
    SELECT (%(users)s::int[])[1 + (n - %(first)s) %% %(count)s], 'Notification ' || n FROM generate_series(%(first)s::int, %(last)s::int) n
"""


@dataclass(frozen=True)
class Throughput:
    """How fast `messages` came; CPU in microseconds per message of each program, None for one that is not ours."""

    messages: int
    requests: int
    seconds: float
    engine_us: float | None
    postgres_us: float | None
    receiver_us: float | None

    @property
    def per_second(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds

    def __repr__(self) -> str:
        cpu = "" if self.engine_us is None else f", {self.engine_us:.0f} µs CPU of the engine for each"
        return f"Throughput({self.messages:,} messages in {self.requests:,} requests, {self.per_second:,.0f} a second{cpu})"


@dataclass(frozen=True)
class Latency:
    """Milliseconds from commit to receipt of `count` rows, written at `rate` rows a second."""

    count: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Iterable[float], rate: float) -> Latency:
        """Make it of single latencies in seconds; percentiles by nearest rank."""
        values = sorted(latency * 1000 for latency in seconds)
        return cls(len(values), rate, nearest_rank(values, 50), nearest_rank(values, 99), values[-1])

    def __repr__(self) -> str:
        return f"Latency({self.count:,} rows at {self.rate:g}/s: p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms)"


def throughput(crowd: LoadUsers, rows: int, *, batch_size: int = 1, users: list[int] | None = None) -> Throughput:
    """Insert rows for the crowd's users, or for these, in turn as fast as Postgres takes them, and time their webhooks; up to `batch_size`
    per request.

    Raises DeliveriesMissing when nothing comes for half a minute.
    """
    crowd.batch(batch_size)
    crowd.counter.reset()
    programs = {"engine": crowd.engine_pid, "postgres": crowd.postgres_pid, "receiver": crowd.counter.pid}
    before = {name: cpu_seconds(pid) for name, pid in programs.items()}
    with crowd.stack.database.connect() as connection:
        connection.autocommit = True
        began = time.time()
        for first in range(0, rows, PER_TRANSACTION):
            insert(connection, users or crowd.users, first, min(rows, first + PER_TRANSACTION))
    count = crowd.counter.wait_for(rows, PATIENCE)
    used = {name: _difference(cpu_seconds(pid), before[name], rows) for name, pid in programs.items()}
    return Throughput(count.messages, count.requests, count.last - began, used["engine"], used["postgres"], used["receiver"])


def latency(crowd: LoadUsers, rate: float = 100, seconds: float = 5, *, progress: Callable[[int], object] | None = None) -> Latency:
    """Insert rows for the crowd's users in turn at a steady rate, and time each from commit to receipt.

    Up to 100 a second each is a transaction of its own; of more, what is due in a hundredth of a second is one.
    """
    crowd.batch(1)
    crowd.counter.reset(latencies=True)
    with progress_shown(progress, int(rate * seconds), "rows") as show:
        rows = write_steadily(crowd, rate, seconds, show)
    crowd.counter.wait_for(rows, PATIENCE)
    return Latency.of((latency for _, latency in crowd.counter.latencies()), rate)


def write_steadily(crowd: LoadUsers, rate: float, seconds: float, show: Callable[[int], object], users: list[int] | None = None) -> int:
    """Insert rows at a steady rate, for the crowd's users or for these, in turn; returns how many. What is overdue is caught up."""
    per_tick = max(1, round(rate / _TICKS))
    rows = int(rate * seconds)
    with crowd.stack.database.connect() as connection:
        connection.autocommit = True
        began = time.monotonic()
        for first in range(0, rows, per_tick):
            time.sleep(max(0.0, began + first / rate - time.monotonic()))
            insert(connection, users or crowd.users, first, min(rows, first + per_tick))
            show(min(rows, first + per_tick))
    return rows


def scale(
    crowd: LoadUsers, users: Iterable[int], *, rows: int = 20_000, rate: float = 1000, seconds: float = 5, runs: int = 2
) -> Iterator[Point]:
    """Grow the crowd to each of these numbers of users, and yield the cost of each as soon as it is measured.

    Throughput is that of the fastest of `runs`, since other work on the machine can only slow a run down. Latency is measured in half as
    many runs, at least one, and the median by p99 counts. For an even number of runs, that is the slower of the middle two.
    """
    for number in users:
        began = time.monotonic()
        crowd.grow(number)
        created = time.monotonic() - began
        settle(crowd)
        one = min((throughput(crowd, rows) for _ in range(runs)), key=lambda run: run.seconds)
        delays = sorted((latency(crowd, rate, seconds) for _ in range(max(1, runs // 2))), key=lambda run: run.p99_ms)
        delay = delays[len(delays) // 2]
        yield Point(number, created, one.per_second, one.engine_us, delay.p50_ms, delay.p99_ms, rate, memory_mb(crowd.engine_pid))


def capacity_card(crowd: LoadUsers, *, rows: int = 20_000, rate: float = 100, seconds: float = 5) -> Card:
    """Measure what this machine delivers to the crowd as it is; takes `seconds` and some more."""
    settle(crowd)
    one = throughput(crowd, rows)
    # A real Sequin is not asked for hundreds: to change its sinks after a burst makes it read the burst again.
    in_batches = crowd.engine_pid is not None and len(crowd.users) <= MANY
    many = throughput(crowd, 2 * rows, batch_size=100) if in_batches else None
    delay = latency(crowd, rate, seconds)
    memory = memory_mb(crowd.engine_pid)
    return Card(
        machine=machine(),
        versions=versions(crowd),
        users=len(crowd.users),
        webhooks_per_second=one.per_second,
        batched_per_second=None if many is None else many.per_second,
        rate=rate,
        p50_ms=delay.p50_ms,
        p99_ms=delay.p99_ms,
        engine_us=one.engine_us,
        engine_mb=memory,
    )


def settle(crowd: LoadUsers) -> None:
    """Send a row to each user, and a thousand at least, so that nothing is measured that happens once: connections, first webhooks."""
    rows = max(1000, len(crowd.users))
    crowd.counter.reset()
    with crowd.stack.database.connect() as connection:
        insert(connection, crowd.users, 0, rows)
    crowd.counter.wait_for(rows, PATIENCE)
    time.sleep(_SETTLED_SECONDS)


def insert(connection: psycopg.Connection[object], users: list[int], first: int, last: int) -> None:
    """Insert the rows numbered from `first` to before `last`, for the users in turn, with one statement."""
    # Only those whose turn it is: to hand over ten thousand each time would take as much of the processor as the engine does.
    their_turn = [users[n % len(users)] for n in range(first, min(last, first + len(users)))]
    connection.execute(_INSERT, {"users": their_turn, "count": len(their_turn), "first": first, "last": last - 1})


def cpu_seconds(pid: int | None) -> float | None:
    """Return the CPU seconds of a process and its children, including those that have exited; None without a process."""
    import psutil

    if pid is None:
        return None
    root = psutil.Process(pid)
    used = root.cpu_times()
    total = used.user + used.system + getattr(used, "children_user", 0.0) + getattr(used, "children_system", 0.0)
    for child in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)


def memory_mb(pid: int | None) -> float | None:
    """Memory of a process in MB (resident set); None without a process."""
    import psutil

    return None if pid is None else psutil.Process(pid).memory_info().rss / 1e6


def machine() -> str:
    """The machine in a few words."""
    import psutil

    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB"


def versions(crowd: LoadUsers) -> str:
    """Python, Postgres and Sequin in a few words."""
    with crowd.stack.database.connect() as connection:
        postgres = connection.info.server_version
    sequin = "the local engine" if crowd.engine_pid is not None else f"Sequin {crowd.stack.sequin.version()}"
    return f"Python {platform.python_version()}, Postgres {postgres // 10000}.{postgres % 10000}, {sequin}"


def _difference(after: float | None, before: float | None, messages: int) -> float | None:
    return None if after is None or before is None else (after - before) / messages * 1e6
