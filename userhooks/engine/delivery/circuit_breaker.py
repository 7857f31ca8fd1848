"""Whether a sink's receiver is down, and when something new may be tried then. Pure: clock and random part are the caller's."""

from __future__ import annotations

from userhooks.engine.delivery.retry import RetrySchedule

DOWN_AFTER = 5
"""New messages that failed in a row after which a receiver is down: one request at a time, most of them for what has failed before, until
one succeeds."""
MOST_SECONDS = 60.0
"""The longest time after which something new is tried: perhaps only what has been tried is refused."""


class CircuitBreaker:
    """What the last attempts say of a receiver."""

    __slots__ = ("_refused", "_schedule", "misses", "next_new")

    def __init__(self, schedule: RetrySchedule) -> None:
        self._schedule = schedule
        self.misses = 0
        """new messages that failed in a row at the receiver"""
        self._refused = 0
        self.next_new = 0.0
        """when something new may be tried while the receiver is down, or too much waits for a retry"""

    @property
    def is_down(self) -> bool:
        """Whether the receiver has refused everything new of late. What has failed before may fail again for its own fault."""
        return self.misses >= DOWN_AFTER

    def new_failed(self, now: float, rng: float) -> None:
        """A new message has failed: the more in a row, the later the next one is tried. `rng` in [0, 1)."""
        self._refused += 1
        wait = self._schedule.wait(max(1, self._refused - DOWN_AFTER + 1), rng)
        self.next_new = now + min(MOST_SECONDS, wait)

    def succeeded(self) -> bool:
        """A request was answered well; returns whether the receiver was down until then."""
        was_down = self.is_down
        self.reset()
        return was_down

    def reset(self) -> None:
        """Forget everything: the receiver is another, or is back."""
        self.misses = self._refused = 0
        self.next_new = 0.0
