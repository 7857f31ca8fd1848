"""The fault dial: inject faults into a user's receiver, the engine, or Postgres, and plot the effect live.

`lessons/faults.py` defines the faults, `lessons/traffic_rates.py` reads the rates, and `plots/ledger_plots.py` draws them.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import ipywidgets

from userhooks import plots
from userhooks.errors import InvalidInput, NotFound, UserhooksError
from userhooks.lessons.faults import Faults
from userhooks.lessons.traffic_rates import pulse
from userhooks.widgets.panels import LABELLED, STOPPED, Panel, name_of, take_over, user_choice

if TYPE_CHECKING:
    import pandas as pd

    from userhooks.lessons.lesson import Lesson

FOLLOW_SECONDS = 1.0
"""Minimum seconds between updates of the plot. If drawing is slow, the time is longer, so that the rest of the kernel stays responsive."""

_WIDE = {"width": "26em"}


class FaultDial(Panel):
    """A panel that injects faults and shows their effect: sliders for one user's receiver, buttons for the sink, the engine, and Postgres.

    `Apply` makes the call that is shown below it. Every other button shows its call when it is pressed. The plot has the rows written,
    delivered, and refused in each second, the rows waiting, and a mark for each button pressed. It is updated once a second until the dial
    is closed or its cell is run again.

        dial = FaultDial(lesson)
        dial.user.value, dial.fails.value = "ada", 20
        dial.button.click()
        dial.press("Kill the engine")
    """

    def __init__(self, lesson: Lesson) -> None:
        self.user = user_choice(lesson)
        self.fails = _share("Answered 500, %")
        self.busy = _share("Answered 429, %")
        self.hangs = _share("Never answered, %")
        self.resets = _share("Cut off, %")
        self.delay = ipywidgets.FloatSlider(0, min=0, max=5, step=0.1, description="Answers take, s", style=LABELLED, layout=_WIDE)
        self.seed = ipywidgets.BoundedIntText(1, min=0, max=10**6, description="Seed", style=LABELLED, layout={"width": "10em"})
        self.call = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.figures = ipywidgets.HTML()
        self.marks: list[tuple[datetime, str]] = []
        self.began = datetime.now(UTC)
        self._ended = threading.Event()
        self._presses: dict[str, tuple[str, Callable[[], str]]] = {
            "All is well again": ("lesson.inbox(user).respond()", self._heal),
            "Pause the sink": ("stack.subscriptions.pause(sink_name)", lambda: self._set_sink("pause")),
            "Resume the sink": ("stack.subscriptions.resume(sink_name)", lambda: self._set_sink("resume")),
            "Kill the engine": ('stack.kill("sequin")', lambda: self._part("kill", "sequin", "The engine is killed")),
            "Restart the engine": ('stack.restart("sequin")', lambda: self._part("restart", "sequin", "The engine is restarted")),
            "Restart Postgres": ('stack.restart("postgres")', lambda: self._part("restart", "postgres", "Postgres is restarted")),
        }
        buttons = []
        for text, (call, _) in self._presses.items():
            button = ipywidgets.Button(description=text, tooltip=call, layout={"width": "auto"})
            button.on_click(lambda clicked: self.press(clicked.description))
            buttons.append(button)
        sliders = [self.fails, self.busy, self.hangs, self.resets, self.delay]
        for control in (self.user, *sliders, self.seed):
            control.observe(lambda _: self._show_call(), "value")
        self._buttons = ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"})
        self._sliders = ipywidgets.HBox(sliders, layout={"flex_flow": "row wrap"})
        below = [self._sliders, self.call, self._buttons, self.picture, self.figures]
        super().__init__(lesson, "Apply", "Make this user's receiver do what the sliders say", [self.user, self.seed], below)
        self._show_call()
        take_over(self, (lesson.name, "faults"))
        self._follower = threading.Thread(target=self._follow, name="userhooks fault dial", daemon=True)
        self._follower.start()

    @property
    def faults(self) -> Faults:
        """The faults that the sliders are set to. Raises InvalidInput if they add up to more than 100%."""
        return Faults(self.fails.value, self.busy.value, self.hangs.value, self.resets.value, self.delay.value, self.seed.value)

    def act(self) -> str:
        """Apply the faults to the selected user's receiver."""
        faults = self.faults
        self.lesson.inbox(self.user.value).respond(faults.script())
        return self._mark(f"{name_of(self.user.value)}: {faults.describe()}")

    def press(self, button: str) -> None:
        """Press the button with this label. Raises InvalidInput if there is no such button."""
        if button not in self._presses:
            raise InvalidInput("button", f"The fault dial has no button {button!r}.", f"Its buttons are {', '.join(self._presses)}.")
        self._do(self._presses[button][1])

    def refresh(self) -> pd.DataFrame:
        """Return the rates of `pulse` as a DataFrame, after updating the plot with them."""
        frame = pulse(self.lesson, self.began)
        self.picture.value = plots.pulse_picture(frame, self.marks)
        newest = frame[frame["second"] == frame["second"].max() - plots.ONE_SECOND]  # the last second is not over yet
        lines = [_rates(str(row.user), row) for row in newest.itertuples()]
        self.figures.value = f'<div style="font-variant-numeric: tabular-nums">{"<br>".join(html.escape(line) for line in lines)}</div>'
        return frame

    def leave_off(self) -> None:
        """Stop updating the plot, because a newer dial has taken over."""
        self._ended.set()
        self._follower.join()
        self._say("A newer fault dial shows this lesson. The buttons of this one still work.")

    def close(self) -> None:
        """Stop updating the plot, and close the widget."""
        self._ended.set()
        super().close()

    def _heal(self) -> str:
        for slider in (self.fails, self.busy, self.hangs, self.resets, self.delay):
            slider.value = 0
        self._show_call()
        return self.act()

    def _set_sink(self, what: str) -> str:
        user = self.user.value
        subscriptions = self.lesson.clients.subscriptions.list(self.lesson.user(user))
        if not subscriptions:
            raise NotFound(f"{name_of(user)} has no sink.", f'Run lesson.subscribe("{user}", url=lesson.inbox("{user}").url) first.')
        self._show("; ".join(f'stack.subscriptions.{what}("{subscription.sink_name}")' for subscription in subscriptions))
        for subscription in subscriptions:
            getattr(self.lesson.clients.subscriptions, what)(subscription.sink_name)
        return self._mark(f"{name_of(user)}: sink {what}d")

    def _part(self, what: str, part: str, text: str) -> str:
        self._show(f'stack.{what}("{part}")')
        getattr(self.lesson.clients, what)(part)
        return self._mark(text)

    def _mark(self, text: str) -> str:
        self.marks.append((datetime.now(UTC), text))
        return f"{text}."

    def _show_call(self) -> None:
        try:
            text = self.faults.call(self.user.value)
        except UserhooksError as error:
            text = f"# {error.what} {error.remedy}"
        self._show(text)

    def _show(self, call: str) -> None:
        self.call.value = f"<p>The same in a cell: <code>{html.escape(call)}</code></p>"

    def _follow(self) -> None:
        failed = False
        pause = FOLLOW_SECONDS
        while not self._ended.wait(pause):
            began = time.monotonic()
            try:
                self.refresh()
            except UserhooksError as error:
                failed = True
                self.figures.value = f"<div>{html.escape(f'Cannot update the plot: {error.what} {error.remedy}')}</div>"
                self.offer_start(isinstance(error, STOPPED))
            else:
                if failed:
                    failed = False
                    self.offer_start(False)
            pause = max(FOLLOW_SECONDS, 3 * (time.monotonic() - began))


def _share(label: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(0, min=0, max=100, step=5, description=label, readout_format=".0f", style=LABELLED, layout=_WIDE)


def _rates(user: str, row: Any) -> str:
    last = f"{row.generated} written, {row.delivered} delivered, {row.refused} refused in the last second"
    return f"{name_of(user)}: {last}; {row.waiting} waiting"
