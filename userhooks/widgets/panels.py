"""Panels for notebooks: each button makes one call that a cell could also make. The calls are methods of `lessons/lesson.py`.

Panels also work in a kernel without a front end: `panel.button.click()` returns when the call is done. Panels print nothing; results appear
in their widgets.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import ipywidgets

from userhooks.errors import DatabaseUnavailable, NotRunning, SequinUnreachable, UserhooksError
from userhooks.widgets.stop import run_stoppable

if TYPE_CHECKING:
    from userhooks.inspector.client import Received
    from userhooks.lessons.lesson import Lesson
    from userhooks.webhooks.subscriptions import BackfillHandle

STOPPED = (NotRunning, DatabaseUnavailable, SequinUnreachable)
"""Errors that mean that part of the stack is not running."""

LABELLED = {"description_width": "initial"}
_CELL = "padding: 2px 12px 2px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--jp-border-color2)"

NEWEST = 10
"""Number of webhooks that the inbox panel shows."""

FOLLOW_SECONDS = 0.5
"""Seconds between two updates of the inbox panel."""


class Panel(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is untyped
    """Base class of the panels: controls, a button, and a line of text that reports the result.

    If any part of the stack is not running, the text says so, and a second button, `start`, appears, which starts the stack.
    """

    def __init__(
        self,
        lesson: Lesson,
        button: str,
        tooltip: str,
        controls: Sequence[ipywidgets.Widget],
        below: Sequence[ipywidgets.Widget] = (),
    ) -> None:
        self.lesson = lesson
        self.button = ipywidgets.Button(description=button, tooltip=tooltip, button_style="primary")
        self.button.on_click(lambda _: self._clicked())
        self.state = ipywidgets.HTML(_status(["Nothing done yet."]))
        self.start = ipywidgets.Button(
            description="Start the stack", tooltip="Start the parts that are not running", layout={"display": "none"}
        )
        self.start.on_click(lambda _: self._do(self._start_stack))
        above = ipywidgets.HBox([*controls, self.button], layout={"flex_flow": "row wrap"})
        super().__init__([above, self.state, self.start, *below])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lesson {self.lesson.name})"

    def act(self) -> str:
        """Make the panel's call, and return its result as text."""
        raise NotImplementedError

    def _clicked(self) -> None:
        self._do(self.act)

    def _do(self, act: Callable[[], str]) -> None:
        self.button.disabled = True
        self._say("Working, or waiting for a cell that is running; the notebook's Stop button ends it.")
        run_stoppable(lambda: self._work(act), self._stopped)

    def _work(self, act: Callable[[], str]) -> None:
        try:
            self._say(act())
        except UserhooksError as error:
            self._complain("Not done", error)
        except Exception as error:
            self._say(f"Not done: {type(error).__name__}: {error}")
            raise
        finally:
            self.button.disabled = False

    def _stopped(self) -> None:
        self._say("Stopped.")
        self.button.disabled = False

    def offer_start(self, offered: bool) -> None:
        """Show or hide the button that starts the stack."""
        self.start.layout.display = None if offered else "none"

    def _start_stack(self) -> str:
        self.lesson.clients.start()
        return "The stack is running again."

    def _complain(self, what: str, error: UserhooksError) -> None:
        """Show an error, and offer to start the stack if that would fix it."""
        self._say(f"{what}: {error.what}", error.remedy, start=isinstance(error, STOPPED))

    def _say(self, *lines: str, start: bool = False) -> None:
        self.offer_start(start)
        self.state.value = _status([line for text in lines for line in text.splitlines()])


class SubscribePanel(Panel):
    """A panel that subscribes a user: `lesson.subscribe(user, url=…)`. By default, the URL is that of the user's inbox.

    panel = SubscribePanel(lesson)
    panel.user.value = "ben"
    panel.button.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.user = user_choice(lesson)
        self.url = ipywidgets.Text(lesson.inbox(self.user.value).url, description="URL", style=LABELLED, layout={"width": "32em"})
        self.user.observe(lambda change: self._show_inbox_of(change["new"]), "value")
        super().__init__(lesson, "Subscribe", "Send this user's rows to this URL", [self.user, self.url])

    def act(self) -> str:
        """Subscribe the selected user."""
        subscription = self.lesson.subscribe(self.user.value, url=self.url.value)
        done = "is subscribed" if subscription.created else "was subscribed already"
        return f"{name_of(self.user.value)} {done}: the sink {subscription.sink_name} sends to {subscription.url}"

    def _show_inbox_of(self, user: str) -> None:
        self.url.value = self.lesson.inbox(user).url


class GeneratePanel(Panel):
    """A panel that writes rows for the lesson's users at a steady rate, with a progress bar: `lesson.generate(rate=…, seconds=…)`.

    panel = GeneratePanel(lesson)
    panel.rate.value, panel.seconds.value = 100, 5
    panel.button.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.rate = ipywidgets.BoundedIntText(100, min=1, max=100_000, description="Rows per second", style=LABELLED)
        self.seconds = ipywidgets.BoundedFloatText(5, min=0.1, max=3600, description="Seconds", style=LABELLED)
        self.progress = ipywidgets.IntProgress(0, min=0, max=1, description="Rows written", style=LABELLED)
        super().__init__(lesson, "Generate", "Write rows for random users of this lesson", [self.rate, self.seconds], [self.progress])

    def act(self) -> str:
        """Generate."""
        self.progress.value, self.progress.max = 0, max(1, round(self.rate.value * self.seconds.value))
        generated = self.lesson.generate(rate=self.rate.value, seconds=self.seconds.value, progress=_seldom(self._show))
        self._show(generated.changes)
        return generated.summary()

    def _show(self, rows: int) -> None:
        self.progress.value = rows


class BackfillPanel(Panel):
    """A panel that sends a user's existing rows again, with a progress bar: `lesson.backfill(user).wait()`.

    panel = BackfillPanel(lesson)
    panel.user.value = "ada"
    panel.button.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.user = user_choice(lesson)
        self.progress = ipywidgets.IntProgress(0, min=0, max=1, description="Rows done", style=LABELLED)
        super().__init__(lesson, "Backfill", "Send all existing rows of this user again", [self.user], [self.progress])

    def act(self) -> str:
        """Run the backfill."""
        self.progress.value = 0
        handle = self.lesson.backfill(self.user.value).wait(progress=self._show)
        return f"The backfill of {handle.sink_name} is {handle.state}: {name_of(self.user.value)}'s rows were sent again."

    def _show(self, handle: BackfillHandle) -> None:
        self.progress.max = handle.rows_initial_count or 1
        self.progress.value = handle.rows_processed_count


class InboxPanel(Panel):
    """A panel that shows the newest webhooks in a user's inbox as they arrive: the last rows of `lesson.inbox(user).requests()`.

    The panel updates itself twice a second until it is closed or its cell is run again. The button updates it at once.

        panel = InboxPanel(lesson, user="ada")
        lesson.insert("ada", "Hello, Ada")
        panel.button.click()
    """

    def __init__(self, lesson: Lesson, user: str = "ada") -> None:
        self.user = user_choice(lesson, user)
        self.table = ipywidgets.HTML()
        self._ended = threading.Event()
        super().__init__(lesson, "Look now", "Show the newest webhooks in this inbox", [self.user], [self.table])
        self._say("Webhooks appear here as they arrive.")
        self.user.observe(lambda _: self._clicked(), "value")
        take_over(self, (lesson.name, user))
        self._follower = threading.Thread(target=self._follow, name="userhooks inbox panel", daemon=True)
        self._follower.start()

    def act(self) -> str:
        """Update the table."""
        inbox = self.lesson.inbox(self.user.value)
        state = self.lesson.clients.inspector.call("GET", f"/api/inboxes/{inbox.id}")
        newest = list(inbox.received(after=max(0, state["last_seq"] - NEWEST)))[-NEWEST:]
        self.table.value = _table(newest[::-1])
        return f"{state['count']:,} in the inbox of {name_of(self.user.value)}; the newest {len(newest)} are shown."

    def leave_off(self) -> None:
        """Stop updating by itself; the button still works."""
        self._ended.set()
        self._follower.join()
        self._say("A newer panel shows this inbox. This one is updated only when its button is clicked.")

    def close(self) -> None:
        """Stop updating, and close the widget."""
        self._ended.set()
        super().close()

    def _follow(self) -> None:
        while not self._ended.wait(FOLLOW_SECONDS):
            try:
                self._say(self.act())
            except UserhooksError as error:
                self._complain("Cannot update", error)


class Follower(Protocol):
    """A panel that updates itself."""

    def leave_off(self) -> None:
        """Stop updating by itself."""


_following: dict[tuple[str, str], Follower] = {}


def take_over(panel: Follower, place: tuple[str, str]) -> None:
    """Make `panel` the only one for `place`, its lesson and kind, that updates itself; the one from an earlier run of its cell stops."""
    replaced = _following.pop(place, None)
    if replaced is not None:
        replaced.leave_off()
    _following[place] = panel


def user_choice(lesson: Lesson, user: str | None = None) -> ipywidgets.Dropdown:
    """Return a control that selects one of the lesson's users."""
    names = list(lesson.users)
    return ipywidgets.Dropdown(
        options=[(name_of(name), name) for name in names], value=user or names[0], description="User", style=LABELLED
    )


def name_of(user: str) -> str:
    """Return the user's name with a capital letter."""
    return user.capitalize()


def _status(lines: Sequence[str]) -> str:
    # Screen readers announce this text when it changes.
    return f'<div role="status" aria-live="polite">{"<br>".join(html.escape(line) for line in lines if line)}</div>'


def _table(received: Sequence[Received]) -> str:
    if not received:
        return ""
    heads = ("received (UTC)", "answered", "action", "row", "message", "secret")
    head = "".join(f'<th scope="col" style="{_CELL}">{html.escape(text)}</th>' for text in heads)
    rows = "".join(f"<tr>{''.join(_cells(request))}</tr>" for request in received)
    return (
        '<table style="border-collapse: collapse; color: var(--jp-ui-font-color1)"><caption style="text-align: left">'
        f"Webhooks, newest first</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cells(request: Received) -> list[str]:
    messages = request.messages()
    first = messages[0] if messages else None
    others = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
    values = (
        request.received_at.strftime("%H:%M:%S.%f")[:-3],
        request.note or request.response_status or "not yet",
        first.action + others if first else "not a Sequin message",
        first.record.get("id") if first else "",
        first.record.get("message") if first else "",
        request.secret,
    )
    return [f'<td style="{_CELL}">{html.escape(_short(value))}</td>' for value in values]


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


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
