"""The few connections on which backfills read and count rows. Their queries are run in `run.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection

from userhooks.engine.startup import APPLICATION
from userhooks.shared.postgres_connections import connect_async

AT_ONCE = 4
"""The number of backfills that may read at the same time, each on its own connection."""
_READING = {"synchronous_commit": "local", "lock_timeout": "5s"}
"""Settings for reading. With `local`, writing a watermark does not wait for a synchronous standby, which may be down."""
_COUNTING = {"statement_timeout": "30s", "max_parallel_workers_per_gather": "0"}
"""Settings for counting, which is only informative and must not slow anything down."""


class ReadingConnections:
    """Connections for backfills, opened on demand and kept for the next turn."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._idle: list[AsyncConnection[Any]] = []
        self._counting = asyncio.Semaphore(1)

    @asynccontextmanager
    async def for_reading(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection once one is free; it is closed if the block raises."""
        async with self._slots:
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = await connect_async(self._database_url, application_name=APPLICATION, settings=_READING)
                connection.prepare_threshold = None  # A generic plan would ignore that a user has few rows.
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            self._idle.append(connection)

    @asynccontextmanager
    async def for_counting(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a new connection for counting, once no other count is running."""
        async with (
            self._counting,
            await connect_async(self._database_url, application_name=APPLICATION, settings=_COUNTING) as connection,
        ):
            yield connection

    async def hang_up(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()
