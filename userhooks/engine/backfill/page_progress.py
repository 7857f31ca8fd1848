"""Progress of a backfill: pages in delivery, the cursor after the finished pages, row counts. No I/O; `manager.py` saves it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from userhooks.engine.backfill.page_query import Cursor
from userhooks.engine.resources import BackfillResource


class Page:
    """One page of rows; `owed` is the number of rows that must still be delivered or read again.

    `end` is the cursor after the page's last row, to which the backfill's cursor moves when the page is done.
    """

    __slots__ = ("_on_done", "end", "handed_over", "owed", "size")

    def __init__(self, size: int, end: Cursor | None, on_done: Callable[[], None]) -> None:
        self.size = size
        self.end = end
        self.owed = 0
        self.handed_over = False
        self._on_done = on_done

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Record that a message of the page was delivered."""
        # Inlined from `release`: the call would add a twentieth to the cost of delivering a row.
        self.owed -= 1
        if not self.owed and self.handed_over:
            self._on_done()

    def release(self) -> None:
        """Record that a message of the page was delivered, stored, or dropped."""
        self.owed -= 1
        if not self.owed and self.handed_over:
            self._on_done()

    def all_handed_over(self) -> None:
        """Record that all rows of the page were handed over to the sink's delivery."""
        self.handed_over = True
        if self.is_done:
            self._on_done()

    @property
    def is_done(self) -> bool:
        """Whether all rows were handed over and none is pending."""
        return self.handed_over and not self.owed


class PageProgress:
    """The pages of one backfill, in order; `changed` is set on any change, and `progressed` when there is something to save."""

    def __init__(self, backfill: BackfillResource, cursor: Cursor | None, now_text: Callable[[], str]) -> None:
        self.backfill = backfill
        self.cursor = cursor
        self.unsaved = 0
        """The number of pages finished since the cursor was last saved."""
        self.changed = asyncio.Event()
        self.progressed = asyncio.Event()
        self._now_text = now_text
        self._pages: deque[Page] = deque()

    @property
    def in_delivery(self) -> int:
        """The number of pages that are unfinished or not saved yet."""
        return len(self._pages) + self.unsaved

    @property
    def is_delivered(self) -> bool:
        """Whether all messages handed over so far were delivered, stored, or dropped."""
        return not self._pages

    def owns(self, owed: object) -> bool:
        """Return whether `owed`, taken from a message, is one of these pages."""
        return isinstance(owed, Page) and owed in self._pages

    def add(self, size: int, end: Cursor | None) -> Page:
        """Add the next page, whose rows are handed over next; `end` is the cursor after its last row."""
        page = Page(size, end, self._page_done)
        self._pages.append(page)
        return page

    def hold(self) -> Page:
        """Make the last page wait for one more row, and return the page; if there is none, add an empty page."""
        if not self._pages:
            self.add(0, None).handed_over = True
        page = self._pages[-1]
        page.owed += 1
        self.changed.set()
        return page

    def _page_done(self) -> None:
        """Move the cursor past the finished pages at the front."""
        pages, backfill = self._pages, self.backfill
        while pages and pages[0].is_done:
            page = pages.popleft()
            if page.end is not None:
                self.cursor = page.end
                self.unsaved += 1
                count = backfill.rows_processed_count + page.size
                backfill = replace(backfill, rows_processed_count=count, rows_ingested_count=count, updated_at=self._now_text())
                self.progressed.set()
        self.backfill = backfill
        self.changed.set()

    def counted(self, rows: int | None) -> None:
        """Store the number of rows to read."""
        self.backfill = replace(self.backfill, rows_initial_count=rows)
        self.progressed.set()

    def saved(self, pages: int) -> None:
        """Record that the cursor was saved; it covers `pages` more pages than before."""
        self.unsaved -= pages
        self.changed.set()
