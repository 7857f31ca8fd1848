"""What many subscribed users cost: 10 to 10,000, with `full` 100,000. The plot `scale.png` beside this file is drawn of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure, at_most
from benchmarks.lab import Size, bench_stack, pid_of
from userhooks import plots
from userhooks.capacity import LoadUsers, Point, frame, latency, scale, throughput
from userhooks.capacity.measure import memory_mb, settle

PICTURE = Path(__file__).with_name("scale.png")
RATE = 1000
ROWS = 20_000
FEW = 10


def run(size: Size, *, picture: bool = False) -> Iterator[Figure]:
    numbers = [10, 100, 1000] if size.name == "quick" else [10, 100, 1000, 10_000] + [100_000] * size.is_full
    runs = size.pick(2, 4)
    points: list[Point] = []
    created = 0.0
    with bench_stack() as stack, bench_stack() as other, LoadUsers(other) as few:
        few.grow(FEW, lambda _: None)
        settle(few)
        crowd = LoadUsers(stack)
        try:
            crowd.grow(FEW, lambda _: None)
            settle(crowd)
            _, least = _restarted(crowd)
            for number in numbers:
                began = time.monotonic()
                crowd.grow(number, lambda _: None)
                created += time.monotonic() - began
                start, megabytes = _restarted(crowd)
                point = next(scale(crowd, [number], rows=ROWS, rate=RATE, seconds=4, runs=runs))
                points.append(point)
                each = (megabytes - least) * 1000 / (number - FEW) if number > FEW else 0.0
                beside = (
                    f"{point.webhooks_per_second:,.0f} webhooks/s; p50 {point.p50_ms:.1f}, p99 {point.p99_ms:.1f} ms at {RATE:,} rows/s;"
                    f" made in {created:.1f} s, engine starts in {start:.1f} s, {megabytes:.0f} MB, {each:.1f} kB for each further sink"
                )
                yield Figure(f"{number:,} users: engine's CPU for a change", f"{point.engine_us:.0f} µs", beside)
                if number == 10_000:
                    yield at_most("10,000 users: create all", created, "s", 60)
                    yield at_most("10,000 users: memory for each further sink", each, "kB", 20, 8)
                if number == numbers[-1] or number >= 10_000:
                    yield from _side_by_side(few, crowd, size.pick(2, 8))
            yield _removed(crowd)
        finally:
            crowd.counter.close()  # after a failure the users go with their home
    if picture:
        draw(points)


def _side_by_side(few: LoadUsers, many: LoadUsers, runs: int) -> Iterator[Figure]:
    """Compare a crowd with a small one on a stack beside it, by runs that take turns: minutes apart, the machine is another one."""
    number = f"{len(many.users):,} users"

    def both(measure: Callable[[LoadUsers], float], times: int) -> tuple[list[float], list[float]]:
        found = [(measure(few), measure(many)) for _ in range(times)]
        return [small for small, _ in found], [large for _, large in found]

    small, large = both(lambda crowd: throughput(crowd, ROWS, users=crowd.users[:1]).per_second, 2 * runs)
    ratio = max(large) / max(small)
    beside = f"{max(large):,.0f} and {max(small):,.0f} webhooks/s, the quickest of {2 * runs} runs each, which take turns"
    yield Figure(f"{number}: rate to one of them, of that to one of {FEW}", f"{ratio:.2f} times", beside, "≥ 0.9", "1", ratio >= 0.9)
    small, large = both(lambda crowd: latency(crowd, RATE, 4).p99_ms, max(1, runs // 2))
    beside = f"{min(large):.1f} and {min(small):.1f} ms at {RATE:,} rows/s, the least of {len(small)} runs each"
    yield at_most(f"{number}: p99, of that with {FEW}", min(large) / min(small), "times", 1.5, 1.0, beside, digits=2)
    small, large = both(lambda crowd: throughput(crowd, ROWS).engine_us or 0.0, runs)
    beside = f"{min(large):.1f} and {min(small):.1f} µs, the least of {runs} runs each"
    yield Figure(f"{number} in turn: CPU for a change, of that with {FEW}", f"{min(large) / (min(small) or 1):.2f} times", beside, "", "1")


def _removed(crowd: LoadUsers) -> Figure:
    """Remove all users with their subscriptions and rows; the bound is for ten thousand, a part or a multiple of it for other numbers."""
    users, began = len(crowd.users), time.monotonic()
    crowd.close(lambda _: None)
    return at_most(f"{users:,} users: remove all", time.monotonic() - began, "s", 15 * users / 10_000)


def _restarted(crowd: LoadUsers) -> tuple[float, float]:
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
