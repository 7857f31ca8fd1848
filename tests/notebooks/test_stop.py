"""Stop and the panels, in a real kernel to which clicks come as JupyterLab sends them: through a subshell, which is another thread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.kernel import Kernel, running_kernel

ROOT = Path(__file__).parents[2]

SLOW = '''
import time, ipywidgets
from tests.unit.test_widgets import RecordingLesson
from userhooks import widgets
from userhooks.errors import NotRunning
from userhooks.widgets import fault_dial

class Blind:
    def __init__(self, lesson):
        pass

    def read(self):
        raise NotRunning("Nothing to draw.")

fault_dial.TrafficReader = Blind
begun = ipywidgets.IntText()  # counts the calls that have begun

def work(seconds):
    """Occupy the thread for so long, in short sleeps: a signal that comes just before a sleep begins does not end that sleep."""
    begun.value += 1
    for _ in range(round(10 * seconds)):
        time.sleep(0.1)

class SlowLesson(RecordingLesson):
    seconds = 0.0

    def _called(self, *call):
        work(self.seconds)
        super()._called(*call)

    def _inspector(self, *call):
        self._called(*call)
        return super()._inspector(*call)

lesson = SlowLesson()
lesson.clients.kill = lambda part: lesson._called("kill", part)
'''
BUTTONS = {
    "subscribe": "widgets.SubscribePanel(lesson)",
    "generate": "widgets.GeneratePanel(lesson)",
    "backfill": "widgets.BackfillPanel(lesson)",
    "response": "widgets.ResponsePanel(lesson)",
    "inbox": "widgets.InboxPanel(lesson); panel.leave_off()",
    "test event": (
        'None; lesson.seconds = 0; lesson.subscribe("ada", "http://x"); panel = widgets.SubscribePanel(lesson); '
        "panel.button = panel.rows[0].test"
    ),
    "start the stack": "widgets.SubscribePanel(lesson); panel.button = panel.start",
    "dial": "widgets.FaultDial(lesson)",
    "dial, kill": "widgets.FaultDial(lesson); panel.button = panel._buttons.children[3]",
}


class Clicked:
    """A panel of the kernel, whose button is clicked through a subshell."""

    def __init__(self, kernel: Kernel, subshell: str, made: str = BUTTONS["generate"]) -> None:
        self._kernel, self._subshell = kernel, subshell
        lines = (
            f"panel = {made}\nlesson.seconds, lesson.fault = 60, None\nprint(panel.button.model_id, panel.state.model_id, begun.model_id)"
        )
        shown = kernel.run(lines)
        assert not shown.error
        self._button, self._state, self._begun = shown.text.split()[-3:]

    def click(self) -> None:
        self._kernel.click(self._button, self._subshell)

    def begins(self) -> None:
        self._kernel.shown(self._begun, "")

    def says(self, text: str) -> None:
        self._kernel.shown(self._state, text)

    def click_and_stop(self) -> None:
        self.click()
        self.begins()
        self.stops()

    def stops(self) -> None:
        """Press Stop, to which the call that runs must give way at once."""
        pressed = time.monotonic()
        self._kernel.interrupt()
        self.says("Stopped.")
        assert time.monotonic() - pressed < 5


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with running_kernel({**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path_factory.mktemp("kernel")) as one:
        assert not one.run(SLOW).error
        yield one


@pytest.fixture(scope="module")
def subshell(kernel: Kernel) -> str:
    return kernel.subshell()


@pytest.mark.parametrize("made", BUTTONS.values(), ids=BUTTONS)
def test_stop_ends_the_call_of_every_panel_at_every_press(kernel: Kernel, subshell: str, made: str) -> None:
    panel = Clicked(kernel, subshell, made)
    for _ in range(3):
        panel.click_and_stop()


def test_stop_ends_a_cell_that_runs_and_the_call_that_waits_for_its_end(kernel: Kernel, subshell: str) -> None:
    panel = Clicked(kernel, subshell)
    panel.click_and_stop()  # the kernel itself makes a panel's first click wait for the cell
    for _ in range(2):
        kernel.begin("work(60)")
        panel.begins()
        panel.click()
        panel.says("waiting for a cell")
        panel.stops()
    panel.click_and_stop()


def test_a_first_click_behind_a_cell_begins_when_stop_has_ended_the_cell_and_the_next_stop_ends_its_call(
    kernel: Kernel, subshell: str
) -> None:
    panel = Clicked(kernel, subshell)
    kernel.begin("work(60)")
    panel.begins()
    panel.click()
    kernel.interrupt()
    panel.begins()
    panel.stops()


def test_stop_ends_a_call_that_was_made_while_a_cell_awaits_and_the_next_one_the_cell(kernel: Kernel, subshell: str) -> None:
    panel = Clicked(kernel, subshell)
    kernel.begin("import asyncio\nbegun.value += 1\nfor _ in range(600): await asyncio.sleep(0.1)")
    panel.begins()
    for _ in range(2):
        panel.click_and_stop()
    kernel.interrupt()
    assert kernel.run("print('free')").text == "free\n"


def test_stop_ends_the_call_that_runs_and_the_one_that_waits_behind_it(kernel: Kernel, subshell: str) -> None:
    first, second = Clicked(kernel, subshell), Clicked(kernel, subshell, BUTTONS["subscribe"])
    second.click_and_stop()
    for _ in range(2):
        first.click()
        first.begins()
        second.click()
        second.says("waiting for a cell")
        first.stops()
        second.says("Stopped.")


def test_stop_when_nothing_runs_ends_nothing(kernel: Kernel, subshell: str) -> None:
    panel = Clicked(kernel, subshell)
    kernel.run("lesson.seconds = 0")
    for _ in range(2):
        kernel.interrupt()
        panel.click()
        panel.says("100 inserted")
        assert kernel.run("print('alive')").text == "alive\n"


def test_a_call_that_fails_says_why_and_the_next_one_can_be_stopped(kernel: Kernel, subshell: str) -> None:
    panel = Clicked(kernel, subshell)
    for _ in range(2):
        kernel.run("lesson.seconds, lesson.fault = 0, ZeroDivisionError('unforeseen')")
        panel.click()
        panel.says("ZeroDivisionError: unforeseen")
        kernel.run("lesson.seconds, lesson.fault = 60, None")
        panel.click_and_stop()
