"""The publication's tables and the database's types, read from Postgres' catalogs and refreshed when they change.

The queries are in `postgres/catalog_queries.py`. Table descriptions from the replication stream are handled in `transactions.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from psycopg import AsyncConnection

from userhooks.engine.postgres import catalog_queries, diagnosis
from userhooks.engine.postgres.admin_connection import ASK_SECONDS, CONNECTION_ERRORS, AdminConnection
from userhooks.engine.postgres.diagnosis import Trouble, Unavailable
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.resources import Catalog, TableName
from userhooks.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

CATALOG_SECONDS = 60.0
"""Time limit in seconds for the query that reads the tables, and for the one that reads the types. Callers wait only ASK_SECONDS."""
_FIRST_PAUSE = 0.2


class PublishedTables:
    """Cache of the publication's tables (`catalog.tables`) and the database's types.

    `on_known` is called when the tables have been read for the first time.
    """

    def __init__(self, publication: str, admin: AdminConnection, catalog: Catalog, on_known: Callable[[], None]) -> None:
        self.types = TypeCatalog([])
        self.knows_types = asyncio.Event()
        self.are_known = False
        self.readings = 0
        """The number of times the tables were read."""
        self.published: set[TableName] | None = None
        """The tables of the publication; None if there is no publication or it has not been read yet."""
        self.trouble: Trouble | None = None
        """The problem that keeps the tables from being read."""
        self._absent: dict[TableName, Trouble] = {}
        """Maps tables that sinks include to the reason why they are not published."""
        self._publication = publication
        self._admin = admin
        self._catalog = catalog
        self._on_known = on_known
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    # --- for the API ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read the tables and types again; raises DatabaseUnavailable."""
        reading = self._read()
        done, _ = await asyncio.wait({reading}, timeout=ASK_SECONDS)
        if not done:
            raise Unavailable(diagnosis.catalog_slow(self._admin.names, ASK_SECONDS))
        try:
            await reading
        except CONNECTION_ERRORS as exc:
            trouble = self._admin.describe(exc)
            raise DatabaseUnavailable(trouble.what, trouble.remedy) from exc
        await self._admin.ask(self._read_publication)

    def problems_of(self, tables: tuple[TableName, ...]) -> list[str]:
        """Return the reasons why tables among `tables` are not published."""
        return [] if self.published is None else [str(self._absent[table]) for table in tables if table in self._absent]

    # --- for the slot reader -------------------------------------------------------------------------------------------

    async def find_publication(self) -> None:
        """Read which tables are published; raises Unavailable if there is no publication, and CONNECTION_ERRORS."""
        self.published = await self._admin.ask_plainly(lambda c: catalog_queries.published(c, self._publication))
        self.require_publication()

    def require_publication(self) -> None:
        """Raise Unavailable if there is no publication."""
        if self.published is None:
            raise Unavailable(diagnosis.publication_missing(self._admin.names))

    async def check(self) -> None:
        """Read which tables are published, and why other tables that sinks include are not; raises CONNECTION_ERRORS."""
        await self._admin.ask_plainly(self._read_publication)

    async def read_types(self) -> None:
        """Read the database's types; raises CONNECTION_ERRORS."""
        self.types.update(await self._admin.ask_plainly(catalog_queries.read_types))
        self.knows_types.set()

    def follow(self) -> asyncio.Task[None]:
        """Start reading the tables in the background, with retries until Postgres answers."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._read_until_answered())
        return self._following

    def close(self) -> None:
        """Cancel all reads."""
        for task in (self._following, *self._under_way):
            if task is not None:
                task.cancel()

    # --- reading -------------------------------------------------------------------------------------------------------

    async def _read_until_answered(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._read()
                return
            except CONNECTION_ERRORS as exc:
                if self.trouble is None:
                    log.warning("cannot read the tables of the publication: %s", self._admin.describe(exc))
                await asyncio.sleep(pause)
                pause = min(CATALOG_SECONDS, pause * 2)

    def _read(self) -> asyncio.Task[None]:
        """Start reading all tables again; callers during a read share the next one, which starts after their calls."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_alone())
            self._under_way.add(self._next)
            self._next.add_done_callback(self._reading_ended)
        return self._next

    async def _read_alone(self) -> None:
        """Read on a separate connection, so that other queries do not wait for a slow answer."""
        timer: asyncio.TimerHandle | None = None
        admin = self._admin
        async with self._lock:
            self._next = None
            try:
                connection = await admin.open()
                timer = asyncio.get_running_loop().call_later(ASK_SECONDS, self._is_slow)
                try:
                    tables = await admin.within(CATALOG_SECONDS, connection, lambda c: catalog_queries.read_tables(c, self._publication))
                    types = await admin.within(CATALOG_SECONDS, connection, catalog_queries.read_types)
                finally:
                    await connection.close()
            finally:
                if timer is not None:
                    timer.cancel()
        self.types.update(types)
        self.knows_types.set()
        self._catalog.tables.clear()
        self._catalog.tables.update(tables)
        self.trouble = None
        self.readings += 1
        if not self.are_known:
            self.are_known = True
            self._on_known()

    def _reading_ended(self, reading: asyncio.Task[None]) -> None:
        self._under_way.discard(reading)
        if not reading.cancelled():
            reading.exception()  # Marks the exception as retrieved, in case no caller is waiting for it.

    def _is_slow(self) -> None:
        trouble = diagnosis.catalog_slow(self._admin.names, ASK_SECONDS)
        if trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble

    async def _read_publication(self, connection: AsyncConnection[Any]) -> None:
        published = await catalog_queries.published(connection, self._publication)
        named = {table for sink in self._catalog.sinks.values() for table in sink.source.include_tables or ()}
        absent = named - (published or set())
        kinds = await catalog_queries.kinds(connection, absent) if absent else {}
        self.published = published
        self._absent = {table: self._absence(table, kinds.get(table)) for table in absent}

    def _absence(self, table: TableName, kind: tuple[bool, TableName | None] | None) -> Trouble:
        if kind is None:
            return diagnosis.table_missing(table)
        unlogged, root = kind
        if unlogged:
            return diagnosis.table_unlogged(table)
        if root is not None and root in (self.published or ()):
            return diagnosis.table_published_by_root(table, root, self._admin.names)
        return diagnosis.table_not_published(table, self._admin.names)
