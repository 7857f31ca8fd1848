"""The judge of the torture tests detects every kind of fault."""

from __future__ import annotations

from tests.torture.judge import Kill, Sink, Verdict, judge
from tests.torture.load import Change
from tests.torture.receiver import Arrival

# Row 1 of user 1 is written by statement 1, changed by statement 2, and deleted by statement 4. Row 2 of user 2 is written by statement 3.
COMMITTED = [Change(1, 1, 1, 2), Change(2, 1, 1, 4), Change(3, 2, 2, 6), Change(4, 1, 1, 5)]
WRITTEN, CHANGED, OTHER, DELETED = range(4)


def arrived(index: int, time: float, *, sink: int = 1, user: int | None = None, idx: int = 0) -> Arrival:
    change = COMMITTED[index]
    return Arrival(time, 0.0, sink, change.row, change.user if user is None else user, change.version, change.statement, idx)


def verdict_on(arrivals: list[Arrival], sinks: list[Sink] | None = None, kills: list[Kill] | None = None) -> Verdict:
    return judge(COMMITTED, sinks or [Sink(1, user=1)], arrivals, kills or [])


def test_everything_once_and_in_order_has_no_faults() -> None:
    verdict = verdict_on([arrived(WRITTEN, 1), arrived(CHANGED, 2), arrived(DELETED, 3)])
    assert (verdict.expected, verdict.delivered, verdict.faults()) == (3, 3, [])


def test_what_did_not_come_is_lost() -> None:
    assert verdict_on([arrived(WRITTEN, 1), arrived(CHANGED, 2)]).lost == 1


def test_a_version_that_comes_after_a_later_one_is_out_of_order() -> None:
    assert verdict_on([arrived(CHANGED, 1), arrived(WRITTEN, 2), arrived(DELETED, 3)]).out_of_order == 1


def test_a_group_of_a_user_keeps_the_order_of_all_the_users_rows() -> None:
    committed = [Change(1, 1, 1, 2), Change(2, 2, 1, 4)]
    arrivals = [Arrival(1, 0, 1, 2, 1, 4, 2, 0), Arrival(2, 0, 1, 1, 1, 2, 1, 0)]
    assert judge(committed, [Sink(1, user=1)], arrivals).out_of_order == 0
    assert judge(committed, [Sink(1, user=1, group="user")], arrivals).out_of_order == 1


def test_a_row_of_another_user_is_foreign_and_was_not_owed() -> None:
    verdict = verdict_on([arrived(OTHER, 1)])
    assert (verdict.foreign, verdict.never_committed) == (1, 1)
    assert verdict_on([arrived(OTHER, 1)], [Sink(1, user=None)]).foreign == 0


def test_a_repeat_needs_a_kill_in_between() -> None:
    twice = [arrived(WRITTEN, 1), arrived(WRITTEN, 2), arrived(CHANGED, 3), arrived(DELETED, 4)]
    assert verdict_on(twice).repeated_without_cause == 1
    assert verdict_on(twice, kills=[Kill(0.5, 0.6)]).repeated_without_cause == 1
    assert verdict_on(twice, kills=[Kill(1.05, 1.06)]).faults() == []


def test_what_was_answered_to_the_killed_engine_may_come_again() -> None:
    assert (
        verdict_on([arrived(WRITTEN, 1), arrived(WRITTEN, 2), arrived(CHANGED, 3), arrived(DELETED, 4)], kills=[Kill(0.99, 1.01)]).faults()
        == []
    )


def test_more_repeats_than_the_last_flush_held_are_a_fault() -> None:
    arrivals = [arrived(WRITTEN, 1), arrived(CHANGED, 1), arrived(DELETED, 1), *(arrived(n, 6) for n in (WRITTEN, CHANGED, DELETED))]
    verdict = verdict_on(arrivals, kills=[Kill(5, 5)])
    assert (verdict.worst.repeated, verdict.worst.bound, verdict.worst.oldest) == (3, 0, 4)
    assert verdict.faults() == ["kill 1: 3 messages repeated, at most 0 allowed"]


def test_a_repeat_with_another_key_cannot_be_told_by_its_receiver() -> None:
    arrivals = [arrived(WRITTEN, 1), arrived(WRITTEN, 2, idx=9), arrived(CHANGED, 3), arrived(DELETED, 4)]
    assert verdict_on(arrivals, kills=[Kill(1.05, 1.06)]).other_key == 1
