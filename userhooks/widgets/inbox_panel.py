"""The inbox panel: shows the newest webhooks in a user's inbox as they arrive."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ipywidgets

from userhooks.errors import UserhooksError
from userhooks.webhooks.receiver_call import TEST_HEADER
from userhooks.widgets.inbox_link import InboxLink
from userhooks.widgets.panels import Panel, name_of, take_over, user_choice
from userhooks.widgets.status_line import Outcome, strong_color

if TYPE_CHECKING:
    from userhooks.inspector.client import Received
    from userhooks.lessons.lesson import Lesson

NEWEST = 10
"""Number of webhooks that the inbox panel shows."""

FOLLOW_SECONDS = 0.5
"""Seconds between two updates of the inbox panel."""

_CELL = "padding: 3px 12px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--jp-border-color2)"


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
        self.link = InboxLink(lesson, user)
        self._ended = threading.Event()
        super().__init__(lesson, "Update now", "Show the newest webhooks in this inbox", [self.user], [self.table], [self.link])
        self._say("Webhooks appear here as they arrive.")
        self.user.observe(lambda change: self._choose(change["new"]), "value")
        take_over(self, (lesson.name, user))
        self._follower = threading.Thread(target=self._follow, name="userhooks inbox panel", daemon=True)
        self._follower.start()

    def act(self) -> Outcome:
        """Update the table."""
        user = self.user.value
        inbox = self.lesson.inbox(user)
        state = self.lesson.clients.inspector.call("GET", f"/api/inboxes/{inbox.id}")
        newest = list(inbox.received(after=max(0, state["last_seq"] - NEWEST)))[-NEWEST:]
        self.table.value = _table(newest[::-1])
        webhooks = "1 webhook" if state["count"] == 1 else f"{state['count']:,} webhooks"
        shown = f" The newest {len(newest)} are shown." if state["count"] > len(newest) > 0 else ""
        shown = shown if newest else " They appear here as they arrive."
        return Outcome("done" if self._ended.is_set() else "live", f"{webhooks} in the inbox of {name_of(user)}.{shown}")

    def leave_off(self) -> None:
        """Stop updating by itself; the button still works."""
        self._ended.set()
        self._follower.join()
        self._say("A newer panel shows this inbox. This one is updated only when its button is clicked.")

    def close(self) -> None:
        """Stop updating, and close the widget."""
        self._ended.set()
        self.link.close()
        super().close()

    def _choose(self, user: str) -> None:
        self.link.show(user)
        self._clicked()

    def _follow(self) -> None:
        while not self._ended.wait(FOLLOW_SECONDS):
            try:
                kind, text, _ = self.act()
                self._say(text, kind=kind)
            except UserhooksError as error:
                self._complain("Not updated.", error)


def _table(received: Sequence[Received]) -> str:
    if not received:
        return ""
    heads = ("Received (UTC)", "Answered", "Action", "Row", "Message", "Secret")
    head = "".join(f'<th scope="col" style="{_CELL}; white-space: nowrap">{html.escape(text)}</th>' for text in heads)
    rows = "".join(f"<tr>{''.join(_cells(request))}</tr>" for request in received)
    caption = "text-align: left; color: var(--jp-ui-font-color2); padding: 4px 0"
    return (
        '<div style="overflow-x: auto"><table style="border-collapse: collapse; color: var(--jp-ui-font-color1); line-height: 1.5; '
        f'font-variant-numeric: tabular-nums"><caption style="{caption}">Webhooks, newest first</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(request: Received) -> list[str]:
    messages = request.messages()
    first = messages[0] if messages else None
    others = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
    other_body = "test event" if TEST_HEADER in dict(request.headers) else "not a Sequin message"
    answered = request.note or request.response_status or "not yet"
    values = (
        request.received_at.strftime("%H:%M:%S.%f")[:-3],
        answered,
        first.action + others if first else other_body,
        first.record.get("id") if first else "",
        first.record.get("message") if first else "",
        request.secret,
    )
    failed = answered != "not yet" and not request.accepted
    return [_cell(value, failed=failed and value is answered) for value in values]


def _cell(value: object, *, failed: bool) -> str:
    color = f"; font-weight: bold; color: {strong_color('--jp-error-color1')}" if failed else ""
    return f'<td style="{_CELL}{color}">{html.escape(_short(value))}</td>'


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
