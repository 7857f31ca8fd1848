"""Measurements with load users: webhooks per second, messages in batches, latency at a steady rate, and the cost of N users.

Rates are measured from the start of the first insert to the last receipt. CPU times are those of whole processes, as reported by the
operating system. Every measurement can be interrupted; its rows are kept until `LoadUsers.close` removes them.
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
"""Seconds without a message after which a measurement is abandoned."""
MANY = 100
"""Number of users above which batches are not measured, because setting the batch size changes every sink."""
_TICKS = 100
"""Maximum transactions per second at a steady rate."""
_SETTLED_SECONDS = 0.3

_INSERT = """
    INSERT INTO public.notifications (user_id, message)
    SELECT (%(users)s::int[])[1 + (n - %(first)s) %% %(count)s], 'Notification ' || n FROM generate_series(%(first)s::int, %(last)s::int) n
"""


@dataclass(frozen=True)
class Throughput:
    """Rate at which `messages` were delivered, and each program's CPU time per message in microseconds, None for an external program."""

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
        cpu = "" if self.engine_us is None else f", {self.engine_us:.0f} µs engine CPU per message"
        return f"Throughput({self.messages:,} messages in {self.requests:,} requests, {self.per_second:,.0f}/s{cpu})"


@dataclass(frozen=True)
class Latency:
    """Milliseconds from commit to receipt of `count` rows, written at `rate` rows per second."""

    count: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Iterable[float], rate: float) -> Latency:
        """Summarize latencies in seconds; percentiles are by nearest rank."""
        values = sorted(latency * 1000 for latency in seconds)
        return cls(len(values), rate, nearest_rank(values, 50), nearest_rank(values, 99), values[-1])

    def __repr__(self) -> str:
        return f"Latency({self.count:,} rows at {self.rate:g}/s: p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms)"


def throughput(load_users: LoadUsers, rows: int, *, batch_size: int = 1, users: list[int] | None = None) -> Throughput:
    """Insert rows as fast as Postgres accepts them, and measure how fast they are delivered, up to `batch_size` messages per request.

    The rows are for `users` in turn, or for all load users by default. Raises DeliveriesMissing after 30 seconds without a message.
    """
    load_users.batch(batch_size)
    load_users.counter.reset()
    programs = {"engine": load_users.engine_pid, "postgres": load_users.postgres_pid, "receiver": load_users.counter.pid}
    before = {name: cpu_seconds(pid) for name, pid in programs.items()}
    with load_users.stack.database.connect() as connection:
        connection.autocommit = True
        began = time.time()
        for first in range(0, rows, PER_TRANSACTION):
            insert(connection, users or load_users.users, first, min(rows, first + PER_TRANSACTION))
    count = load_users.counter.wait_for(rows, PATIENCE)
    used = {name: _difference(cpu_seconds(pid), before[name], rows) for name, pid in programs.items()}
    return Throughput(count.messages, count.requests, count.last - began, used["engine"], used["postgres"], used["receiver"])


def latency(load_users: LoadUsers, rate: float = 100, seconds: float = 5, *, progress: Callable[[int], object] | None = None) -> Latency:
    """Insert rows for the load users in turn at a steady rate, and time each from commit to receipt.

    Up to 100 rows per second, each row is a separate transaction; above that, each transaction contains the rows of 10 ms.
    """
    load_users.batch(1)
    load_users.counter.reset(latencies=True)
    with progress_shown(progress, int(rate * seconds), "rows", f"{len(load_users.users):,} users, {rate:,g} rows/s") as show:
        rows = write_steadily(load_users, rate, seconds, show)
    load_users.counter.wait_for(rows, PATIENCE)
    return Latency.of((latency for _, latency in load_users.counter.latencies()), rate)


def write_steadily(
    load_users: LoadUsers, rate: float, seconds: float, show: Callable[[int], object], users: list[int] | None = None
) -> int:
    """Insert rows at a steady rate, catching up if it falls behind; returns the number of rows.

    The rows are for `users` in turn, or for all load users by default. `show` is called with the number of rows inserted so far.
    """
    per_tick = max(1, round(rate / _TICKS))
    rows = int(rate * seconds)
    with load_users.stack.database.connect() as connection:
        connection.autocommit = True
        began = time.monotonic()
        for first in range(0, rows, per_tick):
            time.sleep(max(0.0, began + first / rate - time.monotonic()))
            insert(connection, users or load_users.users, first, min(rows, first + per_tick))
            show(min(rows, first + per_tick))
    return rows


def scale(
    load_users: LoadUsers, users: Iterable[int], *, rows: int = 20_000, rate: float = 1000, seconds: float = 5, runs: int = 2
) -> Iterator[Point]:
    """Grow to each of these numbers of users in turn, and yield the measurements for each as soon as they are complete.

    Throughput is that of the fastest of `runs` runs, since other work on the machine can only slow a run down. Latency is measured in half
    as many runs, but at least one, and is that of the run with the median p99. If the number of runs is even, the median is the slower of
    the middle two.
    """
    for number in users:
        began = time.monotonic()
        load_users.grow(number)
        created = time.monotonic() - began
        settle(load_users)
        fastest = min((throughput(load_users, rows) for _ in range(runs)), key=lambda run: run.seconds)
        delays = sorted((latency(load_users, rate, seconds) for _ in range(max(1, runs // 2))), key=lambda run: run.p99_ms)
        delay = delays[len(delays) // 2]
        yield Point(
            number, created, fastest.per_second, fastest.engine_us, delay.p50_ms, delay.p99_ms, rate, memory_mb(load_users.engine_pid)
        )


def capacity_card(load_users: LoadUsers, *, rows: int = 20_000, rate: float = 100, seconds: float = 5) -> Card:
    """Measure the capacity of this machine with the current load users; takes a little longer than `seconds`."""
    settle(load_users)
    single = throughput(load_users, rows)
    # A real Sequin server is excluded, because changing its sinks after a burst makes it read the burst again.
    in_batches = load_users.engine_pid is not None and len(load_users.users) <= MANY
    batched = throughput(load_users, 2 * rows, batch_size=100) if in_batches else None
    delay = latency(load_users, rate, seconds)
    memory = memory_mb(load_users.engine_pid)
    return Card(
        machine=machine(),
        versions=versions(load_users),
        users=len(load_users.users),
        webhooks_per_second=single.per_second,
        batched_per_second=None if batched is None else batched.per_second,
        rate=rate,
        p50_ms=delay.p50_ms,
        p99_ms=delay.p99_ms,
        engine_us=single.engine_us,
        engine_mb=memory,
    )


def settle(load_users: LoadUsers) -> None:
    """Send a row to each user, and at least 1,000 rows, so that one-time work such as connecting is not measured."""
    rows = max(1000, len(load_users.users))
    load_users.counter.reset()
    with load_users.stack.database.connect() as connection:
        insert(connection, load_users.users, 0, rows)
    load_users.counter.wait_for(rows, PATIENCE)
    time.sleep(_SETTLED_SECONDS)


def insert(connection: psycopg.Connection[object], users: list[int], first: int, last: int) -> None:
    """Insert rows `first` to `last` (exclusive) for the users in turn, with one statement."""
    # Pass only the users whose turn it is: passing 10,000 every time would take as much CPU time as the engine does.
    turn_users = [users[n % len(users)] for n in range(first, min(last, first + len(users)))]
    connection.execute(_INSERT, {"users": turn_users, "count": len(turn_users), "first": first, "last": last - 1})


def cpu_seconds(pid: int | None) -> float | None:
    """Return the CPU seconds of a process and its children, including those that have exited; None if there is no process."""
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
    """Return the memory of a process in MB (resident set size); None if there is no process."""
    import psutil

    return None if pid is None else psutil.Process(pid).memory_info().rss / 1e6


def machine() -> str:
    """Describe the machine in a few words."""
    import psutil

    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB"


def versions(load_users: LoadUsers) -> str:
    """Describe the versions of Python, Postgres, and Sequin in a few words."""
    with load_users.stack.database.connect() as connection:
        postgres = connection.info.server_version
    sequin = "the local engine" if load_users.engine_pid is not None else f"Sequin {load_users.stack.sequin.version()}"
    return f"Python {platform.python_version()}, Postgres {postgres // 10000}.{postgres % 10000}, {sequin}"


def _difference(after: float | None, before: float | None, messages: int) -> float | None:
    return None if after is None or before is None else (after - before) / messages * 1e6
