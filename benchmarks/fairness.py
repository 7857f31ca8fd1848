"""Many receivers and uneven users: 10,000 users on 1,000 ports, and one of three users who changes 90 % of the rows."""

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
"""The engine closes a connection after 4 s without a request, and looks four times a second"""


def run(size: Size) -> Iterator[Figure]:
    yield from greedy(size.pick(1, 3))
    yield from many_ports(size.pick(1000, 10_000), size.pick(100, 1000), size.pick(4, 10))


def greedy(turns: int) -> Iterator[Figure]:
    """Two users with 100 rows a second each, alone and beside one with 1,800, for a few seconds in turn."""
    with bench_stack() as stack, LoadUsers(stack) as crowd:
        crowd.grow(3)
        settle(crowd)
        one, *others = crowd.users
        without: list[float] = []
        among: list[float] = []
        for _ in range(turns):
            without += [took for _, took in _written(crowd, {200: others}, _TURN_SECONDS)]
            among += [took for user, took in _written(crowd, {200: others, 1800: [one]}, _TURN_SECONDS) if user != one]
        alone, beside = Latency.of(without, 200), Latency.of(among, 200)
        words = f"p99 {alone.p99_ms:.1f} ms alone, {beside.p99_ms:.1f} ms beside the one with 1,800 rows/s"
        yield at_most("others' p99 where one of three users changes 90 %", beside.p99_ms / alone.p99_ms, "times", 1.5, None, words, 2)


def many_ports(users: int, ports: int, seconds: float) -> Iterator[Figure]:
    with bench_stack() as stack:
        crowd = LoadUsers(stack, ports=ports)
        try:
            crowd.grow(users, lambda _: None)
            settle(crowd)
            one = throughput(crowd, 3 * users)
            most = crowd.counter.count().most_open
            by_port = defaultdict(list)
            for user, took in _written(crowd, {RATE: crowd.users}, seconds):
                by_port[user % ports].append(took)
            steady = crowd.counter.count().most_open
            every = Latency.of((took for one in by_port.values() for took in one), RATE)
            means = sorted(statistics.mean(one) * 1000 for one in by_port.values())
            time.sleep(_IDLE_SECONDS)
            left = crowd.counter.count().open
        finally:
            crowd.counter.close()
    what = f"{users:,} users on {ports:,} ports"
    yield Figure(what, f"{one.per_second:,.0f} webhooks/s", f"p50 {every.p50_ms:.1f}, p99 {every.p99_ms:.1f} ms at {RATE:,} rows/s")
    beside = f"{steady:,} at {RATE:,} rows/s; {left} after {_IDLE_SECONDS:.0f} s without a row"
    yield Figure(f"{what}: connections open at most", f"{most:,}", beside, "≤ 8,192; 0 when idle", "", most <= 8192 and left == 0)
    middle = means[len(means) // 2]
    beside = f"mean latency of a port: median {middle:.2f} ms, slowest {means[-1]:.2f} ms"
    yield Figure(f"{what}: slowest port's mean, of the median port's", f"{means[-1] / middle:.1f} times", beside)


def _written(crowd: LoadUsers, rates: dict[int, list[int]], seconds: float) -> list[tuple[int, float]]:
    """Write for these users at these rates at the same time; (user, latency) of every row."""
    crowd.counter.reset(latencies=True)
    writers = [threading.Thread(target=write_steadily, args=(crowd, rate, seconds, lambda _: None, users)) for rate, users in rates.items()]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    crowd.counter.wait_for(sum(int(rate * seconds) for rate in rates), PATIENCE)
    return crowd.counter.latencies()
