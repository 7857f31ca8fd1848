"""The queue of one sink's batches in backoff. Pure: `retry.py` computes waits, and `sink_delivery.py` has the timer."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from userhooks.engine.delivery.pending_message import PendingMessage

FULL_AT_BATCHES = 1000
FULL_AT_BYTES = 16_000_000


class RetryQueue:
    """Batches ordered by the time at which they are due, on the caller's clock."""

    __slots__ = ("_batches", "_bytes", "_count")

    def __init__(self) -> None:
        self._batches: list[tuple[float, int, list[PendingMessage]]] = []
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[PendingMessage]]:
        return (batch for _, _, batch in self._batches)

    @property
    def next_due(self) -> float:
        """The time at which the earliest batch is due. The queue must not be empty."""
        return self._batches[0][0]

    @property
    def is_full(self) -> bool:
        """Whether so many messages are in backoff that no new ones should be sent."""
        return len(self._batches) >= FULL_AT_BATCHES or self._bytes > FULL_AT_BYTES

    def push(self, batch: list[PendingMessage], due: float) -> None:
        """Add a batch; batches due at the same time keep the order in which they were added."""
        self._count += 1
        self._bytes += _size(batch)
        heapq.heappush(self._batches, (due, self._count, batch))

    def pop(self) -> list[PendingMessage]:
        """Remove and return the batch that is due first."""
        batch = heapq.heappop(self._batches)[2]
        self._bytes -= _size(batch)
        return batch

    def next_after(self, now: float) -> float | None:
        """Return the earliest due time after `now`, or None if there is none."""
        return min((due for due, _, _ in self._batches if due > now), default=None)

    def hurry(self) -> None:
        """Make all batches due now."""
        self._batches = [(0.0, number, batch) for _, number, batch in self._batches]
        heapq.heapify(self._batches)

    def clear(self) -> None:
        """Remove all batches."""
        self._batches.clear()
        self._bytes = 0


def _size(batch: list[PendingMessage]) -> int:
    return sum(message.change.size for message in batch)
