"""What many subscribed users cost: 10 to 10,000, with `full` 100,000. The plot `scale.png` beside this file is drawn of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure as Picture

from tests.bench.figures import Figure, at_most
from tests.bench.lab import Size, bench_stack, pid_of
from userhooks import plots
from userhooks.capacity import Crowd, Point, frame, scale, throughput
from userhooks.capacity.measure import memory_mb, settle

PICTURE = Path(__file__).with_name("scale.png")
RATE = 1000


def run(size: Size, *, picture: bool = False) -> Iterator[Figure]:
    numbers = [10, 100, 1000] if size.name == "quick" else [10, 100, 1000, 10_000] + [100_000] * size.is_full
    points: list[Point] = []
    to_one: list[float] = []
    created = 0.0
    with bench_stack() as stack:
        crowd = Crowd(stack)
        try:
            crowd.grow(10, lambda _: None)
            settle(crowd)
            few = _restarted(crowd)
            for number in numbers:
                began = time.monotonic()
                crowd.grow(number, lambda _: None)
                created += time.monotonic() - began
                start, megabytes = _restarted(crowd)
                point = next(scale(crowd, [number], rows=20_000, rate=RATE, seconds=4, runs=size.pick(2, 6)))
                points.append(point)
                to_one.append(max(throughput(crowd, 20_000, users=crowd.users[:1]).per_second for _ in range(size.pick(2, 6))))
                each = (megabytes - few[1]) * 1000 / (number - 10) if number > 10 else 0.0
                beside = (
                    f"{point.webhooks_per_second:,.0f} webhooks/s, {to_one[-1]:,.0f} to one of them;"
                    f" p50 {point.p50_ms:.1f}, p99 {point.p99_ms:.1f} ms at {RATE:,} rows/s;"
                    f" made in {created:.1f} s, engine starts in {start:.1f} s, {megabytes:.0f} MB, {each:.1f} kB for each further sink"
                )
                yield Figure(f"{number:,} users: engine's CPU for a change", f"{point.engine_us:.0f} µs", beside)
                if number == 10_000:
                    yield at_most("10,000 users: create all", created, "s", 60)
                    yield at_most("10,000 users: memory for each further sink", each, "kB", 20, 8)
            first, last = points[0], points[-1]
            ratio = to_one[-1] / to_one[0]
            yield Figure(
                f"rate to one of {last.users:,} users, of that to one of {first.users}",
                f"{ratio:.2f} times",
                "",
                "≥ 0.9",
                "1",
                ratio >= 0.9,
            )
            ratio = last.webhooks_per_second / first.webhooks_per_second
            yield Figure(f"rate to {last.users:,} users in turn, of that to {first.users}", f"{ratio:.2f} times")
            ratio = (last.engine_us or 0) / (first.engine_us or 1)
            yield at_most(f"CPU for a change with {last.users:,} users, of that with {first.users}", ratio, "times", 1.25, 1.0, digits=2)
            ratio = last.p99_ms / first.p99_ms
            yield at_most(f"p99 with {last.users:,} users, of that with {first.users}", ratio, "times", 1.5, 1.0, digits=2)
        finally:
            crowd.counter.close()  # the users go with their home
    if picture:
        draw(points)


def _restarted(crowd: Crowd) -> tuple[float, float]:
    """Seconds until the engine is ready again with the sinks that there are, and its memory then in MB."""
    began = time.monotonic()
    crowd.stack.restart("sequin")
    took = time.monotonic() - began
    time.sleep(1)
    return took, memory_mb(pid_of(crowd.stack, "sequin")) or 0.0


def draw(points: list[Point]) -> None:
    picture = Picture(figsize=(7, 4), layout="constrained")
    plots.cost_per_change(frame(points), picture.subplots())
    picture.savefig(PICTURE, dpi=110)
