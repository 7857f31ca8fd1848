"""Pending messages, their sources, and the memory budget for them. Pure; `pending_queue.py` keeps them in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

UNSAVED = 50_000, 25_000
"""Numbers of messages that are only in memory: above the first, reading the source pauses; at the second, it resumes."""
UNSAVED_BYTES = 64_000_000, 32_000_000
"""The same limits in bytes of changes."""
AT_HAND = 1000
"""Messages in memory above which the source is read in small steps, so that messages are sent while they are still in the CPU's caches."""
SMALL_STEP = 64
"""Changes to read per step when many messages are in memory."""
WINDOW = 1000
"""Maximum number of messages that a sink that is behind keeps in memory: its window."""
WINDOW_BYTES = 16_000_000
"""The same limit in bytes of changes."""
LEAST_WINDOW = 10
"""Minimum size of a window, however many sinks are behind."""
ALL_WINDOWS = 50_000
"""Maximum number of messages in all windows together, since ten thousand sinks may be behind when one host is down."""
ALL_WINDOWS_BYTES = 64_000_000


class MessageSource(Protocol):
    """The source of a message: a transaction, or a page of a backfill."""

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Record that a message was delivered."""

    def release(self) -> None:
        """Record that the source need not keep a message, because it is no longer wanted or is stored."""


class Deliverable(Protocol):
    """A change, or a row read by a backfill. Only builders and filters depend on what kind of source it is from. `size` is in bytes."""

    size: int
    commit_lsn: int
    commit_idx: int
    commit_us: int
    backfill_id: str | None


class NoSource:
    """The source of messages that need no acknowledgement: read back from the store, or redelivered manually."""

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Do nothing: for a stored message, the queue deletes its row."""

    def release(self) -> None:
        """Do nothing: for a stored message, the queue deletes its row."""


NO_SOURCE = NoSource()


class PendingMessage:
    """A change that a sink must deliver. If `unfiltered`, it must pass the sink's filter before it may be sent.

    `row` is its row id in the store, or NOT_STORED, BEING_STORED, or SETTLED (delivered or dropped while it was being stored).
    """

    __slots__ = ("attempts", "change", "group", "row", "source", "unfiltered")

    def __init__(
        self, change: Deliverable, source: MessageSource, group: object, unfiltered: bool = False, row: int = 0, attempts: int = 0
    ) -> None:
        self.change: Any = change
        self.source = source
        self.group = group
        self.attempts = attempts
        self.unfiltered = unfiltered
        self.row = row

    @property
    def position(self) -> int | None:
        """The commit LSN of the change; None for a row of a backfill, which has none."""
        return self.change.commit_lsn if self.change.backfill_id is None else None


NOT_STORED, BEING_STORED, SETTLED = 0, -1, -2


class MemoryBudget:
    """The limits on messages in memory.

    Messages that are only in memory are counted: while there are too many, reading the source pauses. Sinks that are behind also keep a
    window of stored messages in memory; all windows share one limit.
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
        """Add messages and their bytes to the count; negative numbers subtract."""
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
        """Return how many changes may be read before deliveries get a turn."""
        return max(SMALL_STEP, AT_HAND - self.waiting)

    @property
    def window(self) -> int:
        """Number of messages that each sink that is behind may keep in memory."""
        return max(LEAST_WINDOW, min(WINDOW, ALL_WINDOWS // max(1, self.behind)))

    @property
    def window_bytes(self) -> int:
        """Bytes of changes that each sink that is behind may keep in memory; one message is always allowed."""
        return min(WINDOW_BYTES, ALL_WINDOWS_BYTES // max(1, self.behind))
