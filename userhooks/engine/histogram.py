"""Latencies as counts per bucket: what the delivery path fills, and `metrics.py` reads. Pure; the clock is the caller's.

Buckets are those of sequin 0.14.6's `sequin_delivery_latency_us` and `sequin_internal_latency_us` (recorded).
"""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_US = (10, 100, 1_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 50_000_000)
"""Upper bounds in microseconds, each part of its bucket; one more bucket takes what is longer."""
OWN_HISTOGRAMS = 200
"""How many sinks have histograms of their own: 10,000 sinks would make half a million series of them."""


class Histogram:
    """How many observations fell into each bucket of `BOUNDS_US`, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_US) + 1)
        self.sum = 0

    def observe(self, microseconds: int) -> None:
        """Count one observation (about 0.15 µs)."""
        self.counts[bisect_left(BOUNDS_US, microseconds)] += 1
        self.sum += microseconds


class Latencies:
    """The three histograms of a sink: request to 2xx, request to anything else, and change read to request sent."""

    __slots__ = ("failed", "internal", "succeeded")

    def __init__(self) -> None:
        self.succeeded = Histogram()
        self.failed = Histogram()
        self.internal = Histogram()


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

    def forget(self, sink_id: str) -> None:
        """The sink is deleted: its place is free."""
        self.own.pop(sink_id, None)
