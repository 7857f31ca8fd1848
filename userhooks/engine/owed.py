"""What a sink owes: messages, what they were read from, how many there are. Pure; in what order they go out is in `delivery.py`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Protocol

from userhooks.engine.rendering import Change


class Owed(Protocol):
    """What a message was read from: a transaction of the slot, or a page of a backfill."""

    def settle(self, index: int, sink_number: int) -> None:
        """The message is delivered."""

    def forgive(self) -> None:
        """The message is no longer owed from here: nobody wants it any more, or the store has it."""


class Message:
    """One change that one sink owes its receiver. `unjudged`: the filter has to be asked (again) before it may be sent.

    `row` is its id in the store; NOT_STORED, BEING_STORED, or SETTLED while it is being stored.
    """

    __slots__ = ("attempts", "change", "group", "owed", "row", "unjudged")

    def __init__(self, change: Change, owed: Owed, group: object, unjudged: bool = False, row: int = 0, attempts: int = 0) -> None:
        self.change = change
        self.owed = owed
        self.group = group
        self.attempts = attempts
        self.unjudged = unjudged
        self.row = row


NOT_STORED, BEING_STORED, SETTLED = 0, -1, -2


class Load:
    """How many messages only memory has; the reading of the slot stops while there are too many."""

    def __init__(self, high: int, low: int, changed: Callable[[], None]) -> None:
        self.high = high
        self.low = low
        self.waiting = 0
        self._changed = changed

    def add(self, count: int) -> None:
        """Count messages in, or out with a negative number."""
        before, self.waiting = self.waiting, self.waiting + count
        if (before <= self.high) != (self.waiting <= self.high) or (before <= self.low) != (self.waiting <= self.low):
            self._changed()


class Rows:
    """Row ids in order, eight bytes each."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._first = 0

    def __len__(self) -> int:
        return len(self._ids) - self._first

    def extend(self, rows: Iterable[int]) -> None:
        """Add rows at the end."""
        self._ids.extend(rows)

    def take(self, count: int) -> list[int]:
        """Take rows from the front."""
        taken = self._ids[self._first : self._first + count].tolist()
        self._first += len(taken)
        if self._first > 10_000 and self._first * 2 > len(self._ids):
            del self._ids[: self._first]
            self._first = 0
        return taken
