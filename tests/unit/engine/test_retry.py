"""The decision after a failed attempt: retry, split, or discard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.engine.delivery.retry import Again, Discard, Halve, RetrySchedule, after_failure, retry_after_seconds


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 64), (8, 128), (9, 256), (10, 600), (11, 600), (500, 600)],
)
def test_the_waits_are_sequins(failures: int, seconds: float) -> None:
    assert RetrySchedule().wait(failures, 0.5) == pytest.approx(seconds)


@given(failures=st.integers(1, 40), rng=st.floats(0, 1, exclude_max=True))
def test_waits_are_spread_by_fifteen_percent_and_never_above_the_cap(failures: int, rng: float) -> None:
    middle = RetrySchedule(spread=0).wait(failures, 0)
    wait = RetrySchedule().wait(failures, rng)
    assert 0.85 * middle - 1e-9 <= wait <= min(600, 1.15 * middle) + 1e-9


def decide(**given: object) -> Again | Halve | Discard:
    arguments = {"size": 1, "attempts": 1, "max_attempts": None, "retry_after": None, "rng": 0.5} | given
    return after_failure(RetrySchedule(), **arguments)  # type: ignore[arg-type]


def test_a_single_message_is_tried_again() -> None:
    assert decide(attempts=3) == Again(4.0)


def test_a_batch_is_halved_and_its_halves_do_not_wait_for_the_offender() -> None:
    assert decide(size=100, attempts=7) == Halve(1.0)


def test_the_retry_limit_counts_attempts_in_total() -> None:
    assert decide(attempts=2, max_attempts=3) == Again(2.0)
    assert decide(attempts=3, max_attempts=3) == Discard()


def test_a_batch_is_split_before_anything_in_it_is_discarded() -> None:
    assert isinstance(decide(size=2, attempts=9, max_attempts=3), Halve)


@pytest.mark.parametrize(("asked", "wait"), [(None, 1.0), (0, 1.0), (7, 7.0), (10_000, 600.0)])
def test_retry_after_lengthens_the_wait_within_bounds(asked: float | None, wait: float) -> None:
    assert decide(retry_after=asked) == Again(wait)


NOW = 1_792_567_680.0
"""Wed, 21 Oct 2026 07:28:00 GMT"""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" \t120 ", 120.0),
        ("99999999", 99_999_999.0),
        ("Wed, 21 Oct 2026 07:29:30 GMT", 90.0),
        ("Wednesday, 21-Oct-26 07:29:30 GMT", 90.0),
        ("Wed Oct 21 07:29:30 2026", 90.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after_seconds(value.encode(), NOW) == seconds


@pytest.mark.parametrize("value", ["9" * 8, "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_beyond_the_bound_is_the_bound(value: str) -> None:
    assert decide(retry_after=retry_after_seconds(value.encode(), NOW)) == Again(600.0)


@pytest.mark.parametrize("value", ["", "-5", "1.5", "soon", "7 8", "Wed, 32 Oct 2026 07:28:00 GMT", "21 Oct 2026", "\u0667"])
def test_a_malformed_retry_after_asks_for_nothing(value: str) -> None:
    assert retry_after_seconds(value.encode(), NOW) is None


@given(value=st.binary(max_size=60) | st.from_regex(rb"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d\d:\d\d:\d\d GMT", fullmatch=True))
def test_no_retry_after_breaks_the_client_or_asks_for_time_past(value: bytes) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or seconds >= 0


@given(
    failures=st.integers(1, 40),
    rng=st.floats(0, 1, exclude_max=True),
    base=st.floats(0.01, 10),
    cap=st.floats(0.01, 1000),
)
def test_waits_grow_with_the_failures_up_to_the_cap(failures: int, rng: float, base: float, cap: float) -> None:
    schedule = RetrySchedule(base=base, cap=cap)
    assert 0 < schedule.wait(failures, rng) <= schedule.wait(failures + 1, rng) <= cap
    assert schedule.wait(schedule.last, rng) == cap


@given(
    size=st.integers(1, 1000),
    attempts=st.integers(1, 40),
    most=st.none() | st.integers(1, 40),
    asked=st.none() | st.floats(0, 1e7),
    rng=st.floats(0, 1, exclude_max=True),
)
def test_a_message_is_given_up_alone_and_after_its_last_attempt_only(
    size: int, attempts: int, most: int | None, asked: float | None, rng: float
) -> None:
    schedule = RetrySchedule()
    step = after_failure(schedule, size=size, attempts=attempts, max_attempts=most, retry_after=asked, rng=rng)
    assert isinstance(step, Discard) == (size == 1 and most is not None and attempts >= most)
    assert isinstance(step, Halve) == (size > 1)
    if not isinstance(step, Discard):
        least = schedule.wait(1 if size > 1 else attempts, rng)
        assert step.wait == max(least, min(asked or 0.0, schedule.cap)) <= schedule.cap
