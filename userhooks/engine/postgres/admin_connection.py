"""The administrative connection: queries to Postgres outside the replication stream, with time limits and explained errors.

The queries are in `catalog_queries.py`, and the explanations of errors in `diagnosis.py`. The stream is read in `replication_stream.py`.
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
"""Time limit in seconds for acquiring the connection, and another for the answer; short because callers hold the API's locks meanwhile."""
CONNECTION_ERRORS = (ReplicationEnded, Error, OSError, DatabaseUnavailable, StoreMismatch)
"""The errors to expect from any use of Postgres."""

_REPLICATING = {"wal_sender_timeout": "60s"}
"""Settings for replication: Postgres' default timeout, since a role or database may set one too short for a status every ten seconds."""


class AdminConnection:
    """A connection for queries, reopened when it is lost; `write` runs a method of the store on the store's thread."""

    def __init__(self, config: Config, database: DatabaseResource, store: StateStore, write: Callable[..., Awaitable[Any]]) -> None:
        self.names = Names(f"{database.hostname}:{database.port}", database.database, database.username, config.slot, config.publication)
        self._config = config
        self._store = store
        self._write = write
        self._connection: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def ask(self, query: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query; raises DatabaseUnavailable.

        This takes about 10 s at most: ASK_SECONDS to acquire the connection or to connect, and ASK_SECONDS for the answer.
        """
        try:
            return await self.ask_plainly(query)
        except CONNECTION_ERRORS as exc:
            trouble = self.describe(exc)
            raise DatabaseUnavailable(trouble.what, trouble.remedy) from exc

    async def ask_plainly(self, query: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query as `ask` does, but raise CONNECTION_ERRORS unchanged."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable(diagnosis.silent(self.names, ASK_SECONDS)) from None
        try:
            connection = self._connection
            if connection is not None and not connection.closed:
                try:
                    return await self.within(ASK_SECONDS, connection, query)
                except OperationalError:
                    if not connection.closed:
                        raise
            # The connection may have been lost long ago; only a new one shows whether Postgres is reachable.
            self._connection = await self.open()
            return await self.within(ASK_SECONDS, self._connection, query)
        finally:
            self._lock.release()

    async def check(self) -> str | None:
        """Return None if Postgres answers, otherwise the problem as text."""
        try:
            await self.ask(lambda c: c.execute("select 1"))
        except DatabaseUnavailable as exc:
            return f"{exc.what} {exc.remedy}"
        return None

    async def open(self, *, replication: bool = False) -> AsyncConnection[Any]:
        """Open a separate connection.

        Raises StoreMismatch if the engine's state belongs to another cluster, database, or slot.
        """
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

    async def within(self, seconds: float, connection: AsyncConnection[Any], query: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query with a time limit; raises Unavailable after `seconds`.

        At the limit, the connection's socket is shut down, as if the server had closed it. Cancelling the task instead would make psycopg
        wait for the server.
        """
        timed_out = False

        def shut_down() -> None:
            nonlocal timed_out
            timed_out = True
            with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

        timer = asyncio.get_running_loop().call_later(seconds, shut_down)
        try:
            return await query(connection)
        except OperationalError as exc:
            if timed_out:
                raise Unavailable(diagnosis.silent(self.names, seconds)) from exc
            raise
        finally:
            timer.cancel()

    @property
    def server_version(self) -> int:
        """The server's version in libpq's format, such as 180000 for 18; 0 before the first connection."""
        return self._connection.info.server_version if self._connection is not None else 0

    def describe(self, exc: BaseException, table: TableName | None = None) -> Trouble:
        """Return an explanation of an error; `table` is the table that was being read, if any."""
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
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
