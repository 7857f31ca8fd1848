"""Waiting for a value, with a clock that moves only during sleeps."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from userhooks.errors import DeliveriesMissing
from userhooks.shared.waiting import POLL, until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_it_returns_as_soon_as_the_value_is_there() -> None:
    clock, values = Clock(), iter([1, 2, 3, 4])
    assert until(lambda: next(values), 3, clock=clock, sleep=clock.sleep) == 3
    assert clock.now == pytest.approx(2 * POLL)


def test_it_says_what_there_was_instead() -> None:
    clock, values = Clock(), chain([1], repeat({"ada": 2}))
    with pytest.raises(DeliveriesMissing, match=r"After 5 s the value is \{'ada': 2\}, not \{'ada': 3\}\.\nIs something slow"):
        until(lambda: next(values), {"ada": 3}, 5, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(5, abs=2 * POLL)


def test_it_looks_at_least_once() -> None:
    clock = Clock()
    assert until(lambda: "there", "there", 0, clock=clock, sleep=clock.sleep) == "there"
