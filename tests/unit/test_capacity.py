"""The figures that lesson 08 shows for several latencies and several runs."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.capacity import measure
from userhooks.capacity.counting_receiver import CountingReceiver
from userhooks.capacity.measure import Latency, Throughput
from userhooks.errors import NotRunning


@pytest.mark.parametrize(("count", "p50", "p99"), [(1, 1, 1), (2, 1, 2), (10, 5, 10), (100, 50, 99), (101, 51, 100), (200, 100, 198)])
def test_a_latency_is_that_of_the_nearest_rank(count: int, p50: int, p99: int) -> None:
    delay = Latency.of((n / 1000 for n in range(count, 0, -1)), rate=100)
    assert (delay.count, round(delay.p50_ms), round(delay.p99_ms), round(delay.max_ms)) == (count, p50, p99, count)


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_the_nearest_rank_is_the_least_value_that_the_share_does_not_exceed(values: list[int]) -> None:
    delay = Latency.of(values, rate=100)
    for found, percent in ((delay.p50_ms, 50), (delay.p99_ms, 99)):
        enough = math.ceil(len(values) * percent / 100)
        assert sum(value * 1000 <= found for value in values) >= enough
        assert sum(value * 1000 < found for value in values) < enough


@pytest.mark.parametrize(("runs", "p99"), [(1, 3.0), (2, 3.0), (4, 3.0), (6, 3.0), (10, 4.0)])
def test_the_p99_of_several_runs_is_not_that_of_the_best(monkeypatch: pytest.MonkeyPatch, runs: int, p99: float) -> None:
    measured = iter([3.0, 1.0, 9.0, 5.0, 4.0])
    load_users: Any = SimpleNamespace(grow=lambda _: None, engine_pid=None)
    monkeypatch.setattr(measure, "settle", lambda _: None)
    monkeypatch.setattr(measure, "throughput", lambda *_: Throughput(1, 1, 1.0, None, None, None))
    monkeypatch.setattr(measure, "latency", lambda *_: Latency(1, 100, 1.0, next(measured), 9.0))
    (point,) = measure.scale(load_users, [10], runs=runs)
    assert point.p99_ms == p99


def test_a_receiver_that_was_closed_says_so() -> None:
    counter = CountingReceiver()
    assert counter.count().requests == 0
    counter.close()
    counter.close()
    for use in (counter.count, counter.reset, lambda: counter.wait_for(1, timeout=1)):
        with pytest.raises(NotRunning, match="was closed") as caught:
            use()
        assert "capacity.LoadUsers(stack)" in caught.value.remedy
