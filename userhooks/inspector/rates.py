"""Request counts and latencies of an inbox for each second, as shown in small plots. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

KEPT_SECONDS = 600
"""Number of seconds for which counts are kept."""

_SAMPLES = 1_000
"""Maximum number of latencies kept for each second to calculate the median."""


@dataclass(slots=True)
class _Second:
    requests: int = 0
    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    rows: int = 0
    slowest: float = 0.0
    latencies: list[float] = field(default_factory=list)


class Rates:
    """Counts and latencies by second of receipt.

    Call `add` once for each request. If a request was added as unanswered, call `answered` once its outcome is known.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self._open: dict[int, tuple[int, int]] = {}

    def add(self, seq: int, received_at: float, status: int | None, *, unanswered: bool, latencies: list[float], rows: int = 0) -> None:
        """Count a request.

        `received_at` is in seconds since 1970. `latencies` are the times from commit to receipt of its messages, in seconds. `rows` is the
        number of new rows in the request, which are counted only if it is accepted.
        """
        at = int(received_at)
        second = self._seconds.get(at)
        if second is None:
            second = self._seconds[at] = _Second()
            for old in [known for known in self._seconds if known <= at - KEPT_SECONDS]:
                del self._seconds[old]
        second.requests += 1
        self._count(second, status, 1, rows)
        if unanswered:
            self._open[seq] = at, rows
        for latency in latencies:
            second.slowest = max(second.slowest, latency)
            if len(second.latencies) < _SAMPLES:
                second.latencies.append(latency)

    def answered(self, seq: int, status: int | None) -> None:
        """Record the outcome of a request that was added as unanswered; `status` is None if no response was sent."""
        at, rows = self._open.pop(seq, (0, 0))
        second = self._seconds.get(at)
        if second is not None:
            self._count(second, None, -1, 0)
            self._count(second, status, 1, rows)

    def newest(self, now: float, seconds: int) -> list[dict[str, Any]]:
        """Return the last `seconds` seconds up to `now`, oldest first, as documented in app.py.

        `p50` is the median of the second's first 1,000 messages.
        """
        empty = _Second()
        entries = []
        for at in range(int(now) - seconds + 1, int(now) + 1):
            second = self._seconds.get(at, empty)
            latency = None
            if second.latencies:
                latency = {"p50": round(statistics.median(second.latencies) * 1000, 3), "max": round(second.slowest * 1000, 3)}
            entries.append(
                {
                    "second": at,
                    "requests": second.requests,
                    "accepted": second.accepted,
                    "refused": second.refused,
                    "unanswered": second.unanswered,
                    "rows": second.rows,
                    "latency_ms": latency,
                }
            )
        return entries

    def _count(self, second: _Second, status: int | None, step: int, rows: int) -> None:
        if status is None:
            second.unanswered += step
        elif 200 <= status < 300:
            second.accepted += step
            second.rows += rows
        else:
            second.refused += step
