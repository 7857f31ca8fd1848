"""What `userhooks doctor` makes of several findings; what it finds on a running stack is in `tests/stack/test_doctor.py`."""

from __future__ import annotations

from dataclasses import replace

from userhooks.stack.doctor import Finding, each_thing_once


def test_what_is_wrong_with_several_sinks_for_one_reason_is_said_once() -> None:
    def lost(number: int) -> Finding:
        return Finding(f"sink-{number}", False, "nothing takes connections at example.com port 80", "Start the receiver.")

    fine = Finding("sink-0", True, "active")
    other = Finding("sink-9", False, "is paused", "Resume it.")
    assert each_thing_once([fine, lost(1), other, lost(2)]) == [fine, replace(lost(1), about="sink-1, sink-2"), other]
    (many,) = each_thing_once([lost(number) for number in range(1, 9)])
    assert many.about == "sink-1, sink-2, sink-3, sink-4, sink-5 and 3 more"
    assert each_thing_once([fine, fine]) == [fine, fine]
