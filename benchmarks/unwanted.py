"""Rows without a subscriber: 1% of the users are subscribed, and the engine reads and skips the rows of all others."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from benchmarks.figures import Figure, at_least
from benchmarks.lab import Size, bench_stack, engine_pid
from benchmarks.yardsticks import recvlogical
from userhooks.capacity import LoadUsers
from userhooks.capacity.measure import PATIENCE, PER_TRANSACTION, cpu_seconds, insert, settle

SUBSCRIBED = 100


def run(size: Size) -> Iterator[Figure]:
    """Insert the rows while the engine is stopped, then measure the time from its first to its last webhook as it catches up."""
    rows = size.pick(200_000, 600_000)
    with bench_stack() as stack, LoadUsers(stack) as load_users:
        load_users.grow(SUBSCRIBED)
        settle(load_users)
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            others = [
                user
                for (user,) in connection.execute(
                    "insert into users (name) select 'unsubscribed' from generate_series(1, %s) returning id", [99 * SUBSCRIBED]
                )
            ]
            everybody = [user for n, subscribed in enumerate(load_users.users) for user in (subscribed, *others[99 * n : 99 * (n + 1)])]
            yardstick = recvlogical(load_users, size.pick(50_000, 100_000))
            stack.kill("sequin")
            for first in range(0, rows, PER_TRANSACTION):
                insert(connection, everybody, first, min(rows, first + PER_TRANSACTION))
        load_users.counter.reset()
        stack.restart("sequin")
        count = load_users.counter.wait_for(rows // 100, PATIENCE)
        rate = rows / (count.last - count.first)
        cpu_us = (cpu_seconds(engine_pid(stack)) or 0.0) / rows * 1e6
    comparison = (
        f"pg_recvlogical {yardstick:,.0f}/s, ratio {rate / yardstick:.2f}; engine {cpu_us:.1f} µs CPU per change, including its start"
    )
    yield at_least("rows without a subscriber (1 % of users subscribed)", rate, "changes/s", 150_000, None, comparison)
