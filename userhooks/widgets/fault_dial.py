"""The fault dial: inject faults into a user's receiver, the engine, or Postgres, and plot the effect live.

`lessons/faults.py` defines the faults, `lessons/traffic_rates.py` reads the rates, and `widgets/traffic_picture.py` draws them.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets

from userhooks.errors import InvalidInput, NotFound, UserhooksError
from userhooks.lessons.faults import Faults
from userhooks.lessons.traffic_rates import TrafficReader, traffic_frame
from userhooks.widgets import traffic_picture
from userhooks.widgets.number_field import NumberField
from userhooks.widgets.panels import STOPPED, Panel, name_of, take_over, user_choice

if TYPE_CHECKING:
    import pandas as pd

    from userhooks.lessons.lesson import Lesson
    from userhooks.lessons.traffic_window import TrafficWindow

FOLLOW_SECONDS = 1.0
"""Minimum seconds between updates of the charts. If reading is slow, the interval is longer, so that the kernel stays responsive."""

_FLOATING = (
    "To keep the dial in view, right-click here, choose <b>Create New View for Cell Output</b>, and drag the new tab beside the notebook."
)

_WIDE, _ALIGNED = {"width": "28em"}, {"description_width": "12em"}


class FaultDial(Panel):
    """A panel that injects faults and shows their effect: sliders for one user's receiver, buttons for the sink, the engine, and Postgres.

    `Apply` makes the call that is shown below it. Every other button shows its call when it is pressed. Charts of the last 60 seconds show
    the rows written, delivered, and refused in each second, the rows waiting, and a numbered mark for each button pressed. The charts are
    updated once a second until the dial is closed or its cell is run again.

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
        self.resets = _share("Connection reset, %")
        self.delay = ipywidgets.FloatSlider(0, min=0, max=5, step=0.1, description="Response delay, s", style=_ALIGNED, layout=_WIDE)
        self.seed = NumberField("Seed", 1, 0, 10**6, whole=True, width="10em")
        self.call = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        self.trouble = ipywidgets.HTML()
        self.marks: list[traffic_picture.Mark] = []
        self._traffic = TrafficReader(lesson)
        self._ended = threading.Event()
        self._presses: dict[str, tuple[str, Callable[[], str]]] = {
            "Clear all faults": ("lesson.inbox(user).respond()", self._clear),
            "Pause the sink": ("stack.subscriptions.pause(sink_name)", lambda: self._set_sink("pause")),
            "Resume the sink": ("stack.subscriptions.resume(sink_name)", lambda: self._set_sink("resume")),
            "Kill the engine": ('stack.kill("sequin")', self._kill_engine),
            "Restart the engine": ('stack.restart("sequin")', lambda: self._restart("sequin", "The engine is restarted")),
            "Restart Postgres": ('stack.restart("postgres")', lambda: self._restart("postgres", "Postgres is restarted")),
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
        below = [self._sliders, self.call, self._buttons]
        super().__init__(lesson, "Apply", "Make this user's receiver do what the sliders say", [self.user, self.seed], below)
        style = ipywidgets.HTML(traffic_picture.STYLE, layout={"display": "none"})
        floating = ipywidgets.HTML(f'<div style="font-size: 12px; line-height: 1.45">{_FLOATING}</div>')
        # The charts come first, so that they show in a narrow view beside the notebook.
        self.children = [style, self.trouble, self.picture, *self.children, floating]  # type: ignore[has-type]  # ipywidgets is untyped
        self._show_call()
        take_over(self, (lesson.name, "faults"))
        self._follower = threading.Thread(target=self._follow, name="userhooks fault dial", daemon=True)
        self._follower.start()

    @property
    def faults(self) -> Faults:
        """The faults that the sliders are set to. Raises InvalidInput if they add up to more than 100%."""
        return Faults(self.fails.value, self.busy.value, self.hangs.value, self.resets.value, self.delay.value, int(self.seed.number))

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
        """Return the traffic of the last 60 seconds as a DataFrame, after updating the charts with it; see `traffic_frame`."""
        return traffic_frame(self._update())

    def leave_off(self) -> None:
        """Stop updating the charts, because a newer dial has taken over."""
        self._ended.set()
        self._follower.join()
        self._say("A newer fault dial shows this lesson. The buttons of this one still work.")

    def close(self) -> None:
        """Stop updating the charts, and close the widget."""
        self._ended.set()
        super().close()

    def _clear(self) -> str:
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

    def _restart(self, part: str, text: str) -> str:
        self._show(f'stack.restart("{part}")')
        self.lesson.clients.restart(part)
        return self._mark(text)

    def _kill_engine(self) -> str:
        self._show('stack.kill("sequin")')
        self.lesson.clients.kill("sequin")
        return f'{self._mark("The engine is killed")} It stays down until you press "Restart the engine".'

    def _mark(self, text: str) -> str:
        self.marks.append(traffic_picture.Mark(time.time(), text))
        return f"{text}."

    def _show_call(self) -> None:
        try:
            text = self.faults.call(self.user.value)
        except UserhooksError as error:
            text = f"# {error.what} {error.remedy}"
        self._show(text)

    def _show(self, call: str) -> None:
        self.call.value = f"<p>The same in a cell: <code>{html.escape(call)}</code></p>"

    def _update(self) -> TrafficWindow:
        window = self._traffic.read()
        self.picture.value = traffic_picture.picture(window, self.marks)
        return window

    def _follow(self) -> None:
        pause = FOLLOW_SECONDS
        while not self._ended.wait(pause):
            began = time.monotonic()
            try:
                self._update()
            except UserhooksError as error:
                self.trouble.value = f"<div>{html.escape(f'Cannot update the charts: {error.what} {error.remedy}')}</div>"
                self.offer_start(isinstance(error, STOPPED))
            else:
                if self.trouble.value:
                    self.trouble.value = ""
                    self.offer_start(False)
            pause = max(FOLLOW_SECONDS, 3 * (time.monotonic() - began))


def _share(label: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(0, min=0, max=100, step=5, description=label, readout_format=".0f", style=_ALIGNED, layout=_WIDE)
