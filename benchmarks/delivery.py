"""Webhooks per second with one message and with 100 messages per request, and the engine's memory with one idle sink and under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, at_least, at_most, cpu
from benchmarks.lab import Size, bench_stack, engine_pid, forget_peak, peak_mb
from benchmarks.yardsticks import bare_posts, recvlogical
from userhooks.capacity import LoadUsers, Throughput, throughput
from userhooks.capacity.measure import memory_mb, settle

USERS = 10
"""Number of users with one message per request. Batches use one user, since the rows of others in between would make them smaller."""


def run(size: Size) -> Iterator[Figure]:
    rows = size.pick(20_000, 40_000)
    with bench_stack() as stack, LoadUsers(stack) as load_users:
        load_users.grow(1)
        settle(load_users)
        engine = engine_pid(stack)
        yield at_most("engine memory, one idle sink", memory_mb(engine) or 0, "MB", 90, 60, digits=0)
        forget_peak(engine)
        check_foreign_keys(load_users, False)
        batched, batched_runs = quickest(lambda: throughput(load_users, 2 * rows, batch_size=100), size)
        check_foreign_keys(load_users, True)
        with_check, check_runs = quickest(lambda: throughput(load_users, 2 * rows, batch_size=100), size)
        bare_batched = bare_posts(load_users, rows // 50, 100)
        load_users.batch(1)
        load_users.grow(USERS)
        settle(load_users)
        single, single_runs = quickest(lambda: throughput(load_users, rows), size)
        bare_single = bare_posts(load_users, rows, 1)
        comparison = (
            f"{single_runs}; bare POST loop {bare_single:,.0f}/s, ratio {single.per_second / bare_single:.2f};"
            f" {cpu(single.engine_us, single.postgres_us, single.receiver_us)}"
        )
        yield at_least("one message per request", single.per_second, "webhooks/s", 20_000, 40_000, comparison)
        peak = peak_mb(engine)
        read = recvlogical(load_users, 2 * rows)
        comparison = (
            f"{batched_runs}; bare POST loop {bare_batched:,.0f}/s, ratio {batched.per_second / bare_batched:.2f};"
            f" pg_recvlogical {read:,.0f}/s, ratio {batched.per_second / read:.2f};"
            f" {cpu(batched.engine_us, batched.postgres_us, batched.receiver_us)}"
        )
        yield at_least("100 messages per request", batched.per_second, "messages/s", 80_000, 150_000, comparison)
        comparison = f"{check_runs}; {cpu(with_check.engine_us, with_check.postgres_us, with_check.receiver_us)}"
        yield Figure("100 per request, with the foreign key check", f"{with_check.per_second:,.0f} messages/s", comparison)
        yield at_most("engine memory at these rates, peak", peak, "MB", 250, 150, digits=0)


def check_foreign_keys(load_users: LoadUsers, check: bool) -> None:
    """Enable or disable Postgres's foreign key check of inserted rows, which takes half as long as the engine takes to deliver a row."""
    with load_users.stack.database.connect() as connection:
        connection.execute(f"ALTER TABLE public.notifications {'ENABLE' if check else 'DISABLE'} TRIGGER ALL")


def quickest(measure: Callable[[], Throughput], size: Size) -> tuple[Throughput, str]:
    """Return the fastest of several runs, since other work can only slow a run down, and a text with the median and the slowest."""
    runs = sorted((measure() for _ in range(size.pick(3, 7))), key=lambda run: run.per_second)
    return runs[-1], f"fastest of {len(runs)} runs, median {runs[len(runs) // 2].per_second:,.0f}, slowest {runs[0].per_second:,.0f}"
