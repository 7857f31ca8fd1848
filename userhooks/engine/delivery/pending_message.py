"""What a sink owes: messages, what they were read from, how many there are. Pure; in what order they go out is in `sink_delivery.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from userhooks.engine.change import Change

UNSAVED = 50_000, 25_000
"""Messages that only memory has, at which reading the source stops and goes on"""
UNSAVED_BYTES = 64_000_000, 32_000_000
"""The same in bytes of their changes"""
AT_HAND = 1000
"""Messages in memory above which the source is read in small steps: more would have left the processor's caches before they are sent"""
SMALL_STEP = 64
WINDOW = 1000
"""Messages that a sink which is behind keeps in memory"""
WINDOW_BYTES = 16_000_000
"""The same in bytes of their changes"""
LEAST_WINDOW = 10
ALL_WINDOWS = 50_000
"""Messages in the windows of all sinks that are behind: ten thousand may be, when one host is down"""
ALL_WINDOWS_BYTES = 64_000_000


class MessageSource(Protocol):
    """What a message was read from: a transaction, or a page of a backfill."""

    def acknowledge(self, index: int, sink_number: int) -> None:
        """The message is delivered."""

    def release(self) -> None:
        """The message is no longer owed from here: nobody wants it any more, or the store has it."""


class PendingMessage:
    """One change that one sink owes its receiver. `unfiltered`: the filter has to be asked (again) before it may be sent.

    `row` is its id in the store; NOT_STORED, BEING_STORED, or SETTLED while it is being stored.
    """

    __slots__ = ("attempts", "change", "group", "row", "source", "unfiltered")

    def __init__(
        self, change: Change, source: MessageSource, group: object, unfiltered: bool = False, row: int = 0, attempts: int = 0
    ) -> None:
        self.change = change
        self.source = source
        self.group = group
        self.attempts = attempts
        self.unfiltered = unfiltered
        self.row = row

    @property
    def position(self) -> int | None:
        """Where its source has it, in the order of commits; None for a row of a backfill, which has no place there."""
        return self.change.commit_lsn if self.change.backfill_id is None else None


NOT_STORED, BEING_STORED, SETTLED = 0, -1, -2


class MemoryBudget:
    """How much is in memory. What only memory has: reading the source stops while that is too much. What the store has as well:
    sinks which are behind keep a window of it, and share the room for all windows.
    """

    def __init__(self, changed: Callable[[], None], *, messages: tuple[int, int] = UNSAVED, size: tuple[int, int] = UNSAVED_BYTES) -> None:
        self.waiting = 0
        self.size = 0
        self.is_full = False
        self.behind = 0
        self._high, self._low = messages
        self._high_size, self._low_size = size
        self._changed = changed

    def add(self, count: int, size: int) -> None:
        """Count messages of so many bytes in, or out with negative numbers."""
        self.waiting += count
        self.size += size
        if self.is_full:
            if self.waiting <= self._low and self.size <= self._low_size:
                self.is_full = False
                self._changed()
        elif self.waiting > self._high or self.size > self._high_size:
            self.is_full = True
            self._changed()

    def at_once(self) -> int:
        """How many changes may be read before deliveries get a turn."""
        return max(SMALL_STEP, AT_HAND - self.waiting)

    @property
    def window(self) -> int:
        """How many messages one sink which is behind may keep in memory."""
        return max(LEAST_WINDOW, min(WINDOW, ALL_WINDOWS // max(1, self.behind)))

    @property
    def window_bytes(self) -> int:
        """How many bytes of changes one sink which is behind may keep in memory; one message may always be there."""
        return min(WINDOW_BYTES, ALL_WINDOWS_BYTES // max(1, self.behind))
