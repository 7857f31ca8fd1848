"""Webhooks per second, one message per request and 100 per request, and the engine's memory with one quiet sink and under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, at_least, at_most, cpu
from benchmarks.lab import Size, bench_stack, forget_peak, peak_mb, pid_of
from benchmarks.yardsticks import bare_posts, recvlogical
from userhooks.capacity import LoadUsers, Throughput, throughput
from userhooks.capacity.measure import memory_mb, settle

USERS = 10
"""Of the line with one message per request; in batches it is one user, since others' rows between them make batches smaller"""


def run(size: Size) -> Iterator[Figure]:
    rows = size.pick(20_000, 40_000)
    with bench_stack() as stack, LoadUsers(stack) as crowd:
        crowd.grow(1)
        settle(crowd)
        engine = pid_of(stack, "sequin")
        yield at_most("engine's memory, one quiet sink", memory_mb(engine) or 0, "MB", 90, 60, digits=0)
        forget_peak(engine)
        check_foreign_keys(crowd, False)
        many, all_many = quickest(lambda: throughput(crowd, 2 * rows, batch_size=100), size)
        check_foreign_keys(crowd, True)
        checked, all_checked = quickest(lambda: throughput(crowd, 2 * rows, batch_size=100), size)
        hundreds = bare_posts(crowd, rows // 50, 100)
        crowd.batch(1)
        crowd.grow(USERS)
        settle(crowd)
        one, all_ones = quickest(lambda: throughput(crowd, rows), size)
        bare = bare_posts(crowd, rows, 1)
        beside = (
            f"{all_ones}; bare POST loop {bare:,.0f}/s, ratio {one.per_second / bare:.2f};"
            f" {cpu(one.engine_us, one.postgres_us, one.receiver_us)}"
        )
        yield at_least("one message per request", one.per_second, "webhooks/s", 20_000, 40_000, beside)
        peak = peak_mb(engine)
        read = recvlogical(crowd, 2 * rows)
        beside = (
            f"{all_many}; bare POST loop {hundreds:,.0f}/s, ratio {many.per_second / hundreds:.2f}; pg_recvlogical {read:,.0f}/s, ratio"
            f" {many.per_second / read:.2f}; {cpu(many.engine_us, many.postgres_us, many.receiver_us)}"
        )
        yield at_least("100 messages per request", many.per_second, "messages/s", 80_000, 150_000, beside)
        beside = f"{all_checked}; {cpu(checked.engine_us, checked.postgres_us, checked.receiver_us)}"
        yield Figure("100 per request, foreign key checked for each row", f"{checked.per_second:,.0f} messages/s", beside)
        yield at_most("engine's memory at these rates, peak", peak, "MB", 250, 150, digits=0)


def check_foreign_keys(crowd: LoadUsers, check: bool) -> None:
    """Let Postgres check at each insert that the row's user is there, as usual, or not: it takes half as long as the engine."""
    with crowd.stack.database.connect() as connection:
        connection.execute(f"ALTER TABLE public.notifications {'ENABLE' if check else 'DISABLE'} TRIGGER ALL")


def quickest(measure: Callable[[], Throughput], size: Size) -> tuple[Throughput, str]:
    """The quickest of several runs, since what else the machine does only ever takes away; and in words how far they were apart."""
    runs = sorted((measure() for _ in range(size.pick(3, 7))), key=lambda run: run.per_second)
    return runs[-1], f"of {len(runs)} runs, median {runs[len(runs) // 2].per_second:,.0f}, slowest {runs[0].per_second:,.0f}"
