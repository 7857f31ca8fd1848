"""The generator: rows per second into the embedded Postgres, and how evenly 100 rows per second are spread."""

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
        stack.kill("sequin")  # only the generator and Postgres
        full_speed = generate(stack.database_url, rate=MAX_RATE, seconds=size.pick(3, 8), progress=lambda _: None)
        yield at_least("generator at full speed", full_speed.rate_reached, "rows/s", 50_000, None, f"{MAX_RATE:,} requested")
        ticks: list[tuple[float, int]] = []
        steady = generate(
            stack.database_url, rate=100, seconds=size.pick(10, 60), progress=lambda rows: ticks.append((time.perf_counter(), rows))
        )
    gaps = sorted((b[0] - a[0]) * 1000 for a, b in pairwise(ticks))
    middle, p99 = nearest_rank(gaps, 50), nearest_rank(gaps, 99)
    comparison = f"gaps between {len(ticks):,} ticks: median {middle:.1f}, p99 {p99:.1f}, longest {gaps[-1]:.1f} ms"
    rate = steady.rate_reached
    yield Figure(
        f"generator at 100 rows/s over {steady.seconds:.0f} s", f"{rate:.2f} rows/s", comparison, "100.0 ± 0.2", "", abs(rate - 100) <= 0.2
    )
