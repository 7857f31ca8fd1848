"""One backfill, which reads a table for one sink in turns while live changes go on. `backfill_runner.py` executes the runs.

A page is read in key order, together with its snapshot. Then a watermark is written: a transactional logical message. `row_handover.py`
handles the watermark when it arrives in the slot's stream. SQL is in `page_query.py`, and snapshots are evaluated in
`postgres/snapshot.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor

from userhooks.engine.backfill.page_progress import PageProgress
from userhooks.engine.backfill.page_query import Cursor, PageQuery, Query
from userhooks.engine.backfill.row_handover import RowHandover, RowsRead
from userhooks.engine.backfill.table_layout import Key, Row, TableLayout, texts
from userhooks.engine.capture.transactions import WATERMARK
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.functions import Bound
from userhooks.engine.postgres.diagnosis import Trouble, Unavailable
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.snapshot import Snapshot
from userhooks.engine.resources import BackfillResource, Table

PAGE_ROWS, FIRST_PAGE_ROWS = 1000, 100
"""Maximum number of rows in a page, and in the first page."""
PAGE_BYTES = 8_000_000
"""Target size of a page, estimated from the row size of the previous page; the first page has no estimate."""
PAGES_IN_DELIVERY = 3
"""Maximum number of pages that are read but not yet delivered and saved."""
PAGES_PER_TURN = 10
"""Pages to read before yielding the connection."""
_WAITING_FOR_STANDBY = "select backend_xid::text::int8 from pg_stat_activity where wait_event = 'SyncRep' and backend_xid is not null"
_LONGEST_PAUSE = 0.5
"""Longest pause between checks whether commits are visible, in seconds."""
_REPORT_AFTER = 1.0
"""Seconds to wait for commits to become visible before the wait is reported."""
_FEW = 20 * PAGE_ROWS
"""Maximum number of matching rows for which the query of each page may examine all of them."""
_NOT_VISIBLE = Trouble(
    "A commit is in the WAL but not visible yet, so backfills must wait.",
    "Check whether a synchronous standby is down (SELECT * FROM pg_stat_replication;).",
)


class Failed(Exception):
    """The backfill cannot continue; the text gives the reason."""


class TableChanged(Exception):
    """The table differs from the catalog, which must be read again."""


class BackfillRun:
    """One active backfill.

    `streamed` returns the ids of the latest transactions in the stream. `report` is called with the problem that keeps the backfill
    waiting.

    A run never reads more than PAGES_IN_DELIVERY pages past the saved cursor, so at most that many are sent again after a crash.
    """

    def __init__(
        self,
        backfill: BackfillResource,
        delivery: SinkDelivery,
        cursor: Cursor | None,
        *,
        bound: Callable[[], Bound | None],
        streamed: Callable[[], list[int]],
        now_us: Callable[[], int],
        now_text: Callable[[], str],
        report: Callable[[BaseException | None], None],
    ) -> None:
        self.id = backfill.id
        self.sink_id = backfill.sink_id
        self.table = backfill.table
        self.has_started = asyncio.Event()
        """Set at the first watermark."""
        self.progress = PageProgress(backfill, cursor, now_text)
        self.handover = RowHandover(self.progress, delivery, bound=bound, now_us=now_us)
        self._delivery = delivery
        self._streamed = streamed
        self._report = report
        self._layout: TableLayout
        self._position = cursor
        self._page_rows = FIRST_PAGE_ROWS

    def use(self, table: Table, types: TypeCatalog) -> None:
        """Adopt the current definition of the table; raises Failed if the backfill cannot continue with it."""
        backfill, cursor, layout = self.progress.backfill, self.progress.cursor, self.handover.layout
        query = PageQuery.of(backfill, table)
        if layout is not None and query == layout.query:
            return
        problem = table.unreadable(backfill.sort_column)
        if problem is None and layout is not None and layout.query.order != query.order:
            problem = "its primary key has changed; start a new backfill"
        if problem is None and cursor is not None and len(cursor) != len(query.order):
            problem = "its primary key has changed; start a new backfill"
        if problem is not None:
            raise Failed(f"{'.'.join(self.table)} cannot be read: {problem}.")
        self._layout = self.handover.layout = TableLayout.of(query, types)

    def watermark(self, token: str) -> None:
        """Handle a watermark from the stream."""
        if self.handover.watermark(token):
            self.has_started.set()

    # --- turns ---------------------------------------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until there are rows to read and room for them."""
        await self.handover.until(lambda: self._sink_is_ready and bool(self.handover.to_read_again or self._has_room))

    async def delivered(self) -> None:
        """Wait until all rows handed over were delivered, stored, or dropped."""
        await self.handover.until(lambda: self.progress.is_delivered)

    def poke(self) -> None:
        """Re-evaluate the conditions that the run waits for, because the sink has changed."""
        self.progress.changed.set()

    @property
    def _sink_is_ready(self) -> bool:
        """Whether the sink is active and has no backlog on disk, so that a backfill never fills the store."""
        return self._delivery.sink.status == "active" and not self._delivery.queue.spill.in_use

    @property
    def _has_room(self) -> bool:
        return self.progress.in_delivery + self.handover.waiting < PAGES_IN_DELIVERY

    async def turn(self, connection: AsyncConnection[Any]) -> bool:
        """Read up to PAGES_PER_TURN pages; return whether the whole table has been handed over.

        The stream must start reporting changes to `handover` before the first turn. Raises Interrupted, TableChanged, and psycopg's errors.
        """
        handover = self.handover
        handover.start_turn()
        self._position = handover.position
        try:
            await self._read(connection)
        finally:
            handover.end_turn()
        return handover.has_ended and not handover.to_read_again

    async def _read(self, connection: AsyncConnection[Any]) -> None:
        await self._until_streamed_is_visible(connection)
        handover = self.handover
        keys = list(handover.to_read_again)
        for start in range(0, len(keys), self._page_rows):
            await self._read_rows(connection, keys[start : start + self._page_rows])
        for _ in range(PAGES_PER_TURN):
            if handover.has_ended or not self._sink_is_ready or not self._has_room:
                break
            if await self._read_page(connection):
                break
        await handover.until(lambda: not handover.waiting)

    async def _until_streamed_is_visible(self, connection: AsyncConnection[Any]) -> None:
        """Wait until a SELECT sees all transactions that the stream has already delivered.

        A commit can be in the stream long before it is visible if it waits for a synchronous standby.
        """
        unseen = self._streamed()
        # The stream remembers a limited number of transactions, so ask Postgres for older ones that may still be waiting.
        waiting = await (await connection.execute(_WAITING_FOR_STANDBY)).fetchall()
        unseen += [xid for (xid,) in waiting]
        pause, waited = 0.002, 0.0
        while True:
            row = await (await connection.execute("select pg_current_snapshot()::text")).fetchone()
            assert row is not None  # noqa: S101  # A SELECT without FROM returns one row.
            self._snapshot = Snapshot.parse(row[0])
            unseen = self._snapshot.unseen(unseen)
            if not unseen:
                return
            if waited > _REPORT_AFTER:
                self._report(Unavailable(_NOT_VISIBLE))
            await asyncio.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _read_page(self, connection: AsyncConnection[Any]) -> bool:
        """Read the next page; return whether it is the last."""
        only = self.handover.only
        query = self._layout.query.page(self._position, only, self._page_rows, few=self._are_few)
        rows, snapshot = await self._fetch(connection, query)
        is_last = len(rows) < self._page_rows
        read = RowsRead(rows, snapshot, only, is_last=is_last)
        if rows:
            self._position = self._layout.cursor_of(rows[-1])
            self._page_rows = max(1, min(PAGE_ROWS, PAGE_BYTES * len(rows) // max(1, sum(read.sizes))))
        await self._mark(connection, read)
        return is_last

    @property
    def _are_few(self) -> bool:
        """Whether the next page's query may examine all matching rows; before the rows are counted, only the first page's may."""
        count = self.progress.backfill.rows_initial_count
        return self._position is None if count is None else count <= _FEW

    async def _read_rows(self, connection: AsyncConnection[Any], keys: Sequence[Key]) -> None:
        only = self.handover.only
        rows, snapshot = await self._fetch(connection, self._layout.query.rows([texts(key) for key in keys], only))
        await self._mark(connection, RowsRead(rows, snapshot, only, keys))

    async def _fetch(self, connection: AsyncConnection[Any], query: Query) -> tuple[list[Row], Snapshot]:
        result = (await AsyncRawCursor(connection).execute(*query)).pgresult
        assert result is not None  # noqa: S101  # A SELECT has a result.
        shape = self._layout.shape
        if [result.ftype(i) for i in range(1, result.nfields)] != [shape.types.base(c.type_oid) for c in shape.columns]:
            raise TableChanged("the types of its columns have changed")
        value, columns = result.get_value, range(1, result.nfields)
        rows = [tuple([value(r, c) for c in columns]) for r in range(result.ntuples)]
        if rows:
            self._snapshot = Snapshot.parse((value(0, 0) or b"").decode())
        return rows, self._snapshot  # Without rows, an older snapshot is safe because it sees less.

    async def _mark(self, connection: AsyncConnection[Any], read: RowsRead) -> None:
        self.handover.expect(read)
        await connection.execute("select pg_logical_emit_message(true, %s, %s)", (WATERMARK, read.token))

    async def count(self, connection: AsyncConnection[Any]) -> None:
        """Count the rows to read; raises psycopg's errors."""
        row = await (await AsyncRawCursor(connection).execute(*self._layout.query.count(self.handover.only))).fetchone()
        self.progress.counted(int(row[0]) if row else None)
