"""The memory budget, which determines how fast the slot is read."""

from __future__ import annotations

from userhooks.engine.delivery.pending_message import AT_HAND, SMALL_STEP, MemoryBudget


def test_the_slot_is_read_in_small_steps_while_much_waits_to_be_sent_but_never_less_than_a_step() -> None:
    load = MemoryBudget(lambda: None)
    assert load.at_once() == AT_HAND
    load.add(AT_HAND - 100, 0)
    assert load.at_once() == 100
    load.add(10 * AT_HAND, 0)
    assert load.at_once() == SMALL_STEP
    load.add(-11 * AT_HAND + 100, 0)
    assert load.at_once() == AT_HAND
