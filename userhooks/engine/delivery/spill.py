"""The part of a sink's queue that is only on disk, and the messages added after it. Pure; the queue is in `pending_queue.py`."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from userhooks.engine.delivery.pending_message import LEAST_WINDOW, MemoryBudget, PendingMessage


class RowIds:
    """A queue of row ids, eight bytes each."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._first = 0

    def __len__(self) -> int:
        return len(self._ids) - self._first

    def extend(self, rows: Iterable[int]) -> None:
        """Add rows at the end."""
        self._ids.extend(rows)

    def put_back(self, rows: Sequence[int]) -> None:
        """Put rows back at the front."""
        self._ids[: self._first] = array("q", rows)
        self._first = 0

    def take(self, count: int) -> list[int]:
        """Remove and return up to `count` rows from the front."""
        taken = self._ids[self._first : self._first + count].tolist()
        self._first += len(taken)
        if self._first > 10_000 and self._first * 2 > len(self._ids):
            del self._ids[: self._first]
            self._first = 0
        return taken


class Spill:
    """Messages of a sink that is behind: `rows`, on disk, follow the queue's ready messages; `fresh`, still in memory, follow `rows`."""

    __slots__ = ("_budget", "_loaded", "fresh", "in_use", "is_loading", "is_swept", "rows")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.in_use = False
        self.rows = RowIds()
        self.fresh: deque[PendingMessage] = deque()
        self.is_loading = False
        self.is_swept = False
        """whether all messages that were in memory when the spill came into use have been offered to the store"""
        self._loaded = LEAST_WINDOW

    def use(self, in_use: bool) -> None:
        """Start or stop using the spill. The memory for windows is shared by all sinks whose spill is in use."""
        self._budget.behind += in_use - self.in_use
        self.in_use = in_use

    def surplus(self, ready: deque[PendingMessage]) -> list[int]:
        """Remove stored messages beyond the window from memory; return their row ids."""
        kept, room = 0, self._budget.window_bytes
        for message in islice(ready, self._budget.window):
            room -= message.change.size
            if room < 0:
                break
            kept += 1
        rows: list[int] = []
        while len(ready) > max(kept, 1) and ready[-1].row > 0:
            rows.append(ready.pop().row)
        rows.reverse()
        return rows

    def let_fresh_follow(self, ready: deque[PendingMessage]) -> None:
        """Move stored messages from `fresh` to `rows`, which keeps only their row ids."""
        if ready and ready[-1].row <= 0 and not len(self.rows):
            return  # the store is full: the messages before the fresh ones are not stored
        while self.fresh and self.fresh[0].row > 0:
            self.rows.extend((self.fresh.popleft().row,))

    def next_rows(self, ready: deque[PendingMessage]) -> list[int]:
        """Remove and return the rows to read back now; none while the window is more than half full."""
        half = self._half
        if len(ready) > min(half, self._loaded):
            return []
        self.is_loading = True
        return self.rows.take(half)

    def loaded(self, messages: Sequence[PendingMessage], left: Sequence[int]) -> None:
        """Record that `messages` were read back, and put back the rows `left`, which did not fit."""
        self.is_loading = False
        self._loaded = len(messages) // 2 if left else self._half
        self.rows.put_back(left)

    @property
    def _half(self) -> int:
        return max(1, self._budget.window // 2)
