"""Faults as percentages: the resulting script applies them at these rates, to the same requests each time."""

from __future__ import annotations

from collections import Counter

import pytest

from userhooks.errors import InvalidInput
from userhooks.inspector.response_script import decide, parse_script
from userhooks.lessons.faults import Faults


def outcomes(faults: Faults, requests: int = 20_000) -> Counter[str]:
    script = parse_script(faults.script())
    return Counter(answer.effect or str(answer.status) for n in range(1, requests + 1) if (answer := decide(script, n)))


def test_each_fault_meets_its_share_of_the_requests() -> None:
    share = {what: count / 200 for what, count in outcomes(Faults(fails=20, busy=10, hangs=5, resets=15)).items()}
    assert share == pytest.approx({"500": 20, "429": 10, "hang": 5, "reset": 15, "200": 50}, abs=1)


def test_the_same_seed_picks_the_same_requests_and_another_one_others() -> None:
    first, again, other = (parse_script(Faults(fails=30, seed=seed).script()) for seed in (7, 7, 8))
    picked = [[decide(script, n).status for n in range(1, 200)] for script in (first, again, other)]
    assert picked[0] == picked[1] != picked[2]


def test_without_faults_everything_is_answered_at_once() -> None:
    assert Faults().script() == []
    assert Faults().describe() == "no faults"
    assert Faults().call("ada") == 'lesson.inbox("ada").respond()'


def test_a_delay_holds_back_every_answer() -> None:
    script = parse_script(Faults(fails=50, delay=0.5).script())
    assert {decide(script, n).delay for n in range(1, 50)} == {0.5}


def test_what_is_said_and_what_a_cell_would_call() -> None:
    faults = Faults(fails=20, hangs=5, delay=0.5, seed=3)
    assert faults.describe() == "20% answered 500, 5% never answered, responses delayed by 0.5 s"
    called: dict[str, object] = {}
    inbox = type("Inbox", (), {"respond": lambda _, script: called.update(script=script)})()
    lesson = type("Lesson", (), {"inbox": lambda _, user: called.update(user=user) or inbox})()
    eval(faults.call("ben"), {"lesson": lesson})  # noqa: S307  # it is displayed to be pasted into a cell
    assert called == {"user": "ben", "script": faults.script()}


@pytest.mark.parametrize("shares", [{"fails": 60, "busy": 41}, {"hangs": -1}])
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="add up to at most 100"):
        Faults(**shares)
