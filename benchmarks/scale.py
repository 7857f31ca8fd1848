"""Cost of many subscribed users: 10 to 10,000, with `full` 100,000. It can also draw the plot `scale.png` in this directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure, at_most
from benchmarks.lab import Size, bench_stack, engine_pid
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
        load_users = LoadUsers(stack)
        try:
            load_users.grow(FEW, lambda _: None)
            settle(load_users)
            _, base_megabytes = _restarted(load_users)
            for number in numbers:
                began = time.monotonic()
                load_users.grow(number, lambda _: None)
                created += time.monotonic() - began
                start, megabytes = _restarted(load_users)
                point = next(scale(load_users, [number], rows=ROWS, rate=RATE, seconds=4, runs=runs))
                points.append(point)
                per_sink = (megabytes - base_megabytes) * 1000 / (number - FEW) if number > FEW else 0.0
                comparison = (
                    f"{point.webhooks_per_second:,.0f} webhooks/s; p50 {point.p50_ms:.1f}, p99 {point.p99_ms:.1f} ms at {RATE:,} rows/s;"
                    f" created in {created:.1f} s, engine starts in {start:.1f} s, {megabytes:.0f} MB,"
                    f" {per_sink:.1f} kB per additional sink"
                )
                yield Figure(f"{number:,} users: engine CPU per change", f"{point.engine_us:.0f} µs", comparison)
                if number == 10_000:
                    yield at_most("10,000 users: create all", created, "s", 60)
                    yield at_most("10,000 users: memory per additional sink", per_sink, "kB", 20, 8)
                if number == numbers[-1] or number >= 10_000:
                    yield from _side_by_side(few, load_users, size.pick(2, 8))
            yield _removed(load_users)
        finally:
            load_users.counter.close()  # after a failure, the users are removed with their home
    if picture:
        draw(points)


def _side_by_side(few: LoadUsers, many: LoadUsers, runs: int) -> Iterator[Figure]:
    """Compare many users with a few on a second stack, in alternating runs, since the machine's speed changes within minutes."""
    number = f"{len(many.users):,} users"

    def both(measure: Callable[[LoadUsers], float], times: int) -> tuple[list[float], list[float]]:
        pairs = [(measure(few), measure(many)) for _ in range(times)]
        return [small for small, _ in pairs], [large for _, large in pairs]

    small, large = both(lambda load_users: throughput(load_users, ROWS, users=load_users.users[:1]).per_second, 2 * runs)
    ratio = max(large) / max(small)
    comparison = f"{max(large):,.0f} and {max(small):,.0f} webhooks/s, the fastest of {2 * runs} alternating runs each"
    yield Figure(f"{number}: rate to one of them, relative to one of {FEW}", f"{ratio:.2f} times", comparison, "≥ 0.9", "1", ratio >= 0.9)
    small, large = both(lambda load_users: latency(load_users, RATE, 4).p99_ms, max(1, runs // 2))
    comparison = f"{min(large):.1f} and {min(small):.1f} ms at {RATE:,} rows/s, the lowest of {len(small)} runs each"
    yield at_most(f"{number}: p99, relative to {FEW} users", min(large) / min(small), "times", 1.5, 1.0, comparison, digits=2)
    small, large = both(lambda load_users: throughput(load_users, ROWS).engine_us or 0.0, runs)
    comparison = f"{min(large):.1f} and {min(small):.1f} µs, the lowest of {runs} runs each"
    yield Figure(
        f"{number} in turn: CPU per change, relative to {FEW} users", f"{min(large) / (min(small) or 1):.2f} times", comparison, "", "1"
    )


def _removed(load_users: LoadUsers) -> Figure:
    """Remove all users with their subscriptions and rows; the limit is proportional to the number of users."""
    users, began = len(load_users.users), time.monotonic()
    load_users.close(lambda _: None)
    return at_most(f"{users:,} users: remove all", time.monotonic() - began, "s", 15 * users / 10_000)


def _restarted(load_users: LoadUsers) -> tuple[float, float]:
    """Restart the engine with the existing sinks; return the seconds until it is ready, and its memory in MB."""
    began = time.monotonic()
    load_users.stack.restart("sequin")
    took = time.monotonic() - began
    time.sleep(1)
    return took, memory_mb(engine_pid(load_users.stack)) or 0.0


def draw(points: list[Point]) -> None:
    picture = Picture(figsize=(7, 4), layout="constrained")
    plots.cost_per_change(frame(points), picture.subplots())
    picture.savefig(PICTURE, dpi=110)
