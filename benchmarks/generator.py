"""The generator: rows per second into the embedded Postgres, and how evenly a hundred a second come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

from benchmarks.figures import Figure, at_least
from benchmarks.lab import Size, bench_stack
from userhooks.lessons.generator import MAX_RATE, generate
from userhooks.shared.percentiles import nearest_rank


def run(size: Size) -> Iterator[Figure]:
    with bench_stack() as stack:
        stack.kill("sequin")  # the generator and Postgres alone
        fast = generate(stack.database_url, rate=MAX_RATE, seconds=size.pick(3, 8), progress=lambda _: None)
        yield at_least("generator, as fast as it can", fast.rate_reached, "rows/s", 50_000, None, f"asked for {MAX_RATE:,}")
        ticks: list[tuple[float, int]] = []
        even = generate(
            stack.database_url, rate=100, seconds=size.pick(10, 60), progress=lambda rows: ticks.append((time.perf_counter(), rows))
        )
    gaps = sorted((b[0] - a[0]) * 1000 for a, b in pairwise(ticks))
    middle, late = nearest_rank(gaps, 50), nearest_rank(gaps, 99)
    beside = f"gaps between {len(ticks):,} ticks: median {middle:.1f}, p99 {late:.1f}, longest {gaps[-1]:.1f} ms"
    rate = even.rate_reached
    yield Figure(
        f"generator at 100 rows/s over {even.seconds:.0f} s", f"{rate:.2f} rows/s", beside, "100.0 ± 0.2", "", abs(rate - 100) <= 0.2
    )
