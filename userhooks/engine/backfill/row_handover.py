"""Hands a backfill's rows over to the sink's delivery, at their position in the slot's stream. `run.py` reads the rows.

When the watermark of a page arrives in the stream, the page's rows are handed over. A row is stale if it was changed by a transaction that
the page's snapshot does not see. If the change was routed to the sink, the row is dropped, because the change has newer data. Otherwise,
the row is read again. A row is also read again if an update that was not routed to the sink moved it behind the reading position.

A turn of the run starts by waiting until every change already streamed is visible. So the snapshot of a page can miss only changes that
arrive during the turn, and those are recorded. Between turns, only rows that must be read again are recorded.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from userhooks.engine.backfill.page_progress import Page, PageProgress
from userhooks.engine.backfill.page_query import Only, only_rows
from userhooks.engine.backfill.table_layout import Key, Row, TableLayout
from userhooks.engine.change import Change, size_of
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.functions import Bound
from userhooks.engine.postgres.snapshot import Snapshot
from userhooks.engine.routing import wal_forms


class Interrupted(Exception):
    """Rows cannot be handed over and must be read again, because the stream was lost, or the table or filter has changed."""


@dataclass(slots=True)
class RowsRead:
    """Rows that wait for their watermark: a page or, if `keys` is set, rows that were read again."""

    rows: list[Row]
    snapshot: Snapshot
    only: Only | None
    keys: Sequence[Key] | None = None
    is_last: bool = False
    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    sizes: list[int] = field(init=False)
    """The sizes of the rows in bytes."""

    def __post_init__(self) -> None:
        self.sizes = list(map(size_of, self.rows))


class RowHandover:
    """The part of a backfill that the stream calls.

    The stream reports watermarks and, starting before the first turn, every change to the table (`touched`).
    """

    def __init__(
        self,
        progress: PageProgress,
        delivery: SinkDelivery,
        *,
        bound: Callable[[], Bound | None],
        now_us: Callable[[], int],
    ) -> None:
        self.table = progress.backfill.table
        self.sink_id = progress.backfill.sink_id
        self.layout: TableLayout | None = None
        self.position = progress.cursor
        """The cursor after the last row handed over."""
        self.has_ended = False
        """Whether the last page was handed over."""
        self.to_read_again: dict[Key, Page] = {}
        self._progress = progress
        self._delivery = delivery
        self._bound = bound
        self._now_us = now_us
        self._touched: dict[Key, list[tuple[int, bool]]] = {}
        self._waiting: deque[RowsRead] = deque()
        self._broken: Interrupted | None = None
        self._in_turn = False

    @property
    def only(self) -> Only | None:
        """The column values to which queries can be limited under the sink's current filter; None for no limit."""
        assert self.layout is not None  # noqa: S101  # Set before the first turn.
        return only_rows(self.layout.shape, self._bound())

    # --- called by the run ---------------------------------------------------------------------------------------------

    def start_turn(self) -> None:
        """Discard the state of the previous turn, and record every change from now on."""
        self._touched.clear()
        self._waiting.clear()
        self._broken = None
        self._in_turn = True

    def end_turn(self) -> None:
        """From now on, record only rows that must be read again."""
        self._in_turn = False

    def expect(self, rows: RowsRead) -> None:
        """Keep rows until their watermark arrives, which the caller must write next; raises Interrupted."""
        if self._broken is not None:
            raise self._broken
        self._waiting.append(rows)

    @property
    def waiting(self) -> int:
        """The number of row sets that wait for their watermarks."""
        return len(self._waiting)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True, which is checked after each change of the progress; raises Interrupted."""
        changed = self._progress.changed
        while True:
            if self._broken is not None:
                broken, self._broken = self._broken, None
                raise broken
            if ready():
                return
            changed.clear()
            await changed.wait()

    # --- called by the stream ------------------------------------------------------------------------------------------

    def touched(self, change: Change, xid: int, owed: bool) -> None:
        """Record a change to a row, under its old and new key; between turns, only rows that must be read again are recorded."""
        if not self._in_turn and (owed or change.action != "update"):
            return
        layout = self.layout
        assert layout is not None  # noqa: S101  # Set before the first turn.
        key, order = layout.key, layout.order
        if change.shape is not layout.shape:
            positions = change.shape.positions
            if not positions.keys() >= set(layout.query.order):
                self._break("a column of the primary key was renamed")
                return
            key = tuple(positions[name] for name in layout.query.table.key)
            order = tuple(positions[name] for name in layout.query.order)
        new, old = change.new, change.old
        for row in (new, old) if self._in_turn else ():
            if row is not None:
                self._touched.setdefault(tuple([row[i] for i in key]), []).append((xid, owed))
        if owed or new is None or change.action != "update":
            return
        if [old[i] for i in order] != [new[i] for i in order] if old is not None else len(order) > len(key):
            self._read_again(tuple([new[i] for i in key]))

    def _read_again(self, key: Key) -> None:
        """Read a row again in the next turn, since it may have moved behind the reading position; the cursor waits until then."""
        if key not in self.to_read_again:
            self.to_read_again[key] = self._progress.hold()

    def interrupt(self) -> None:
        """Handle a reconnect of the stream, after which the expected watermarks may be missing."""
        if self._waiting:
            self._break("the stream was interrupted")

    def _break(self, why: str) -> None:
        self._waiting.clear()
        self._broken = Interrupted(why)
        self._progress.changed.set()

    def watermark(self, token: str) -> bool:
        """Hand over the rows that wait for this watermark; return whether there were any."""
        if not self._waiting or self._waiting[0].token != token:
            return False
        rows = self._waiting[0]
        if rows.only != self.only:
            self._break("the filter has changed")
            return False
        if rows.keys is None:
            self._hand_over_page(rows)
        else:
            self._hand_over_again(rows, rows.keys)
        self._waiting.popleft()
        sees = rows.snapshot.sees
        self._touched = {key: kept for key, entries in self._touched.items() if (kept := [e for e in entries if not sees(e[0])])}
        self._progress.changed.set()
        return True

    # --- handing over --------------------------------------------------------------------------------------------------

    def _hand_over_page(self, read: RowsRead) -> None:
        self.has_ended = read.is_last
        layout = self.layout
        assert layout is not None  # noqa: S101
        if not read.rows:
            return
        self.position = layout.cursor_of(read.rows[-1])
        page = self._progress.add(len(read.rows), self.position)
        owe = self._owing(layout)
        for row, size in zip(read.rows, read.sizes, strict=True):
            if self._touched:
                key = tuple([row[i] for i in layout.key])
                newer = self._newer(key, read.snapshot)
                if newer:
                    if not any(newer) and key not in self.to_read_again:
                        page.owed += 1
                        self.to_read_again[key] = page
                    continue
            owe(row, size, page)
        page.all_handed_over()

    def _hand_over_again(self, read: RowsRead, keys: Sequence[Key]) -> None:
        layout = self.layout
        assert layout is not None  # noqa: S101
        rows: dict[Key, tuple[Row, int]] = {}
        for row, size in zip(read.rows, read.sizes, strict=True):
            rows[tuple([row[i] for i in layout.key])] = (row, size)
        owe = self._owing(layout)
        for key in keys:
            newer = self._newer(key, read.snapshot)
            if newer and not any(newer):
                continue  # The row is read again in the next turn.
            page = self.to_read_again.pop(key)
            if not newer and key in rows:
                owe(*rows[key], page)
            page.release()

    def _newer(self, key: Key, snapshot: Snapshot) -> Sequence[bool]:
        """Return one flag for each change to the row that is not visible in the snapshot: whether the change was routed to the sink."""
        return [owed for xid, owed in self._touched.get(key, ()) if not snapshot.sees(xid)]

    def _filter(self, layout: TableLayout) -> Callable[[Change], bool]:
        """Return the sink's filter, if possible as a comparison with the required value followed by the filter's other conditions."""
        bound, delivery, shape = self._bound(), self._delivery, layout.shape
        if bound is None or bound.equality is None or not delivery.sink.source.covers(*shape.table):
            return delivery.queue.filter
        forms, position = wal_forms(shape, bound.equality), shape.positions.get(bound.equality.column)
        if forms is None or position is None:
            return delivery.queue.filter
        rest = bound.rest_of_others
        return lambda change: change.raw(position) in forms and (rest is None or rest(change))

    def _owing(self, layout: TableLayout) -> Callable[[Row, int, Page], None]:
        """Return the function that queues a row of a page if the sink's filter accepts it; everything shared by rows is looked up once."""
        shape, backfill_id, now_us = layout.shape, self._progress.backfill.id, self._now_us()
        is_wanted, group_of, owe = self._filter(layout), self._delivery.queue.group_of, self._delivery.owe

        def owe_row(row: Row, size: int, page: Page) -> None:
            change = Change.read(shape, row, backfill_id, now_us, size)
            try:
                wanted, unfiltered = is_wanted(change), False
            except Exception:  # The filter raised; the message is queued, and its delivery fails with the error.
                wanted, unfiltered = True, True
            if wanted:
                page.owed += 1
                owe(PendingMessage(change, page, group_of(change), unfiltered))

        return owe_row
