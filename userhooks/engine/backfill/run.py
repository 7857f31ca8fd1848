"""One backfill: reading a table for one sink beside live changes. All of them are kept going in `manager.py`; SQL is in `page_query.py`,
snapshots are judged in `postgres/snapshot.py`, messages go out through `delivery/sink_delivery.py`.

A page is read by key together with its snapshot; then a transactional logical message, the watermark, is written. When that comes by in
the slot's stream, the page's rows are handed over at that position. A row of it that changed in a transaction which the page's snapshot
does not see would be stale: it is dropped when the sink was owed that change (the change tells the newer story), and read again when it
was not. A row that an update not owed has put behind the reading position is read again, too.

This holds only if the run knows of every change that its snapshot may not see. It notes those that come by during its turns; a turn
begins by waiting until all that came by before is visible. Between turns it notes only rows that have to be read again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor

from userhooks.engine.backfill.page_query import Cursor, Only, PageQuery, Query, only_rows
from userhooks.engine.capture.transactions import WATERMARK
from userhooks.engine.change import Change, size_of
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.functions import Bound
from userhooks.engine.postgres.diagnosis import Trouble, Unavailable
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.pgoutput import Value
from userhooks.engine.postgres.snapshot import Snapshot
from userhooks.engine.resources import BackfillResource, Table
from userhooks.engine.routing import wal_forms
from userhooks.engine.table_shape import TableShape

PAGE_ROWS, FIRST_PAGE_ROWS = 1000, 100
PAGE_BYTES = 8_000_000
"""Bytes of a page, by the rows of the page before it; how large the rows of the first one are nobody knows"""
PAGES_IN_DELIVERY = 3
PAGES_PER_TURN = 10
"""After so many another backfill may have the connection"""
_WAITING_FOR_STANDBY = "select backend_xid::text::int8 from pg_stat_activity where wait_event = 'SyncRep' and backend_xid is not null"
_LONGEST_LOOK = 0.5
_SOON = 1.0
_FEW = 20 * PAGE_ROWS

Key = tuple[Value, ...]
"""The key's columns of a row as text; never UNCHANGED, since a key is always in the log"""
Row = tuple[bytes | None, ...]


class Interrupted(Exception):
    """What was read cannot be handed over and has to be read again: the stream was lost, or the table or the filter has changed."""


class Failed(Exception):
    """The backfill cannot go on; the text says why."""


class TableChanged(Exception):
    """The table is not what the catalog says: read the catalog again."""


class Page:
    """How many rows of one page are still to be delivered, or to be read again. The cursor may move to `end` when there are none."""

    __slots__ = ("_on_done", "end", "handed_over", "owed", "size")

    def __init__(self, size: int, end: Cursor | None, on_done: Callable[[], None]) -> None:
        self.size = size
        self.end = end
        self.owed = 0
        self.handed_over = False
        self._on_done = on_done

    def acknowledge(self, index: int, sink_number: int) -> None:
        """One message of the page is delivered."""
        self.release()

    def release(self) -> None:
        """One message of the page is delivered, in the store, or no longer owed."""
        self.owed -= 1
        if not self.owed and self.handed_over:
            self._on_done()

    @property
    def is_done(self) -> bool:
        """Whether nothing of the page is left to do."""
        return self.handed_over and not self.owed


@dataclass(slots=True)
class _Reading:
    """Rows that were read and wait for their watermark: a page, or (then `keys` are given) rows that are read again."""

    rows: list[Row]
    snapshot: Snapshot
    only: Only | None
    keys: Sequence[Key] | None = None
    is_last: bool = False
    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    sizes: list[int] = field(init=False)
    """of the rows, in bytes"""

    def __post_init__(self) -> None:
        self.sizes = list(map(size_of, self.rows))


class BackfillRun:
    """One active backfill. It is told of changes (`touched`) from before its first turn on, and of watermarks during its turns.

    After a crash at most PAGES_IN_DELIVERY pages are sent again: no more are read than that beyond the `cursor` that was saved last.
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
        self.backfill = backfill
        self.cursor = cursor
        self.table = backfill.table
        self.begun = asyncio.Event()
        self.progressed = asyncio.Event()
        self._delivery = delivery
        self._bound = bound
        self._streamed = streamed
        self._now_us = now_us
        self._now_text = now_text
        self._report = report
        self._query: PageQuery | None = None
        self._handed_over = cursor
        self._position = cursor
        self._ended = False
        self._touched: dict[Key, list[tuple[int, bool]]] = {}
        self._again: dict[Key, Page] = {}
        self._readings: deque[_Reading] = deque()
        self._broken: Interrupted | None = None
        self._pages: deque[Page] = deque()
        self._unsaved = 0
        self._page_rows = FIRST_PAGE_ROWS
        self._changed = asyncio.Event()
        self._in_turn = False

    @property
    def sink_id(self) -> str:
        """The backfill's sink."""
        return self.backfill.sink_id

    def use(self, table: Table, types: TypeCatalog) -> None:
        """Read the table as it is now; raises Failed when that cannot be gone on with."""
        query = PageQuery.of(self.backfill, table)
        if query == self._query:
            return
        problem = table.unreadable(self.backfill.sort_column)
        if problem is None and self._query is not None and self._query.order != query.order:
            problem = "its primary key has changed meanwhile; start a new backfill"
        if problem is None and self.cursor is not None and len(self.cursor) != len(query.order):
            problem = "its primary key has changed meanwhile; start a new backfill"
        if problem is not None:
            raise Failed(f"{'.'.join(self.table)} cannot be read: {problem}.")
        self._query = query
        self._shape = shape = TableShape.of_table(table, types)
        self._key = tuple(shape.positions[name] for name in query.table.key)
        self._order = tuple(shape.positions[name] for name in query.order)

    # --- called by the stream ------------------------------------------------------------------------------------------

    def touched(self, change: Change, xid: int, owed: bool) -> None:
        """Remember that a row changed, under its key before and after; between turns only what has to be read again matters."""
        if not self._in_turn and (owed or change.action != "update"):
            return
        key, order = self._key, self._order
        if change.shape is not self._shape:
            positions = change.shape.positions
            assert self._query is not None  # noqa: S101  # set before the first turn
            if not positions.keys() >= set(self._query.order):
                self._break("a column of the primary key has another name now")
                return
            key = tuple(positions[name] for name in self._query.table.key)
            order = tuple(positions[name] for name in self._query.order)
        new, old = change.new, change.old
        for row in (new, old) if self._in_turn else ():
            if row is not None:
                self._touched.setdefault(tuple([row[i] for i in key]), []).append((xid, owed))
        if owed or new is None or change.action != "update":
            return
        if [old[i] for i in order] != [new[i] for i in order] if old is not None else len(order) > len(key):
            self._read_again(tuple([new[i] for i in key]))

    def _read_again(self, key: Key) -> None:
        """Read a row at the next turn that may be behind the position by now, and hold the cursor until then."""
        if key not in self._again:
            if not self._pages:
                page = Page(0, None, self._page_done)
                page.handed_over = True
                self._pages.append(page)
            self._again[key] = self._pages[-1]
            self._pages[-1].owed += 1
            self._changed.set()

    def watermark(self, token: str) -> None:
        """A watermark came by; when it is the one of the rows that wait, hand them over."""
        if not self._readings or self._readings[0].token != token:
            return
        reading = self._readings[0]
        if reading.only != self._only:
            self._break("the filter has changed")
            return
        if reading.keys is None:
            self._hand_over_page(reading)
        else:
            self._hand_over_again(reading, reading.keys)
        self._readings.popleft()
        sees = reading.snapshot.sees
        self._touched = {key: kept for key, entries in self._touched.items() if (kept := [e for e in entries if not sees(e[0])])}
        self.begun.set()
        self._changed.set()

    def _hand_over_page(self, reading: _Reading) -> None:
        self._ended = reading.is_last
        if not reading.rows:
            return
        self._handed_over = self._cursor_of(reading.rows[-1])
        page = Page(len(reading.rows), self._handed_over, self._page_done)
        self._pages.append(page)
        now, judge = self._now_us(), self._judge()
        for row, size in zip(reading.rows, reading.sizes, strict=True):
            if self._touched:
                key = tuple([row[i] for i in self._key])
                newer = self._newer(key, reading.snapshot)
                if newer:
                    if not any(newer) and key not in self._again:
                        page.owed += 1
                        self._again[key] = page
                    continue
            self._owe(row, size, page, now, judge)
        page.handed_over = True
        if page.is_done:
            self._page_done()

    def _hand_over_again(self, reading: _Reading, keys: Sequence[Key]) -> None:
        rows: dict[Key, tuple[Row, int]] = {}
        for row, size in zip(reading.rows, reading.sizes, strict=True):
            rows[tuple([row[i] for i in self._key])] = (row, size)
        now, judge = self._now_us(), self._judge()
        for key in keys:
            newer = self._newer(key, reading.snapshot)
            if newer and not any(newer):
                continue  # once more, then
            page = self._again.pop(key)
            if not newer and key in rows:
                self._owe(*rows[key], page, now, judge)
            page.release()

    def _newer(self, key: Key, snapshot: Snapshot) -> Sequence[bool]:
        """Return for each change of the row that the snapshot does not see whether the sink was owed it."""
        return [owed for xid, owed in self._touched.get(key, ()) if not snapshot.sees(xid)]

    def interrupt(self) -> None:
        """The stream was lost and taken up again, perhaps without the watermarks that are waited for."""
        if self._readings:
            self._break("the stream was interrupted")

    def _break(self, why: str) -> None:
        self._readings.clear()
        self._broken = Interrupted(why)
        self._changed.set()

    def _judge(self) -> Callable[[Change], bool]:
        """Return what asks the filter about a row: the one value that it demands, and the rest of it, where these say all."""
        bound, delivery, shape = self._bound(), self._delivery, self._shape
        if bound is None or bound.equality is None or not delivery.sink.source.covers(*shape.table):
            return delivery.queue.filter
        forms, position = wal_forms(shape, bound.equality), shape.positions.get(bound.equality.column)
        if forms is None or position is None:
            return delivery.queue.filter
        rest = bound.rest_of_others
        return lambda change: change.raw(position) in forms and (rest is None or rest(change))

    def _owe(self, row: Row, size: int, page: Page, now_us: int, judge: Callable[[Change], bool]) -> None:
        change = Change.read(self._shape, row, self.backfill.id, now_us, size)
        delivery = self._delivery
        try:
            wanted, unfiltered = judge(change), False
        except Exception:  # the filter raised: the message fails visibly when its turn comes
            wanted, unfiltered = True, True
        if wanted:
            page.owed += 1
            delivery.owe(PendingMessage(change, page, delivery.queue.group_of(change), unfiltered))

    # --- turns ---------------------------------------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until there is something to do for which a connection is needed."""
        await self._until(lambda: self._is_wanted and bool(self._again or self._has_room))

    @property
    def _is_wanted(self) -> bool:
        """A sink that is paused, or has to catch up on live changes first, is not read for: a backfill never fills the store."""
        return self._delivery.sink.status == "active" and not self._delivery.queue.spill.in_use

    @property
    def _has_room(self) -> bool:
        return len(self._pages) + self._unsaved + len(self._readings) < PAGES_IN_DELIVERY

    @property
    def _only(self) -> Only | None:
        return only_rows(self._shape, self._bound())

    async def turn(self, connection: AsyncConnection[Any]) -> bool:
        """Read for a while; True once the end of the table is handed over. Raises Interrupted, TableChanged, and psycopg's
        errors.

        From before the first one on `touched` has to be called.
        """
        self._touched.clear()
        self._readings.clear()
        self._broken = None
        self._position = self._handed_over
        self._in_turn = True
        try:
            await self._read(connection)
        finally:
            self._in_turn = False
        return self._ended and not self._again

    async def _read(self, connection: AsyncConnection[Any]) -> None:
        await self._until_streamed_is_visible(connection)
        again = list(self._again)
        for start in range(0, len(again), self._page_rows):
            await self._read_rows(connection, again[start : start + self._page_rows])
        for _ in range(PAGES_PER_TURN):
            if self._ended or not self._is_wanted or not self._has_room:
                break
            if await self._read_page(connection):
                break
        await self._until(lambda: not self._readings)

    async def _until_streamed_is_visible(self, connection: AsyncConnection[Any]) -> None:
        """A commit can be in the stream before a SELECT sees it, for long when a synchronous standby is waited for."""
        unseen = self._streamed()
        held_up = await (await connection.execute(_WAITING_FOR_STANDBY)).fetchall()  # perhaps so long that the stream has forgotten them
        unseen += [xid for (xid,) in held_up]
        pause, waited = 0.002, 0.0
        while True:
            row = await (await connection.execute("select pg_current_snapshot()::text")).fetchone()
            assert row is not None  # noqa: S101  # a select without from answers one row
            self._snapshot = Snapshot.parse(row[0])
            unseen = self._snapshot.unseen(unseen)
            if not unseen:
                return
            if waited > _SOON:
                self._report(Unavailable(_NOT_VISIBLE))
            await asyncio.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_LOOK)

    async def _read_page(self, connection: AsyncConnection[Any]) -> bool:
        """Read the next page; True when it is the last."""
        assert self._query is not None  # noqa: S101
        only = self._only
        rows, snapshot = await self._fetch(connection, self._query.page(self._position, only, self._page_rows, few=self._are_few))
        is_last = len(rows) < self._page_rows
        reading = _Reading(rows, snapshot, only, is_last=is_last)
        if rows:
            self._position = self._cursor_of(rows[-1])
            self._page_rows = max(1, min(PAGE_ROWS, PAGE_BYTES * len(rows) // max(1, sum(reading.sizes))))
        await self._mark(connection, reading)
        return is_last

    @property
    def _are_few(self) -> bool:
        """Whether all rows that the filter wants may be looked at for each page; before they are counted, for the first one only."""
        counted = self.backfill.rows_initial_count
        return self._position is None if counted is None else counted <= _FEW

    async def _read_rows(self, connection: AsyncConnection[Any], keys: Sequence[Key]) -> None:
        assert self._query is not None  # noqa: S101
        only = self._only
        rows, snapshot = await self._fetch(connection, self._query.rows([_texts(key) for key in keys], only))
        await self._mark(connection, _Reading(rows, snapshot, only, keys))

    async def _fetch(self, connection: AsyncConnection[Any], query: Query) -> tuple[list[Row], Snapshot]:
        result = (await AsyncRawCursor(connection).execute(*query)).pgresult
        assert result is not None  # noqa: S101  # a select has one
        types = self._shape.types
        if [result.ftype(i) for i in range(1, result.nfields)] != [types.base(c.type_oid) for c in self._shape.columns]:
            raise TableChanged("the types of its columns have changed")
        value, columns = result.get_value, range(1, result.nfields)
        rows = [tuple([value(r, c) for c in columns]) for r in range(result.ntuples)]
        if rows:
            self._snapshot = Snapshot.parse((value(0, 0) or b"").decode())
        return rows, self._snapshot  # an older one will do: it sees less

    async def _mark(self, connection: AsyncConnection[Any], reading: _Reading) -> None:
        if self._broken is not None:
            raise self._broken
        self._readings.append(reading)
        await connection.execute("select pg_logical_emit_message(true, %s, %s)", (WATERMARK, reading.token))

    def _cursor_of(self, row: Row) -> Cursor:
        return _texts(tuple([row[i] for i in self._order]))

    # --- progress ------------------------------------------------------------------------------------------------------

    def _page_done(self) -> None:
        """Move the cursor over the pages that are done from the front."""
        pages, backfill = self._pages, self.backfill
        while pages and pages[0].is_done:
            done = pages.popleft()
            if done.end is not None:
                self.cursor = done.end
                self._unsaved += 1
                count = backfill.rows_processed_count + done.size
                backfill = replace(backfill, rows_processed_count=count, rows_ingested_count=count, updated_at=self._now_text())
                self.progressed.set()
        self.backfill = backfill
        self._changed.set()

    @property
    def unsaved(self) -> int:
        """How many pages are done since the cursor was saved."""
        return self._unsaved

    def saved(self, pages: int) -> None:
        """The cursor is saved; it covers so many pages more."""
        self._unsaved -= pages
        self._changed.set()

    async def count(self, connection: AsyncConnection[Any]) -> None:
        """Count the rows that there are to read; raises psycopg's errors."""
        assert self._query is not None  # noqa: S101
        row = await (await AsyncRawCursor(connection).execute(*self._query.count(self._only))).fetchone()
        self.backfill = replace(self.backfill, rows_initial_count=int(row[0]) if row else None)
        self.progressed.set()

    async def delivered(self) -> None:
        """Wait until all that was read is delivered, in the store, or not wanted."""
        await self._until(lambda: not self._pages)

    def poke(self) -> None:
        """The sink has changed: look again."""
        self._changed.set()

    async def _until(self, ready: Callable[[], bool]) -> None:
        while True:
            if self._broken is not None:
                broken, self._broken = self._broken, None
                raise broken
            if ready():
                return
            self._changed.clear()
            await self._changed.wait()

    def owns(self, owed: object) -> bool:
        """Whether a message's `owed` is one of this run's pages."""
        return isinstance(owed, Page) and owed in self._pages


_NOT_VISIBLE = Trouble(
    "A commit is in the WAL, but not visible yet: no backfill can be read beside it.",
    "See whether a synchronous standby is down (SELECT * FROM pg_stat_replication;).",
)


def _texts(key: Key) -> Cursor:
    return tuple(value.decode() if isinstance(value, bytes) else "" for value in key)
