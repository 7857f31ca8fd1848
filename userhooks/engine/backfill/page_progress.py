"""How far a backfill has come: pages in delivery, the cursor behind those that are done, counts of rows. No I/O; `manager.py` saves it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from userhooks.engine.backfill.page_query import Cursor
from userhooks.engine.resources import BackfillResource


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
        self.owed -= 1  # as in `release`: a call would cost a twentieth of a delivered row
        if not self.owed and self.handed_over:
            self._on_done()

    def release(self) -> None:
        """One message of the page is delivered, in the store, or no longer owed."""
        self.owed -= 1
        if not self.owed and self.handed_over:
            self._on_done()

    def all_handed_over(self) -> None:
        """All rows of the page are with the sink's delivery."""
        self.handed_over = True
        if self.is_done:
            self._on_done()

    @property
    def is_done(self) -> bool:
        """Whether nothing of the page is left to do."""
        return self.handed_over and not self.owed


class PageProgress:
    """The pages of one backfill, in order; `changed` is set whenever something moves, `progressed` when there is more to save."""

    def __init__(self, backfill: BackfillResource, cursor: Cursor | None, now_text: Callable[[], str]) -> None:
        self.backfill = backfill
        self.cursor = cursor
        self.unsaved = 0
        """pages done since the cursor was saved"""
        self.changed = asyncio.Event()
        self.progressed = asyncio.Event()
        self._now_text = now_text
        self._pages: deque[Page] = deque()

    @property
    def in_delivery(self) -> int:
        """Pages that are not done, or done and not saved."""
        return len(self._pages) + self.unsaved

    @property
    def is_delivered(self) -> bool:
        """Whether all that was handed over is delivered, in the store, or not wanted."""
        return not self._pages

    def owns(self, owed: object) -> bool:
        """Whether a message's `owed` is one of these pages."""
        return isinstance(owed, Page) and owed in self._pages

    def add(self, size: int, end: Cursor | None) -> Page:
        """Add the next page, whose rows are now handed over."""
        page = Page(size, end, self._page_done)
        self._pages.append(page)
        return page

    def hold(self) -> Page:
        """Return the page that must wait for one more row: the last page, or an empty one."""
        if not self._pages:
            self.add(0, None).handed_over = True
        page = self._pages[-1]
        page.owed += 1
        self.changed.set()
        return page

    def _page_done(self) -> None:
        """Move the cursor over the pages that are done from the front."""
        pages, backfill = self._pages, self.backfill
        while pages and pages[0].is_done:
            done = pages.popleft()
            if done.end is not None:
                self.cursor = done.end
                self.unsaved += 1
                count = backfill.rows_processed_count + done.size
                backfill = replace(backfill, rows_processed_count=count, rows_ingested_count=count, updated_at=self._now_text())
                self.progressed.set()
        self.backfill = backfill
        self.changed.set()

    def counted(self, rows: int | None) -> None:
        """The rows to read were counted."""
        self.backfill = replace(self.backfill, rows_initial_count=rows)
        self.progressed.set()

    def saved(self, pages: int) -> None:
        """The cursor is saved; it covers so many pages more."""
        self.unsaved -= pages
        self.changed.set()
