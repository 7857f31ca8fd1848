"""Questions to Postgres beside the stream: one administrative connection with time limits, and what its errors mean.

The queries are in `catalog_queries.py`, the wording of trouble in `diagnosis.py`; the stream is read in `replication_stream.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from psycopg import AsyncConnection, Error, OperationalError

from userhooks.engine.postgres import catalog_queries, diagnosis
from userhooks.engine.postgres.diagnosis import Names, Trouble, Unavailable
from userhooks.engine.postgres.replication_stream import ReplicationEnded, Unpublished
from userhooks.engine.resources import DatabaseResource, TableName
from userhooks.engine.startup import APPLICATION, Config
from userhooks.engine.state_store import StateStore, StoreMismatch
from userhooks.errors import DatabaseUnavailable
from userhooks.shared.postgres_connections import connect_async

T = TypeVar("T")

ASK_SECONDS = 5.0
"""Time limit for a question's turn, and again for its answer: callers hold locks of the API meanwhile."""
CONNECTION_ERRORS = (ReplicationEnded, Error, OSError, DatabaseUnavailable, StoreMismatch)

_REPLICATING = {"wal_sender_timeout": "60s"}
"""Postgres' default; the status of every ten seconds is often enough for it, whatever the role or the database has instead"""


class AdminConnection:
    """Asks Postgres; the connection is opened again when it was lost. `write` runs a method of the store on its thread."""

    def __init__(self, config: Config, database: DatabaseResource, store: StateStore, write: Callable[..., Awaitable[Any]]) -> None:
        self.names = Names(f"{database.hostname}:{database.port}", database.database, database.username, config.slot, config.publication)
        self._config = config
        self._store = store
        self._write = write
        self._connection: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query; raises DatabaseUnavailable, after about 10 s at the latest: 5 for its turn or to connect, 5 for the answer."""
        try:
            return await self.ask_plainly(question)
        except CONNECTION_ERRORS as exc:
            trouble = self.describe(exc)
            raise DatabaseUnavailable(trouble.what, trouble.remedy) from exc

    async def ask_plainly(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query as `ask` does; raises CONNECTION_ERRORS as they are."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable(diagnosis.silent(self.names, ASK_SECONDS)) from None
        try:
            connection = self._connection
            if connection is not None and not connection.closed:
                try:
                    return await self.within(ASK_SECONDS, connection, question)
                except OperationalError:
                    if not connection.closed:
                        raise
            # It may have been lost long ago; a new one tells whether Postgres is there.
            self._connection = await self.open()
            return await self.within(ASK_SECONDS, self._connection, question)
        finally:
            self._lock.release()

    async def check(self) -> str | None:
        """Return None when Postgres answers, else what is wrong."""
        try:
            await self.ask(lambda c: c.execute("select 1"))
        except DatabaseUnavailable as exc:
            return f"{exc.what} {exc.remedy}"
        return None

    async def open(self, *, replication: bool = False) -> AsyncConnection[Any]:
        """Open another connection to the cluster and database that the state belongs to; raises StoreMismatch for any other."""
        settings = _REPLICATING if replication else None
        url = self._config.database_url
        connection = await connect_async(url, replication=replication, application_name=APPLICATION, settings=settings)
        try:
            identity = await self.within(ASK_SECONDS, connection, lambda c: catalog_queries.identity(c, self._config.slot))
            await self._write(self._store.bind, identity)
        except BaseException:
            await connection.close()
            raise
        self.names = replace(self.names, database=identity["database"])
        return connection

    async def within(self, seconds: float, connection: AsyncConnection[Any], question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Ask under a time limit; a question without an answer by then ends with its connection, as if the server had hung up.

        (Cancelling the task would have psycopg wait for the server again.)
        """
        late = False

        def cut() -> None:
            nonlocal late
            late = True
            with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as same:
                same.shutdown(socket.SHUT_RDWR)

        timer = asyncio.get_running_loop().call_later(seconds, cut)
        try:
            return await question(connection)
        except OperationalError as exc:
            if late:
                raise Unavailable(diagnosis.silent(self.names, seconds)) from exc
            raise
        finally:
            timer.cancel()

    @property
    def server_version(self) -> int:
        """The server's version as libpq has it, 180000 for 18; 0 before the first connection."""
        return self._connection.info.server_version if self._connection is not None else 0

    def describe(self, exc: BaseException, table: TableName | None = None) -> Trouble:
        """Return what an error means and what to do; `table` is the one that was read."""
        if isinstance(exc, StoreMismatch):
            return diagnosis.other_cluster(str(exc))
        if isinstance(exc, DatabaseUnavailable):
            return Trouble(exc.what, exc.remedy)
        if isinstance(exc, Unpublished):
            return diagnosis.publication_missing(self.names)
        if isinstance(exc, TimeoutError):
            return diagnosis.silent(self.names, self._config.silence)
        return diagnosis.of_error(str(exc) or type(exc).__name__, self.names, table)

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            await self._connection.close()
