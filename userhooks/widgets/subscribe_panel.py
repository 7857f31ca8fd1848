"""The subscribe panel: subscribes a user, and lists the lesson's subscriptions, each of which can be tested or ended."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import ipywidgets

from userhooks.errors import InvalidInput, NotFound, UserhooksError
from userhooks.widgets.inbox_link import InboxLink
from userhooks.widgets.panels import LABELLED, Panel, name_of, user_choice
from userhooks.widgets.status_line import Outcome, render_status, strong_color

if TYPE_CHECKING:
    from userhooks.lessons.lesson import Lesson
    from userhooks.webhooks.subscriptions import Subscription

LONGEST_URL = 44
"""Maximum number of characters of a URL in the list."""

_STATUS_COLORS = {"active": "--jp-success-color1", "paused": "--jp-warn-color0"}


class ListedSubscription(ipywidgets.HBox):  # type: ignore[misc]  # ipywidgets is untyped
    """One subscription in the list: its user, URL, and status, and the buttons `test` and `remove`."""

    def __init__(self, user: str, subscription: Subscription, test: Callable[[], None], remove: Callable[[], None]) -> None:
        self.user = user
        self.subscription = subscription
        self.test = _button("Send test event", f"Send {user}'s receiver one request that contains no rows", test)
        self.remove = _button("Unsubscribe", f"Delete the sink {subscription.sink_name}", remove)
        self.text = ipywidgets.HTML(_row(user, subscription), layout={"flex": "1 1 26em", "min_width": "0"})
        layout = {"flex_flow": "row wrap", "align_items": "center", "border_bottom": "1px solid var(--jp-border-color2)", "width": "100%"}
        super().__init__([self.text, self.test, self.remove], layout=layout)


class SubscribePanel(Panel):
    """A panel that subscribes a user, `lesson.subscribe(user, url=…)`, and lists the lesson's subscriptions.

    By default, the URL is that of the user's inbox. A new subscription's secret is shown until the next click. Each row of the list
    has two buttons: one sends a test event and shows the receiver's answer, and the other unsubscribes.

        panel = SubscribePanel(lesson)
        panel.user.value = "ben"
        panel.button.click()
        panel.rows[0].test.click()
        panel.rows[0].remove.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.user = user_choice(lesson)
        self.url = ipywidgets.Text(
            lesson.inbox(self.user.value).url, description="URL", style=LABELLED, layout={"width": "32em", "max_width": "100%"}
        )
        self.link = InboxLink(lesson, self.user.value)
        self.secret = ipywidgets.HTML()
        self.heading = ipywidgets.HTML(layout={"flex": "1 1 auto"})
        self.rows: tuple[ListedSubscription, ...] = ()
        self._with_secret = ""
        self._list = ipywidgets.VBox(layout={"width": "100%"})
        self.update = _button("Update list", "Read the lesson's subscriptions again", lambda: self._do(self._update))
        top = ipywidgets.HBox([self.heading, self.update], layout={"flex_flow": "row wrap", "align_items": "center", "width": "100%"})
        super().__init__(
            lesson, "Subscribe", "Send this user's rows to this URL", [self.user, self.url], [self.secret, top, self._list], [self.link]
        )
        self.user.observe(lambda change: self._show_inbox_of(change["new"]), "value")
        self._show_list()

    def act(self) -> str:
        """Subscribe the selected user."""
        user = self.user.value
        try:
            subscription = self.lesson.subscribe(user, url=self.url.value)
        except InvalidInput as error:
            field, label = "webhookUrl", self.url.description  # as the server names it, and as this panel does
            raise InvalidInput(error.field, error.what.replace(field, label), error.remedy.replace(field, label)) from None
        done = "is subscribed" if subscription.created else "was subscribed already"
        if subscription.secret is not None:
            self._with_secret = subscription.sink_name
            self.secret.value = _secret(subscription.sink_name, subscription.secret)
        self._show_list()
        return f"{name_of(user)} {done}: the sink {subscription.sink_name} sends to {subscription.url}"

    def enable(self, enabled: bool) -> None:
        """Enable or disable all buttons; a secret that was shown is masked when the next click disables them."""
        super().enable(enabled)
        for button in (self.update, *[button for row in self.rows for button in (row.test, row.remove)]):
            button.disabled = not enabled
        if not enabled and self._with_secret:
            self.secret.value = _secret(self._with_secret, None)

    def close(self) -> None:
        """Close the widget and its link."""
        self.link.close()
        super().close()

    def _show_inbox_of(self, user: str) -> None:
        self.link.show(user)
        try:
            self.url.value = self.lesson.inbox(user).url
        except UserhooksError as error:
            self._complain("Not chosen.", error)

    def _update(self) -> str:
        self._show_list()
        return "The list is up to date."

    def _test(self, row: ListedSubscription) -> Outcome:
        whose = f"{row.user}'s receiver"
        try:
            answer = self.lesson.clients.subscriptions.send_test_event(row.subscription.sink_name)
        except NotFound as error:
            raise NotFound(error.what, f'Press "{self.update.description}" to see which there are.') from None
        if answer.status is None:
            return Outcome("failed", f"{whose} got no test event, or did not answer.\n{answer.problem}", "No answer.")
        body = " ".join(answer.body.decode(errors="replace").split())
        shown = f"Body: {_cut(body, 200)}" if body else "The answer has no body."
        said = f"{whose} answered the test event with {answer.status} after {_milliseconds(answer.latency_ms)}.\n{shown}"
        if answer.accepted:
            return Outcome("done", said)
        return Outcome("failed", f"{said}\nOnly 2xx accepts a webhook. A real one with this answer would be sent again.", "Not accepted.")

    def _unsubscribe(self, row: ListedSubscription) -> str:
        try:
            self.lesson.clients.subscriptions.unsubscribe(row.subscription.sink_name)
        except NotFound as error:
            raise NotFound(error.what, "The list below is up to date now.") from None
        finally:
            self._show_list()
        if self._with_secret == row.subscription.sink_name:
            self._with_secret = self.secret.value = ""
        return f"{row.user} is unsubscribed: the sink {row.subscription.sink_name} is deleted."

    def _show_list(self) -> None:
        """Read the lesson's subscriptions, and show them; an error is shown in place of the heading."""
        try:
            subscriptions = self.lesson.subscriptions()
        except UserhooksError as error:
            self.heading.value = render_status("failed", [error.what], "The list cannot be read.")
            return
        names = {number: name_of(user) for user, number in self.lesson.users.items()}
        replaced = self.rows
        self.rows = tuple(self._row(names[one.user_id], one) for one in subscriptions)
        self._list.children = self.rows
        for row in replaced:
            for widget in (row.text, row.test, row.remove, row):
                widget.close()
        self.heading.value = _heading(len(self.rows))

    def _row(self, user: str, subscription: Subscription) -> ListedSubscription:
        row = ListedSubscription(
            user, subscription, lambda: self._do(lambda: self._test(row)), lambda: self._do(lambda: self._unsubscribe(row))
        )
        row.test.disabled = row.remove.disabled = self.button.disabled
        return row


def _button(text: str, tooltip: str, do: Callable[[], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=text, tooltip=tooltip, layout={"width": "auto"})
    button.on_click(lambda _: do())
    return button


def _heading(count: int) -> str:
    none = '<span style="color: var(--jp-ui-font-color2)">: none yet</span>' if count == 0 else ""
    return f'<strong style="color: var(--jp-ui-font-color1)">Subscriptions of this lesson</strong>{none}'


def _row(user: str, subscription: Subscription) -> str:
    color = strong_color(_STATUS_COLORS.get(subscription.status, "--jp-error-color1"))
    url = html.escape(subscription.url)
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 2px 14px; color: var(--jp-ui-font-color1); line-height: 1.5; padding: 2px 0">'
        f'<strong style="min-width: 3em">{html.escape(user)}</strong>'
        f'<span style="min-width: 5em; color: {color}"><span aria-hidden="true">●</span> {html.escape(subscription.status)}</span>'
        f'<code title="{url}" style="overflow-wrap: anywhere">{html.escape(short_url(subscription.url))}</code></div>'
    )


def _secret(sink_name: str, secret: str | None) -> str:
    """Return the line that shows a secret, or masks it if it is None."""
    line = 'style="color: var(--jp-ui-font-color1); line-height: 1.5; padding: 4px 0; overflow-wrap: anywhere"'
    whose = f"Secret of {html.escape(sink_name)}"
    if secret is None:
        return f'<div {line}>{whose}: <code aria-label="hidden">••••••••••••</code> (it was shown once)</div>'
    return (
        f"<div {line}>{whose}, <strong>shown only now</strong>: <code>{html.escape(secret)}</code><br>Each webhook carries it as "
        "<code>Authorization: Bearer …</code>. Your receiver compares it.</div>"
    )


def short_url(url: str) -> str:
    """Return a URL of at most LONGEST_URL characters: the host, and the beginning and the end of the rest."""
    parts = urlsplit(url)
    text = url.removeprefix("http://")
    if len(text) <= LONGEST_URL:
        return text
    scheme = "" if parts.scheme == "http" else f"{parts.scheme}://"
    host = _cut(f"{scheme}{parts.netloc}", LONGEST_URL - 14)
    tail = 6
    head = LONGEST_URL - len(host) - 1 - tail
    return f"{host}{text.removeprefix(scheme + parts.netloc)[:head]}…{text[-tail:]}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _milliseconds(number: float) -> str:
    return f"{number:,.0f} ms" if number >= 10 else f"{number:.1f} ms"
