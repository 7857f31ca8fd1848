"""Backfills: rows per second in batches of 1 and 100, the time to the first row, and with `full` a few rows of a table of millions."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks.figures import Figure, at_least, at_most
from benchmarks.lab import Size, bench_stack
from benchmarks.yardsticks import copy_out
from tests.ports import free_port
from userhooks import Stack
from userhooks.capacity import LoadUsers
from userhooks.capacity.counting_receiver import CountingReceiver
from userhooks.capacity.measure import PATIENCE, insert, settle
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

LARGE = 10_000_000
MINE = 1000


def run(size: Size) -> Iterator[Figure]:
    rows = size.pick(30_000, 60_000)
    with bench_stack() as stack, LoadUsers(stack) as load_users:
        load_users.grow(1)
        settle(load_users)
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            load_users.counter.reset()
            for first in range(0, rows, 10_000):
                insert(connection, load_users.users, first, first + 10_000)
            load_users.counter.wait_for(rows, PATIENCE)
            connection.execute("analyze public.notifications")
        _, plain = copy_out(stack.database_url, "select * from public.notifications")
        bounds: tuple[tuple[int, float, float], ...] = ((1, 15_000, 30_000), (100, 80_000, 150_000))
        for batch, required, goal in bounds:
            load_users.batch(batch)
            sink = stack.subscriptions.list()[0].sink_name
            runs = sorted(_backfill(stack, sink, load_users.counter, rows) for _ in range(size.pick(2, 5)))
            fastest, slowest, first = runs[0][0], runs[-1][0], max(first for _, first in runs)
            comparison = (
                f"fastest of {len(runs)} runs, slowest {rows / slowest:,.0f};"
                f" plain COPY {plain:,.0f} rows/s, ratio {rows / fastest / plain:.3f}"
            )
            yield at_least(f"backfill, {batch} per request", rows / fastest, "rows/s", required, goal, comparison)
            yield at_most(f"backfill, {batch} per request: slowest first row", first, "s", 0.2, digits=3)
    if size.is_full:
        yield from few_of_many()


def few_of_many() -> Iterator[Figure]:
    """Backfill a user's 1,000 rows from a table of ten million with an index on user_id, loaded before the publication exists."""
    with tempfile.TemporaryDirectory(prefix="userhooks-bench-") as folder:
        server = PostgresServer(Path(folder), port=free_port(), password=secrets.token_hex(8), log=Path(folder) / "postgres.log")
        try:
            server.start()
            began = time.monotonic()
            user = _load(server.url())
            loaded = time.monotonic() - began
            with bench_stack(DATABASE_URL=server.url()) as stack, CountingReceiver() as counter:
                sink = stack.subscriptions.subscribe(user, counter.url(user)).sink_name
                elapsed, first = _backfill(stack, sink, counter, MINE)
                _, plain = copy_out(server.url(), f"select * from public.notifications where user_id = {user:d}")  # noqa: S608
        finally:
            server.remove()
    comparison = f"plain COPY of them {plain:,.0f} rows/s; first row after {first:.2f} s; loading took {loaded:.0f} s"
    yield at_most(f"backfill of {MINE:,} rows in a table of {LARGE:,}", elapsed, "s", 2, None, comparison, digits=2)


def _load(url: str) -> int:
    """Fill the table and create its index; return a user in the middle of the table."""
    Database(url).set_up(None)
    with psycopg.connect(url, autocommit=True) as connection:
        first = connection.execute(
            "with made as (insert into users (name) select 'user' from generate_series(1, %s) returning id) select min(id) from made",
            [LARGE // MINE],
        ).fetchone()
        assert first is not None
        connection.execute(
            "insert into notifications (user_id, message)"
            " select %s::int + n %% %s::int, 'Notification ' || n from generate_series(1, %s::int) n",
            [first[0], LARGE // MINE, LARGE],
        )
        connection.execute("create index on notifications (user_id)")
        connection.execute("vacuum analyze notifications")
        return int(first[0]) + LARGE // MINE // 2


def _backfill(stack: Stack, sink: str, counter: CountingReceiver, rows: int) -> tuple[float, float]:
    """Return the seconds until the last row arrived, and until the first one did."""
    counter.reset()
    began = time.time()
    handle = stack.backfill(sink)
    count = counter.wait_for(rows, PATIENCE)
    handle.wait()
    return count.last - began, count.first - began
