"""The short form of each part of the torture (`make torture`): what it promises holds in seconds as it does in hours."""

from __future__ import annotations

import random

from tests.torture.crash_loop import crash_loop
from tests.torture.dead_endpoints import dead_endpoints
from tests.torture.lab import Outcome
from tests.torture.slow_endpoints import slow_endpoints
from tests.torture.soak import soak


def seed() -> int:
    """A new seed for every run; each outcome shows it."""
    return random.randrange(10**6)


def passed(outcome: Outcome) -> bool:
    print(outcome)
    return not outcome.faults


def test_nothing_is_lost_or_out_of_order_over_crashes_and_repeats_stay_few() -> None:
    assert passed(crash_loop(cycles=7, seed=seed()))


def test_dead_endpoints_keep_nothing_from_the_live_ones() -> None:
    assert passed(dead_endpoints(sinks=66, dead=6, rate=200, seconds=2, seed=seed()))


def test_slow_endpoints_keep_nothing_from_the_quick_ones_and_get_everything_in_the_end() -> None:
    assert passed(slow_endpoints(rate=200, seconds=3, seed=seed()))


def test_receivers_that_fail_all_the_time_get_everything_when_they_come_back() -> None:
    assert passed(soak(seconds=5, rate=500, users=10, failing=2, seed=seed()))
