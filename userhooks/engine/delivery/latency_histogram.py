"""Latencies as counts per bucket: what the delivery path fills, and `api/prometheus.py` reads. Pure; the clock is the caller's.

Buckets are those of sequin 0.14.6's `sequin_delivery_latency_us` and `sequin_internal_latency_us` (recorded).
"""

from __future__ import annotations

from bisect import bisect_right

BOUNDS_US = (10, 100, 1_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 50_000_000)
"""Upper bounds in microseconds, each part of its bucket; one more bucket takes what is longer."""
OWN_HISTOGRAMS = 200
"""How many sinks have histograms of their own: 10,000 sinks would make half a million series of them."""


class Histogram:
    """How many observations fell into each bucket of `BOUNDS_US`, and their sum.

    `observe` takes one in microseconds and only notes it; `sort` puts all of them into their buckets. Call that now and then, too: what
    is noted takes memory. One by one each would cost 0.35 µs of a delivery, a thousand at once 0.1 µs each.
    """

    __slots__ = ("_counts", "_noted", "_sum", "observe")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_US) + 1)
        self._sum = 0
        self._noted: list[float] = []
        self.observe = self._noted.append

    def sort(self) -> None:
        """Put what was observed into the buckets."""
        noted = self._noted
        if noted:
            noted.sort()
            self._sum += round(sum(noted))
            before = 0
            for i, bound in enumerate(BOUNDS_US):
                upto = bisect_right(noted, bound)
                self._counts[i] += upto - before
                before = upto
            self._counts[-1] += len(noted) - before
            noted.clear()

    @property
    def counts(self) -> list[int]:
        """How many observations are in each bucket; the last one has no bound."""
        self.sort()
        return self._counts

    @property
    def sum(self) -> int:
        """All observations together in microseconds."""
        self.sort()
        return self._sum


class Latencies:
    """The three histograms of a sink: request to 2xx, request to anything else, and change read to request sent."""

    __slots__ = ("failed", "internal", "succeeded")

    def __init__(self) -> None:
        self.succeeded = Histogram()
        self.failed = Histogram()
        self.internal = Histogram()

    def sort(self) -> None:
        """Put what was observed into the buckets."""
        for one in (self.succeeded, self.failed, self.internal):
            one.sort()


class HistogramPool:
    """Gives each sink its histograms: the first `OWN_HISTOGRAMS` that ask have their own, all others share `shared`."""

    def __init__(self) -> None:
        self.own: dict[str, Latencies] = {}
        self.shared = Latencies()

    def of(self, sink_id: str) -> Latencies:
        """Return the sink's histograms, the same ones each time until `forget`; ask at its first traffic, so that idle sinks take none."""
        if sink_id not in self.own:
            if len(self.own) >= OWN_HISTOGRAMS:
                return self.shared
            self.own[sink_id] = Latencies()
        return self.own[sink_id]

    def sort(self) -> None:
        """Put what was observed into the buckets."""
        for one in (self.shared, *self.own.values()):
            one.sort()

    def forget(self, sink_id: str) -> None:
        """The sink is deleted: its place is free."""
        self.own.pop(sink_id, None)
