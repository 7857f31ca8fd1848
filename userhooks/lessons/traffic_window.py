"""A sliding window over the traffic of several users. Pure.

It has the counts of the last 60 completed seconds, and the rows waiting at the end of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

WINDOW_SECONDS = 60
"""Length of the window in seconds."""


class SecondCounts(NamedTuple):
    """What happened to one user's rows in one second: inserts, requests by outcome, and new rows in accepted requests."""

    generated: int = 0
    delivered: int = 0
    refused: int = 0
    accepted_rows: int = 0


class TrafficSecond(NamedTuple):
    """One user's traffic in one second (`second` is in Unix time), and the rows waiting at its end."""

    second: int
    generated: int
    delivered: int
    refused: int
    waiting: int


class TrafficWindow:
    """Counts by user and second. Seconds that leave the window are kept only as the number of rows that they left waiting.

    Add every second from `start` on. A second may be added repeatedly, because a request may be answered seconds after it arrived; the
    latest counts replace earlier ones. `end` is the Unix time at which the window ends, and 0 until a second is complete.
    """

    def __init__(self, users: Iterable[str], start: int) -> None:
        self.start = start
        self.end = 0
        self._counts: dict[str, dict[int, SecondCounts]] = {user: {} for user in users}
        self._waiting_before = dict.fromkeys(self._counts, 0)
        self._first = start

    @property
    def users(self) -> list[str]:
        """The users' names."""
        return list(self._counts)

    @property
    def length(self) -> int:
        """Number of completed seconds in the window, at most 60."""
        return max(0, min(self.end - self.start, WINDOW_SECONDS))

    def add(self, counts: Mapping[str, Mapping[int, SecondCounts]], end: int) -> None:
        """Add counts by user and second, and move the window so that it ends at `end`. Seconds without counts had no traffic."""
        self.end = max(self.end, end)
        for user, seconds in self._counts.items():
            seconds.update({second: found for second, found in counts.get(user, {}).items() if self._first <= second < self.end})
        self._first = max(self._first, self.end - WINDOW_SECONDS)
        for user, seconds in self._counts.items():
            for second in sorted(second for second in seconds if second < self._first):
                self._waiting_before[user] = _still_waiting(self._waiting_before[user], seconds.pop(second))

    def seconds(self, user: str) -> list[TrafficSecond]:
        """Return a user's seconds in the window, oldest first."""
        waiting = self._waiting_before[user]
        result = []
        for second in range(self.end - self.length, self.end):
            counts = self._counts[user].get(second, SecondCounts())
            waiting = _still_waiting(waiting, counts)
            result.append(TrafficSecond(second, counts.generated, counts.delivered, counts.refused, waiting))
        return result


def _still_waiting(before: int, counts: SecondCounts) -> int:
    return max(0, before + counts.generated - counts.accepted_rows)
