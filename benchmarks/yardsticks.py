"""Yardsticks that the figures are compared with: the same work with nothing around it."""

from __future__ import annotations

import asyncio
import subprocess
import time

import psycopg
import uvloop

from userhooks.capacity import LoadUsers
from userhooks.capacity.measure import PER_TRANSACTION, insert
from userhooks.engine.delivery.http_client import HttpClient
from userhooks.stack.embedded_postgres import find_binaries


class _Posts:
    """Supplies the engine's HTTP client with the same request `count` times."""

    on_probation = False

    def __init__(self, request: bytes, count: int) -> None:
        self.request, self.left, self.unanswered, self.done = request, count, count, asyncio.Event()

    def slow(self) -> None:
        """Ignore that the receiver took more than a second."""

    def may_repeat(self) -> bool:
        """Never repeat: an unanswered request is an error in the yardstick."""
        return False

    def next_request(self) -> tuple[bytes, _Posts] | None:
        if not self.left:
            return None
        self.left -= 1
        return self.request, self

    def has_more(self) -> bool:
        return self.left > 0

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        assert status == 200, error
        self.unanswered -= 1
        if not self.unanswered:
            self.done.set()


def bare_posts(load_users: LoadUsers, count: int, per_request: int) -> float:
    """Return messages per second for requests of the usual size, sent by the engine's HTTP client alone to the same receiver."""
    message = b'{"record":{},"metadata":{"commit_timestamp":"' + b"x" * 550 + b'"}}'
    body = b'{"data":[' + b",".join([message] * per_request) + b"]}"
    request = b"POST /in/bare HTTP/1.1\r\ncontent-length: %d\r\nhost: x\r\n\r\n%b" % (len(body), body)

    async def post() -> float:
        client = HttpClient(allow_private=True)
        posts = _Posts(request, count)
        began = time.perf_counter()
        client.origin(("http", "127.0.0.1", load_users.counter.ports[0])).offer(posts)
        await posts.done.wait()
        elapsed = time.perf_counter() - began
        client.close()
        return count * per_request / elapsed

    load_users.counter.reset()
    return uvloop.run(post())


def recvlogical(load_users: LoadUsers, rows: int) -> float:
    """Insert rows for the load users, and return the changes per second that pg_recvlogical reads from a separate slot."""
    slot, publication = "yardstick", load_users.stack.sequin.publication()
    with psycopg.connect(load_users.stack.database_url, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        load_users.counter.reset()
        for first in range(0, rows, PER_TRANSACTION):
            insert(connection, load_users.users, first, min(rows, first + PER_TRANSACTION))
        end = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        load_users.counter.wait_for(rows, 30)  # the engine delivers the same rows
        began = time.perf_counter()
        subprocess.run(
            [find_binaries().program("pg_recvlogical"), "-d", load_users.stack.database_url, "-S", slot, "--start", "-f", "/dev/null"]
            + ["--endpos", end[0] if end else "", "-o", "proto_version=1", "-o", f"publication_names={publication}"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        elapsed = time.perf_counter() - began
        connection.execute("select pg_drop_replication_slot(%s)", [slot])
    return rows / elapsed


def copy_out(database_url: str, query: str) -> tuple[int, float]:
    """Return the number of rows, and the rows per second, of a plain COPY of the query to this process."""
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        rows = 0
        with cursor.copy(f"copy ({query}) to stdout".encode()) as copy:
            for block in copy:
                rows += bytes(block).count(b"\n")
        return rows, rows / (time.perf_counter() - began)
