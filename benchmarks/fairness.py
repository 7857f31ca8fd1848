"""Many receivers and an uneven load: 10,000 users on 1,000 ports, and one of three users making 90% of the changes."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.figures import Figure, at_most
from benchmarks.lab import Size, bench_stack
from userhooks.capacity import Latency, LoadUsers
from userhooks.capacity.measure import PATIENCE, settle, throughput, write_steadily

RATE = 1000
_TURN_SECONDS = 5.0
_IDLE_SECONDS = 6.0
"""Seconds until idle connections are closed: the engine does so after 4 s without a request, and checks four times a second."""


def run(size: Size) -> Iterator[Figure]:
    yield from greedy(size.pick(1, 3))
    yield from many_ports(size.pick(1000, 10_000), size.pick(100, 1000), size.pick(4, 10))


def greedy(turns: int) -> Iterator[Figure]:
    """Measure the latency of two users with 100 rows per second each, alternately alone and next to a third user with 1,800."""
    with bench_stack() as stack, LoadUsers(stack) as load_users:
        load_users.grow(3)
        settle(load_users)
        busy, *others = load_users.users
        without: list[float] = []
        together: list[float] = []
        for _ in range(turns):
            without += [delay for _, delay in _written(load_users, {200: others}, _TURN_SECONDS)]
            together += [delay for user, delay in _written(load_users, {200: others, 1800: [busy]}, _TURN_SECONDS) if user != busy]
        alone, next_to = Latency.of(without, 200), Latency.of(together, 200)
        comparison = f"p99 {alone.p99_ms:.1f} ms alone, {next_to.p99_ms:.1f} ms next to a user with 1,800 rows/s"
        yield at_most(
            "p99 of two users while a third makes 90 % of the changes", next_to.p99_ms / alone.p99_ms, "times", 1.5, None, comparison, 2
        )


def many_ports(users: int, ports: int, seconds: float) -> Iterator[Figure]:
    with bench_stack() as stack:
        load_users = LoadUsers(stack, ports=ports)
        try:
            load_users.grow(users, lambda _: None)
            settle(load_users)
            fastest = throughput(load_users, 3 * users)
            most = load_users.counter.count().most_open
            by_port = defaultdict(list)
            for user, delay in _written(load_users, {RATE: load_users.users}, seconds):
                by_port[user % ports].append(delay)
            steady = load_users.counter.count().most_open
            overall = Latency.of((delay for latencies in by_port.values() for delay in latencies), RATE)
            means = sorted(statistics.mean(latencies) * 1000 for latencies in by_port.values())
            time.sleep(_IDLE_SECONDS)
            idle = load_users.counter.count().open
        finally:
            load_users.counter.close()
    what = f"{users:,} users on {ports:,} ports"
    yield Figure(what, f"{fastest.per_second:,.0f} webhooks/s", f"p50 {overall.p50_ms:.1f}, p99 {overall.p99_ms:.1f} ms at {RATE:,} rows/s")
    comparison = f"{steady:,} at {RATE:,} rows/s; {idle} after {_IDLE_SECONDS:.0f} s without a row"
    yield Figure(f"{what}: most open connections", f"{most:,}", comparison, "≤ 8,192; 0 when idle", "", most <= 8192 and idle == 0)
    middle = means[len(means) // 2]
    comparison = f"mean latency per port: median {middle:.2f} ms, slowest {means[-1]:.2f} ms"
    yield Figure(f"{what}: mean latency of the slowest port, relative to the median", f"{means[-1] / middle:.1f} times", comparison)


def _written(load_users: LoadUsers, rates: dict[int, list[int]], seconds: float) -> list[tuple[int, float]]:
    """Write rows concurrently at each rate for its users; return the (user, latency) pairs of all rows."""
    load_users.counter.reset(latencies=True)
    writers = [
        threading.Thread(target=write_steadily, args=(load_users, rate, seconds, lambda _: None, users)) for rate, users in rates.items()
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    load_users.counter.wait_for(sum(int(rate * seconds) for rate in rates), PATIENCE)
    return load_users.counter.latencies()
