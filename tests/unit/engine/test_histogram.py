"""Latency histograms: counts per bucket, and which sinks have separate histograms."""

from __future__ import annotations

import pytest

from userhooks.engine.delivery.latency_histogram import BOUNDS_US, OWN_HISTOGRAMS, Histogram, HistogramPool


@pytest.mark.parametrize(("microseconds", "bucket"), [(0, 0), (10, 0), (11, 1), (100, 1), (50_000_000, 10), (50_000_001, 11), (10**12, 11)])
def test_a_bound_belongs_to_its_bucket_and_what_is_longer_to_the_last(microseconds: int, bucket: int) -> None:
    histogram = Histogram()
    histogram.observe(microseconds)
    assert histogram.counts == [int(n == bucket) for n in range(len(BOUNDS_US) + 1)]
    assert histogram.sum == microseconds


def test_a_sink_gets_the_same_histograms_each_time() -> None:
    pool = HistogramPool()
    assert pool.of("a") is pool.of("a")
    assert pool.of("a") is not pool.of("b")


def test_beyond_two_hundred_sinks_all_share_one_and_a_deleted_sink_makes_room() -> None:
    pool = HistogramPool()
    own = [pool.of(str(n)) for n in range(OWN_HISTOGRAMS)]
    assert len({id(one) for one in own}) == 200
    assert pool.of("201") is pool.of("202") is pool.shared
    assert pool.of("7") is own[7]
    pool.forget("7")
    pool.forget("201")
    assert pool.of("203") is not pool.shared
    assert pool.of("7") is pool.shared
