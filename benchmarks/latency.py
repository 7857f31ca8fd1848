"""Latency from commit to receipt at 100 rows per second, each in a separate transaction."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, at_most
from benchmarks.lab import Size, bench_stack
from userhooks.capacity import LoadUsers, latency
from userhooks.capacity.measure import settle


def run(size: Size) -> Iterator[Figure]:
    with bench_stack() as stack, LoadUsers(stack) as load_users:
        load_users.grow(10)
        settle(load_users)
        result = latency(load_users, rate=100, seconds=size.pick(10, 30), progress=lambda _: None)
        yield at_most("commit to receipt at 100 rows/s, p50", result.p50_ms, "ms", 2.5, 1.2, f"{result.count:,} rows", digits=2)
        yield at_most("commit to receipt at 100 rows/s, p99", result.p99_ms, "ms", 10, 4, f"longest {result.max_ms:.1f} ms", digits=2)
