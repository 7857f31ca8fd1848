"""A lesson with a separate Sequin server: the ledger and the fault dial work as usual, and report what they cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_program import EngineProgram
from tests.waiting import eventually
from userhooks.lessons.lesson import USERS, Lesson
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.home import Home
from userhooks.stack.stack import Stack
from userhooks.webhooks.database import Database
from userhooks.widgets import FaultDial


@pytest.fixture
def lesson(database_url: str, tmp_path: Path) -> Iterator[Lesson]:
    Database(database_url).set_up("own_pub")
    engine = EngineProgram(database_url, tmp_path, publication="own_pub").start()
    home = tmp_path / "home"
    own = {"DATABASE_URL": database_url, "SEQUIN_URL": engine.url, "SEQUIN_API_TOKEN": engine.token}
    stack = Stack.start(Settings.from_env({"USERHOOKS_HOME": str(home), **dict.fromkeys(PORT_VARIABLES.values(), "0"), **own}))
    try:
        with stack.inspector, stack.sequin, stack.lesson("own") as lesson:
            assert repr(stack) == "Stack(sequin)"
            yield lesson
    finally:
        stack.stop()
        Home(home).remove()
        engine.stop()


def test_the_ledger_by_the_wal_judges_a_sequin_server_elsewhere(lesson: Lesson) -> None:
    for user in USERS:
        lesson.subscribe(user, url=lesson.inbox(user).url)
    lesson.inbox("ada").respond([{"percent": 20, "seed": 3, "status": 500}])
    with lesson.ledger(wal=True, wait=30) as ledger:
        generated = lesson.generate(rate=500, count=100, mix={"insert": 3, "update": 1, "delete": 1}, seed=3)
        lesson.backfill("ben").wait()
    count = generated.changes
    said = f"{count} committed, {count} expected, {count} received, 0 lost, 0 duplicated, 0 foreign, order kept"
    assert ledger.verdict().startswith(said), ledger.problems()
    assert "; backfill: " in ledger.verdict()
    assert ledger.ok


def test_the_fault_dial_pauses_a_sink_there_and_says_whose_business_the_rest_is(lesson: Lesson) -> None:
    lesson.subscribe("ada", url=lesson.inbox("ada").url)
    dial = FaultDial(lesson)
    try:
        for button in ("Kill the engine", "Restart the engine", "Restart Postgres"):
            dial.press(button)
            assert "is your own server" in dial.state.value
            assert "Start or stop it yourself." in dial.state.value
        assert not dial.marks
        dial.press("Pause the sink")
        lesson.insert("ada", "waits")
        eventually(lambda: dial.refresh()["waiting"].max() == 1)
        dial.press("Resume the sink")
        lesson.inbox("ada").wait_for(1)
        eventually(lambda: dial.refresh().query("user == 'ada'")["waiting"].iloc[-1] == 0)
    finally:
        dial.close()
