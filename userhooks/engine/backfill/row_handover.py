"""Rows that a backfill has read, held until their place in the stream, then handed over to the sink's delivery. Reading is in `run.py`.

When the watermark of a page comes by in the slot's stream, its rows are handed over at that position. A row that changed in a transaction
which the page's snapshot does not see would be stale: it is dropped when the sink was owed that change (the change tells the newer
story), and read again when it was not. A row that an update not owed has put behind the reading position is read again, too.

This holds only if every change is noted that the snapshot may not see: those that come by during a turn, before which the run waits until
all earlier ones are visible. Between turns only rows that have to be read again are noted.
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
    """What was read cannot be handed over and has to be read again: the stream was lost, or the table or the filter has changed."""


@dataclass(slots=True)
class RowsRead:
    """Rows that wait for their watermark: a page, or (then `keys` are given) rows that are read again."""

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


class RowHandover:
    """The stream's side of one backfill: it is told of changes (`touched`) from before the first turn on, and of watermarks."""

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
        """the last row handed over"""
        self.has_ended = False
        """whether the last page is handed over"""
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
        """What SQL may leave out under the sink's present filter."""
        assert self.layout is not None  # noqa: S101  # set before the first turn
        return only_rows(self.layout.shape, self._bound())

    # --- called by the run ---------------------------------------------------------------------------------------------

    def start_turn(self) -> None:
        """Forget the turn before, and note every change from now on."""
        self._touched.clear()
        self._waiting.clear()
        self._broken = None
        self._in_turn = True

    def end_turn(self) -> None:
        """Note from now on only what has to be read again."""
        self._in_turn = False

    def expect(self, rows: RowsRead) -> None:
        """Keep rows until their watermark, which the caller writes next; raises Interrupted."""
        if self._broken is not None:
            raise self._broken
        self._waiting.append(rows)

    @property
    def waiting(self) -> int:
        """Readings that wait for their watermarks."""
        return len(self._waiting)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait; raises Interrupted."""
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
        """Note that a row changed, under its key before and after; between turns only what has to be read again matters."""
        if not self._in_turn and (owed or change.action != "update"):
            return
        layout = self.layout
        assert layout is not None  # noqa: S101  # set before the first turn
        key, order = layout.key, layout.order
        if change.shape is not layout.shape:
            positions = change.shape.positions
            if not positions.keys() >= set(layout.query.order):
                self._break("a column of the primary key has another name now")
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
        """Read a row at the next turn that may be behind the position by now, and hold the cursor until then."""
        if key not in self.to_read_again:
            self.to_read_again[key] = self._progress.hold()

    def interrupt(self) -> None:
        """The stream was lost and taken up again, perhaps without the watermarks that are waited for."""
        if self._waiting:
            self._break("the stream was interrupted")

    def _break(self, why: str) -> None:
        self._waiting.clear()
        self._broken = Interrupted(why)
        self._progress.changed.set()

    def watermark(self, token: str) -> bool:
        """Hand over the rows that wait for this watermark; returns whether any did."""
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
                continue  # it is read again at the next turn
            page = self.to_read_again.pop(key)
            if not newer and key in rows:
                owe(*rows[key], page)
            page.release()

    def _newer(self, key: Key, snapshot: Snapshot) -> Sequence[bool]:
        """Return for each change of the row that the snapshot does not see whether the sink was owed it."""
        return [owed for xid, owed in self._touched.get(key, ()) if not snapshot.sees(xid)]

    def _filter(self, layout: TableLayout) -> Callable[[Change], bool]:
        """Return the check of the sink's filter: the one value that it demands, and the rest of it, where these say all."""
        bound, delivery, shape = self._bound(), self._delivery, layout.shape
        if bound is None or bound.equality is None or not delivery.sink.source.covers(*shape.table):
            return delivery.queue.filter
        forms, position = wal_forms(shape, bound.equality), shape.positions.get(bound.equality.column)
        if forms is None or position is None:
            return delivery.queue.filter
        rest = bound.rest_of_others
        return lambda change: change.raw(position) in forms and (rest is None or rest(change))

    def _owing(self, layout: TableLayout) -> Callable[[Row, int, Page], None]:
        """Return what makes the sink owe a row of a page, if its filter accepts it; what all the rows share is looked up here, once."""
        shape, backfill_id, now_us = layout.shape, self._progress.backfill.id, self._now_us()
        is_wanted, group_of, owe = self._filter(layout), self._delivery.queue.group_of, self._delivery.owe

        def owe_row(row: Row, size: int, page: Page) -> None:
            change = Change.read(shape, row, backfill_id, now_us, size)
            try:
                wanted, unfiltered = is_wanted(change), False
            except Exception:  # the filter raised: the message fails visibly when its turn comes
                wanted, unfiltered = True, True
            if wanted:
                page.owed += 1
                owe(PendingMessage(change, page, group_of(change), unfiltered))

        return owe_row
