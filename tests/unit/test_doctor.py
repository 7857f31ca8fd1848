"""What `userhooks doctor` makes of several findings; what it finds on a running stack is in `tests/stack/test_doctor.py`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from userhooks.stack.doctor import (
    OBSERVATION_SECONDS,
    STALLED_BACKFILL_SECONDS,
    Finding,
    SlotObservation,
    each_thing_once,
    judge_backfill,
    judge_replication,
    watch_slot,
)
from userhooks.webhooks.sequin_resources import Backfill


def test_what_is_wrong_with_several_sinks_for_one_reason_is_said_once() -> None:
    def lost(number: int) -> Finding:
        return Finding(f"sink-{number}", False, "example.com port 80 does not accept connections", "Start the receiver.")

    fine = Finding("sink-0", True, "active")
    other = Finding("sink-9", False, "is paused", "Resume it.")
    assert each_thing_once([fine, lost(1), other, lost(2)]) == [fine, replace(lost(1), about="sink-1, sink-2"), other]
    (many,) = each_thing_once([lost(number) for number in range(1, 9)])
    assert many.about == "sink-1, sink-2, sink-3, sink-4, sink-5 and 3 more"
    assert each_thing_once([fine, fine]) == [fine, fine]


class SlotClock:
    """A clock that moves only during sleeps, with a slot whose confirmed LSN is `confirms(seconds)`."""

    def __init__(self, confirms: dict[float, int], *, active: bool = True) -> None:
        self.now = 0.0
        self._confirms = confirms
        self._active = active

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read(self) -> tuple[bool, int, int]:
        confirmed = next(lsn for since, lsn in sorted(self._confirms.items(), reverse=True) if self.now >= since)
        return self._active, confirmed, 5_000 + int(self.now)

    def look(self) -> SlotObservation:
        result = watch_slot(self.read, lambda: self.now, self.sleep)
        assert result is not None
        return result


def test_a_slot_that_has_nothing_to_confirm_or_confirms_late_is_fine_and_watched_no_longer() -> None:
    quiet, late = SlotClock({0: 5_000}), SlotClock({0: 100, 25: 200})
    assert judge_replication("slot", quiet.look()).fine
    assert quiet.now == 0
    assert judge_replication("slot", late.look()).fine
    assert late.now < 26


def test_a_slot_of_which_nothing_is_confirmed_is_stuck_and_the_way_out_says_what_it_costs() -> None:
    clock = SlotClock({0: 100})
    result = judge_replication("slot", clock.look())
    assert OBSERVATION_SECONDS <= clock.now < OBSERVATION_SECONDS + 1
    assert not result.fine
    for words in ("int[]", "pg_replication_slot_advance('slot', pg_current_wal_lsn())", "ledger", "userhooks backfill", "deletes"):
        assert words in result.remedy
    unread = judge_replication("slot", SlotClock({0: 100}, active=False).look())
    assert "nobody reads it" in unread.text
    assert watch_slot(lambda: None, lambda: 0.0, clock.sleep) is None


def test_a_backfill_that_has_read_nothing_for_long_is_named_with_the_values_that_do_that() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    made = now - timedelta(seconds=STALLED_BACKFILL_SECONDS)
    backfill = Backfill("b", "sink", "public.notifications", "active", 0, 0, 0, made)
    result = judge_backfill("sink", backfill, now)
    assert result is not None
    assert not result.fine
    assert "-infinity" in result.remedy
    assert "24:00" in result.remedy
    for fine in (
        replace(backfill, rows_processed_count=1),
        replace(backfill, inserted_at=made + timedelta(seconds=1)),
        replace(backfill, state="completed"),
    ):
        assert judge_backfill("sink", fine, now) is None
