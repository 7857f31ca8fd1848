"""The circuit breaker of a sink, which decides whether its receiver is down. Pure: the caller passes time and random numbers."""

from __future__ import annotations

from userhooks.engine.delivery.retry import RetrySchedule

DOWN_AFTER = 5
"""Consecutive failures of new messages after which a receiver counts as down.

Until a request succeeds, the sink then sends one request at a time, mostly retries.
"""
MOST_SECONDS = 60.0
"""Longest wait in seconds before a new message is tried; the receiver may be rejecting only the retried messages."""


class CircuitBreaker:
    """Tracks recent attempts to detect that a receiver is down."""

    __slots__ = ("_refused", "_schedule", "misses", "next_new")

    def __init__(self, schedule: RetrySchedule) -> None:
        self._schedule = schedule
        self.misses = 0
        """consecutive new messages that the receiver did not accept"""
        self._refused = 0
        self.next_new = 0.0
        """earliest time for a new message while the receiver is down or the retry queue is full"""

    @property
    def is_down(self) -> bool:
        """Whether the last new messages all failed. Failed retries do not count, since the fault may be in the message."""
        return self.misses >= DOWN_AFTER

    def new_failed(self, now: float, rng: float) -> None:
        """Record the failure of a new message; each consecutive failure delays the next new message further. `rng` is in [0, 1)."""
        self._refused += 1
        wait = self._schedule.wait(max(1, self._refused - DOWN_AFTER + 1), rng)
        self.next_new = now + min(MOST_SECONDS, wait)

    def succeeded(self) -> bool:
        """Record a success; return whether the receiver was down before it."""
        was_down = self.is_down
        self.reset()
        return was_down

    def reset(self) -> None:
        """Forget all failures, because the receiver has changed or is back up."""
        self.misses = self._refused = 0
        self.next_new = 0.0
