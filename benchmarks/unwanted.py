"""Rows that nobody wants: 1 % of the users are subscribed, and the engine reads and passes over all the others' rows."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from benchmarks.figures import Figure, at_least
from benchmarks.lab import Size, bench_stack, pid_of
from benchmarks.yardsticks import recvlogical
from userhooks.capacity import LoadUsers
from userhooks.capacity.measure import PATIENCE, PER_TRANSACTION, cpu_seconds, insert, settle

SUBSCRIBED = 100


def run(size: Size) -> Iterator[Figure]:
    """The rows are there before the engine is: it reads them as fast as it can; from the first to the last webhook is what counts."""
    rows = size.pick(200_000, 600_000)
    with bench_stack() as stack, LoadUsers(stack) as crowd:
        crowd.grow(SUBSCRIBED)
        settle(crowd)
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            others = [
                user
                for (user,) in connection.execute(
                    "insert into users (name) select 'unsubscribed' from generate_series(1, %s) returning id", [99 * SUBSCRIBED]
                )
            ]
            everybody = [user for n, one in enumerate(crowd.users) for user in (one, *others[99 * n : 99 * (n + 1)])]
            read = recvlogical(crowd, size.pick(50_000, 100_000))
            stack.kill("sequin")
            for first in range(0, rows, PER_TRANSACTION):
                insert(connection, everybody, first, min(rows, first + PER_TRANSACTION))
        crowd.counter.reset()
        stack.restart("sequin")
        count = crowd.counter.wait_for(rows // 100, PATIENCE)
        rate = rows / (count.last - count.first)
        each = (cpu_seconds(pid_of(stack, "sequin")) or 0.0) / rows * 1e6
    beside = f"pg_recvlogical {read:,.0f}/s, ratio {rate / read:.2f}; engine {each:.1f} µs CPU a change, its start included"
    yield at_least("rows nobody wants (1 % of users subscribed)", rate, "changes/s", 150_000, None, beside)
