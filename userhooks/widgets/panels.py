"""The base class of all panels for notebooks, and the panels that generate rows and run backfills.

Each button makes one call that a cell could also make. The calls are methods in `lessons/lesson.py`. `stop.py` makes the calls,
and `status_line.py` shows their results.

Panels also work in a kernel without a front end: `panel.button.click()` returns when the call is done. Panels print nothing; results appear
in their widgets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import ipywidgets

from userhooks.errors import DatabaseUnavailable, NotRunning, SequinUnreachable, UserhooksError
from userhooks.lessons.generator import MAX_RATE
from userhooks.widgets.number_field import NumberField
from userhooks.widgets.status_line import Kind, Outcome, render_status
from userhooks.widgets.stop import run_stoppable

if TYPE_CHECKING:
    from userhooks.lessons.lesson import Lesson
    from userhooks.webhooks.subscriptions import BackfillHandle

STOPPED = (NotRunning, DatabaseUnavailable, SequinUnreachable)
"""Errors that mean that part of the stack is not running."""

LABELLED = {"description_width": "initial"}
NARROW = {"width": "25em", "max_width": "100%"}


class Panel(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is untyped
    """Base class of the panels: controls, a button, and a line that reports the result.

    `notice` says which numbers the panel changed because they were out of bounds. If any part of the stack is not running, the report says
    so, and a second button, `start`, appears, which starts the stack. `beside` contains widgets to show beside the button.
    """

    def __init__(
        self,
        lesson: Lesson,
        button: str,
        tooltip: str,
        controls: Sequence[ipywidgets.Widget],
        below: Sequence[ipywidgets.Widget] = (),
        beside: Sequence[ipywidgets.Widget] = (),
    ) -> None:
        self.lesson = lesson
        self.button = ipywidgets.Button(description=button, tooltip=tooltip, button_style="primary")
        self.button.on_click(lambda _: self._clicked())
        self.state = ipywidgets.HTML(render_status("idle", ["Nothing done yet."]))
        self.notice = ipywidgets.HTML()
        self._numbers = [widget for widget in _inside([*controls, *below]) if isinstance(widget, NumberField)]
        for number in self._numbers:
            number.observe(lambda _: self._show_changed_numbers(), "problem")
        self.start = ipywidgets.Button(
            description="Start the stack", tooltip="Start the parts that are not running", layout={"display": "none"}
        )
        self.start.on_click(lambda _: self._do(self._start_stack))
        above = row_of(*controls, self.button, *beside)
        super().__init__([above, self.notice, self.state, self.start, *below])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lesson {self.lesson.name})"

    def act(self) -> str | Outcome:
        """Make the panel's call, and return its result; a result that is only text means success."""
        raise NotImplementedError

    def _clicked(self) -> None:
        self._do(self.act)

    def _do(self, act: Callable[[], str | Outcome]) -> None:
        self.enable(False)
        lines = "This may be waiting for a cell that is running. The notebook's Stop button ends it."
        self._say(lines, kind="working")
        run_stoppable(lambda: self._work(act), self._stopped)

    def _work(self, act: Callable[[], str | Outcome]) -> None:
        try:
            result = act()
            outcome = result if isinstance(result, Outcome) else Outcome("done", result)
            self._say(outcome.text, kind=outcome.kind, word=outcome.word)
        except UserhooksError as error:
            self._complain("Not done.", error)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", kind="failed")
            raise
        finally:
            self.enable(True)

    def _stopped(self) -> None:
        self._say(kind="stopped")
        self.enable(True)

    def enable(self, enabled: bool) -> None:
        """Enable or disable the panel's buttons; they are disabled while a call runs."""
        self.button.disabled = not enabled

    def offer_start(self, offered: bool) -> None:
        """Show or hide the button that starts the stack."""
        self.start.layout.display = None if offered else "none"

    def _start_stack(self) -> str:
        self.lesson.clients.start()
        return "The stack is running again."

    def _complain(self, word: str, error: UserhooksError) -> None:
        """Show an error, and offer to start the stack if that would fix it."""
        self._say(error.what, error.remedy, start=isinstance(error, STOPPED), kind="failed", word=word)

    def _say(self, *lines: str, start: bool = False, kind: Kind = "idle", word: str = "") -> None:
        self.offer_start(start)
        self.state.value = render_status(kind, [line for text in lines for line in text.splitlines()], word)

    def _show_changed_numbers(self) -> None:
        problems = [number.problem for number in self._numbers if number.problem]
        self.notice.value = render_status("changed", problems) if problems else ""


class GeneratePanel(Panel):
    """A panel that writes rows for the lesson's users at a steady rate, with a progress bar: `lesson.generate(rate=…, seconds=…)`.

    panel = GeneratePanel(lesson)
    panel.rate.value, panel.seconds.value = 100, 5
    panel.button.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.rate = NumberField("Rows per second", 100, 1, MAX_RATE, width="15em")
        self.seconds = NumberField("Seconds", 5, 0.1, 3600, width="11em")
        self.progress = ipywidgets.IntProgress(0, min=0, max=1, description="Rows written", style=LABELLED, layout=NARROW)
        super().__init__(lesson, "Generate", "Write rows for random users of this lesson", [self.rate, self.seconds], [self.progress])

    def act(self) -> Outcome:
        """Generate."""
        self.progress.value, self.progress.max = 0, max(1, round(self.rate.value * self.seconds.value))
        generated = self.lesson.generate(rate=self.rate.number, seconds=self.seconds.number, progress=_seldom(self._show))
        self._show(generated.changes)
        if generated.interrupted:
            return Outcome("stopped", generated.summary().splitlines()[0], "Stopped early.")
        return Outcome("done", generated.summary())

    def _show(self, rows: int) -> None:
        self.progress.value = rows


class BackfillPanel(Panel):
    """A panel that sends a user's existing rows again, with a progress bar: `lesson.backfill(user).wait()`.

    It begins with the first user who has a subscription.

    panel = BackfillPanel(lesson)
    panel.user.value = "ada"
    panel.button.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.user = user_choice(lesson, _first_subscribed(lesson))
        self.progress = ipywidgets.IntProgress(0, min=0, max=1, description="Rows done", style=LABELLED, layout=NARROW)
        super().__init__(lesson, "Backfill", "Send all existing rows of this user again", [self.user], [self.progress])

    def act(self) -> str:
        """Run the backfill."""
        self.progress.value = 0
        handle = self.lesson.backfill(self.user.value).wait(progress=self._show)
        return f"The backfill of {handle.sink_name} is {handle.state}: {name_of(self.user.value)}'s rows were sent again."

    def _show(self, handle: BackfillHandle) -> None:
        self.progress.max = handle.rows_initial_count or 1
        self.progress.value = handle.rows_processed_count


class Follower(Protocol):
    """A panel that updates itself."""

    def leave_off(self) -> None:
        """Stop updating by itself."""


_following: dict[tuple[str, str], Follower] = {}


def take_over(panel: Follower, place: tuple[str, str]) -> None:
    """Make `panel` the only panel for `place` that updates itself; one from an earlier run of its cell stops.

    `place` is the lesson's name, and what the panel shows: a user, or `faults`.
    """
    replaced = _following.pop(place, None)
    if replaced is not None:
        replaced.leave_off()
    _following[place] = panel


def user_choice(lesson: Lesson, user: str | None = None) -> ipywidgets.Dropdown:
    """Return a control that selects one of the lesson's users."""
    names = list(lesson.users)
    return ipywidgets.Dropdown(
        options=[(name_of(name), name) for name in names],
        value=user or names[0],
        description="User",
        style=LABELLED,
        layout={"width": "10em"},
    )


def _first_subscribed(lesson: Lesson) -> str | None:
    """Return the first user who has a subscription, or None if nobody has one or this cannot be read."""
    try:
        subscribed = {subscription.user_id for subscription in lesson.subscriptions()}
    except UserhooksError:
        return None
    return next((user for user, number in lesson.users.items() if number in subscribed), None)


def row_of(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Return the widgets in a row that wraps where the page is narrow."""
    return ipywidgets.HBox(widgets, layout={"flex_flow": "row wrap", "align_items": "center", "grid_gap": "0 12px"})


def name_of(user: str) -> str:
    """Return the user's name with a capital letter."""
    return user.capitalize()


def _seldom(show: Callable[[int], None], every: float = 0.1) -> Callable[[int], None]:
    """Wrap `show` so that it is called at most once per `every` seconds, because a front end need not draw every step."""
    last = float("-inf")

    def maybe(rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every:
            last = now
            show(rows)

    return maybe


def _inside(widgets: Iterable[ipywidgets.Widget]) -> Iterator[ipywidgets.Widget]:
    """Return the widgets and everything in them."""
    for widget in widgets:
        yield widget
        yield from _inside(getattr(widget, "children", ()))
