"""The short form of each torture test (`make torture` runs the long form)."""

from __future__ import annotations

import random

from tests.torture.crash_loop import crash_loop
from tests.torture.dead_endpoints import dead_endpoints
from tests.torture.full_disk import full_disk
from tests.torture.lab import Outcome
from tests.torture.outage import outage
from tests.torture.slow_endpoints import slow_endpoints
from tests.torture.soak import soak


def seed() -> int:
    """Return a new seed for a run; the printed outcome includes it."""
    return random.randrange(10**6)


def passed(outcome: Outcome) -> bool:
    print(outcome)
    return not outcome.faults


def test_nothing_is_lost_or_out_of_order_over_crashes_and_repeats_stay_few() -> None:
    assert passed(crash_loop(cycles=7, seed=seed()))


def test_an_endpoint_that_was_down_gets_everything_in_order_and_holds_neither_wal_nor_memory() -> None:
    assert passed(outage(rows=30_000, rate=10_000.0, seed=seed(), retry_base=0.05))


def test_dead_endpoints_keep_nothing_from_the_live_ones() -> None:
    assert passed(dead_endpoints(sinks=66, dead=6, rate=200.0, seconds=2.0, seed=seed()))


def test_slow_endpoints_keep_nothing_from_the_quick_ones_and_get_everything_in_the_end() -> None:
    assert passed(slow_endpoints(rate=200.0, seconds=3.0, seed=seed()))


def test_a_store_that_is_full_is_said_and_loses_nothing() -> None:
    assert passed(full_disk(rows=8_000, pages=100, seed=seed()))


def test_receivers_that_fail_all_the_time_get_everything_when_they_come_back() -> None:
    assert passed(soak(seconds=5.0, rate=500.0, users=10, failing=2, seed=seed()))
