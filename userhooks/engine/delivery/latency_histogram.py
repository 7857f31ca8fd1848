"""Latency histograms, filled by deliveries and read by `api/prometheus.py`. Pure: the caller measures the time.

The buckets are those of `sequin_delivery_latency_us` and `sequin_internal_latency_us`, as recorded from Sequin 0.14.6.
"""

from __future__ import annotations

from bisect import bisect_right

BOUNDS_US = (10, 100, 1_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 50_000_000)
"""Inclusive upper bounds of the buckets in microseconds; one more bucket counts longer latencies."""
OWN_HISTOGRAMS = 200
"""Maximum number of sinks with separate histograms; 10,000 sinks would produce half a million time series."""


class Histogram:
    """The number of observations in each bucket of `BOUNDS_US`, and their sum.

    `observe` only appends a latency in microseconds to a list; `sort` moves the list into the buckets. Call `sort` regularly to free the
    memory. Sorting takes 0.1 µs per observation for a thousand at once, but 0.35 µs for one at a time.
    """

    __slots__ = ("_counts", "_noted", "_sum", "observe")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_US) + 1)
        self._sum = 0
        self._noted: list[float] = []
        self.observe = self._noted.append

    def sort(self) -> None:
        """Move all observations into the buckets."""
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
        """Number of observations in each bucket; the last bucket has no upper bound."""
        self.sort()
        return self._counts

    @property
    def sum(self) -> int:
        """Sum of all observations in microseconds."""
        self.sort()
        return self._sum


class Latencies:
    """A sink's three histograms: request to 2xx, request to any other outcome, and commit to request sent."""

    __slots__ = ("failed", "internal", "succeeded")

    def __init__(self) -> None:
        self.succeeded = Histogram()
        self.failed = Histogram()
        self.internal = Histogram()

    def sort(self) -> None:
        """Move all observations into the buckets."""
        for histogram in (self.succeeded, self.failed, self.internal):
            histogram.sort()


class HistogramPool:
    """The histograms of all sinks: the first `OWN_HISTOGRAMS` sinks have separate ones, the others share `shared`."""

    def __init__(self) -> None:
        self.own: dict[str, Latencies] = {}
        self.shared = Latencies()

    def of(self, sink_id: str) -> Latencies:
        """Return a sink's separate histograms, created on first use, or the shared ones. Do not call this for idle sinks."""
        if sink_id not in self.own:
            if len(self.own) >= OWN_HISTOGRAMS:
                return self.shared
            self.own[sink_id] = Latencies()
        return self.own[sink_id]

    def sort(self) -> None:
        """Move all observations into the buckets."""
        for latencies in (self.shared, *self.own.values()):
            latencies.sort()

    def forget(self, sink_id: str) -> None:
        """Drop the histograms of a deleted sink, so that another sink can have separate ones."""
        self.own.pop(sink_id, None)
