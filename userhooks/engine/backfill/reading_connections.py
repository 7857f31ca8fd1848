"""The few connections by which backfills read and count. What is read is in `run.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection

from userhooks.engine.startup import APPLICATION
from userhooks.shared.postgres_connections import connect_async

AT_ONCE = 4
"""Backfills that read at the same time, each by a connection"""
_READING = {"synchronous_commit": "local", "lock_timeout": "5s"}
"""`local`: a watermark has to be in the WAL here at once, and need not wait for a synchronous standby, which may be down"""
_COUNTING = {"statement_timeout": "30s", "max_parallel_workers_per_gather": "0"}
"""The count is for people who watch, and must not be in the way of anything"""


class ReadingConnections:
    """Connections that are opened when needed and kept for the next turn."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._idle: list[AsyncConnection[Any]] = []
        self._counting = asyncio.Semaphore(1)

    @asynccontextmanager
    async def for_reading(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a connection, once one is free; one that had trouble is closed."""
        async with self._slots:
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = await connect_async(self._database_url, application_name=APPLICATION, settings=_READING)
                connection.prepare_threshold = None  # a plan that fits any value would not use that a user has few rows
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            self._idle.append(connection)

    @asynccontextmanager
    async def for_counting(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Open the one connection for a count, once no other count runs."""
        async with (
            self._counting,
            await connect_async(self._database_url, application_name=APPLICATION, settings=_COUNTING) as connection,
        ):
            yield connection

    async def hang_up(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().close()
