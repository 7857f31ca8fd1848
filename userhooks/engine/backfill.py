"""Backfills: reading a table for one sink beside live changes. Snapshots are judged in `snapshot.py`; messages go out through
`delivery.py`.

A page is read by primary key together with its snapshot; then a transactional logical message, the watermark, is written. When that comes
by in the slot's stream, the page is released at that position. A row of it that changed in a transaction which the page's snapshot does
not see would be stale: it is dropped when the sink was owed that change (the change tells the newer story), and read again when it was not.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

from psycopg import AsyncConnection, OperationalError, sql

from userhooks.engine.delivery import Message, SinkDelivery
from userhooks.engine.pgoutput import Value
from userhooks.engine.rendering import Change, TableShape
from userhooks.engine.resources import Backfill, Table
from userhooks.engine.snapshot import Snapshot
from userhooks.engine.stream import WATERMARK, group_of

log = logging.getLogger(__name__)

PAGE_ROWS = 1000
PAGES_IN_DELIVERY = 3

Key = tuple[Value, ...]
"""values of the primary key's columns in text form; never UNCHANGED, since a key is always in the log"""


class Page:
    """Rows of one read, and how many of their messages are still to be delivered; `last_key` is None for rows that were read again."""

    __slots__ = ("_on_done", "last_key", "owed", "released", "rows", "size", "snapshot", "token")

    def __init__(
        self, rows: list[tuple[bytes | None, ...]], snapshot: Snapshot, last_key: Key | None, on_done: Callable[[Page], None]
    ) -> None:
        self.rows = rows
        self.size = len(rows)
        self.snapshot = snapshot
        self.last_key = last_key
        self.token = str(uuid.uuid4())
        self.owed = 0
        self.released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_done = on_done

    def settle(self, index: int, sink_number: int) -> None:
        """One message of the page is delivered."""
        self.forgive()

    def forgive(self) -> None:
        """One message of the page is delivered, or no longer owed."""
        self.owed -= 1
        if not self.owed and self.released.done():
            self._on_done(self)

    def release(self) -> None:
        """All messages of the page are handed over."""
        self.rows = []
        if not self.released.done():
            self.released.set_result(None)
        if not self.owed:
            self._on_done(self)


class BackfillRun:
    """One active backfill. `save` is awaited with the changed backfill and the key up to which everything is delivered."""

    def __init__(
        self,
        backfill: Backfill,
        table: Table,
        shape: TableShape,
        delivery: SinkDelivery,
        cursor: tuple[str, ...] | None,
        *,
        connect: Callable[[], Awaitable[AsyncConnection[Any]]],
        save: Callable[[Backfill, tuple[str, ...] | None], Awaitable[None]],
        now_us: Callable[[], int],
        now_text: Callable[[], str],
        visible: Callable[[], list[int]],
    ) -> None:
        self.backfill = backfill
        self.table = (table.schema, table.name)
        self._table = table
        self._shape = shape
        self._delivery = delivery
        self._position = cursor
        self._cursor = cursor
        self._connect = connect
        self._save = save
        self._now_us = now_us
        self._now_text = now_text
        self._streamed_xids = visible
        self._touched: dict[Key, list[tuple[int, bool]]] = {}
        self._again: deque[Key] = deque()
        self._pages: deque[Page] = deque()
        self._waiting: Page | None = None
        self._changed = asyncio.Event()
        self._dirty = False
        names = [c.name for c in table.columns]
        self._key_positions = [names.index(name) for name in table.primary_key]

    @property
    def sink_id(self) -> str:
        """The backfill's sink."""
        return self.backfill.sink_id

    # --- called by the stream ------------------------------------------------------------------------------------------

    def touched(self, change: Change, xid: int, owed: bool) -> None:
        """Remember that a row changed, under its key before and after."""
        for row in (change.new, change.old):
            if row is not None:
                key = tuple(row[i] for i in self._key_positions)
                self._touched.setdefault(key, []).append((xid, owed))

    def watermark(self, token: str) -> None:
        """A watermark came by; when it is the waiting page's, hand its rows over."""
        page = self._waiting
        if page is None or page.token != token:
            return
        self._waiting = None
        rows = page.rows
        for row in rows:
            key = tuple(row[i] for i in self._key_positions)
            newer = [owed for xid, owed in self._touched.get(key, ()) if not page.snapshot.sees(xid)]
            if not newer:
                self._owe(row, page)
            elif not any(newer):
                self._again.append(key)
        self._touched = {
            key: kept for key, entries in self._touched.items() if (kept := [e for e in entries if not page.snapshot.sees(e[0])])
        }
        page.release()

    def interrupt(self) -> None:
        """The stream was lost, perhaps with the waiting page's watermark: `run` raises, and reads the page again when called anew."""
        page = self._waiting
        if page is not None and not page.released.done():
            self._waiting = None
            self._pages.remove(page)
            page.released.set_exception(OperationalError("the replication stream was interrupted"))

    def _owe(self, row: tuple[bytes | None, ...], page: Page) -> None:
        change = Change.read(self._shape, row, self.backfill.id, self._now_us())
        delivery = self._delivery
        try:
            wanted, unjudged = delivery.judge(change), False
        except Exception:  # the filter raised: the message fails visibly when its turn comes
            wanted, unjudged = True, True
        if wanted:
            page.owed += 1
            delivery.owe(Message(change, page, group_of(delivery, change), unjudged))

    @property
    def _may_read(self) -> bool:
        """A sink that is paused, or has to catch up on live changes first, is not read for: a backfill never fills the store."""
        return self._delivery.sink.status == "active" and not self._delivery.behind

    # --- reading -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read page after page until the table's end is delivered; raises psycopg errors when the connection is lost.

        Called again after that, it goes on behind the last page that was handed over.
        """
        self._pages = deque(page for page in self._pages if page.released.done())
        handed_over = [page.last_key for page in self._pages if page.last_key is not None]
        self._position = _texts(handed_over[-1]) if handed_over else self._cursor
        connection = await self._connect()
        try:
            counting = asyncio.create_task(self._count())
            try:
                await self._until_streamed_is_visible(connection)
                while await self._next_page(connection):
                    pass
                await self._until(lambda: not self._pages)
                await counting
            finally:
                counting.cancel()
                await asyncio.gather(counting, return_exceptions=True)
            await self._store()
        finally:
            self._waiting = None
            await connection.close()

    async def _until_streamed_is_visible(self, connection: AsyncConnection[Any]) -> None:
        """A commit can be in the stream before a SELECT sees it; changes that came by before this run began were not noted."""
        before = self._streamed_xids()
        while True:
            row = await (await connection.execute("select pg_current_snapshot()::text")).fetchone()
            snapshot = Snapshot.parse(row[0]) if row else None
            before = [xid for xid in before if snapshot is not None and not snapshot.sees(xid)]
            if not before:
                return
            await asyncio.sleep(0.02)

    async def _next_page(self, connection: AsyncConnection[Any]) -> bool:
        """Read one page, wait until it is released; False at the end of the table."""
        await self._until(lambda: len(self._pages) < PAGES_IN_DELIVERY and self._may_read)
        await self._store()
        again = list(islice(self._again, PAGE_ROWS))
        page = await self._read(connection, again)
        if page is not None:
            self._pages.append(page)
            self._waiting = page
            await connection.execute("select pg_logical_emit_message(true, %s, %s)", (WATERMARK, page.token))
            await page.released
        for _ in again:
            self._again.popleft()
        return bool(page is not None or again)

    async def _read(self, connection: AsyncConnection[Any], again: Iterable[Key]) -> Page | None:
        key = sql.SQL(", ").join(sql.Identifier(name) for name in self._table.primary_key)
        keys = [_texts(one) for one in again]
        where, params = sql.SQL("").format(), list[Any]()
        if keys:
            where = sql.SQL("where ({}) in ({})").format(key, sql.SQL(", ").join(_row_of_parameters(one) for one in keys))
            params = [value for one in keys for value in one]
        elif self._position is not None:
            where = sql.SQL("where ({}) > {}").format(key, _row_of_parameters(self._position))
            params = list(self._position)
        query = sql.SQL("select pg_current_snapshot()::text, {} from {} {} order by {} limit {}").format(
            sql.SQL(", ").join(sql.Identifier(c.name) for c in self._table.columns),
            sql.Identifier(*self.table),
            where,
            key,
            sql.Literal(PAGE_ROWS),
        )
        result = (await connection.execute(query, params)).pgresult
        if result is None or not result.ntuples:
            return None
        value = result.get_value
        rows = [tuple([value(r, c) for c in range(1, result.nfields)]) for r in range(result.ntuples)]
        snapshot = Snapshot.parse((value(0, 0) or b"").decode())
        last_key = tuple(rows[-1][i] for i in self._key_positions)
        if not keys:
            self._position = _texts(last_key)
        return Page(rows, snapshot, None if keys else last_key, self._page_done)

    async def _count(self) -> None:
        if self.backfill.rows_initial_count is not None:
            return
        async with await self._connect() as connection:
            row = await (await connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(*self.table)))).fetchone()
        self.backfill = replace(self.backfill, rows_initial_count=int(row[0]) if row else 0)
        self._dirty = True
        await self._store()

    # --- progress ------------------------------------------------------------------------------------------------------

    def _page_done(self, page: Page) -> None:
        """Count the page once; move the cursor over the pages that are done from the front."""
        pages = self._pages
        if page not in pages:
            return
        while pages and pages[0].released.done() and not pages[0].owed:
            done = pages.popleft()
            if done.last_key is not None:
                self._cursor = _texts(done.last_key)
                count = self.backfill.rows_processed_count + done.size
                self.backfill = replace(self.backfill, rows_processed_count=count, rows_ingested_count=count, updated_at=self._now_text())
            self._dirty = True
        self._changed.set()

    def poke(self) -> None:
        """The sink's status has changed: look again."""
        self._changed.set()

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._changed.clear()
            await self._changed.wait()

    async def _store(self) -> None:
        if self._dirty:
            self._dirty = False
            await self._save(self.backfill, self._cursor)

    def owns(self, owed: object) -> bool:
        """Whether a message's `owed` is one of this run's pages."""
        return isinstance(owed, Page) and owed in self._pages


def _texts(key: Key) -> tuple[str, ...]:
    return tuple(value.decode() if isinstance(value, bytes) else "" for value in key)


def _row_of_parameters(values: Iterable[object]) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() for _ in values))
