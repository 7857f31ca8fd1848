"""Widgets in a kernel without a front end: a click makes one call, and a message reports the outcome."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ipywidgets import HTML, Button, Widget

from tests.waiting import eventually
from userhooks.errors import DatabaseUnavailable, InvalidInput, NotFound, NotRunning, SequinUnreachable, UserhooksError
from userhooks.inspector.client import Received
from userhooks.lessons.generator import Generated
from userhooks.lessons.lesson import Lesson
from userhooks.webhooks.receiver_call import TEST_HEADER, ReceiverAnswer
from userhooks.webhooks.subscriptions import Subscription
from userhooks.widgets import (
    BackfillPanel,
    GeneratePanel,
    InboxPanel,
    Panel,
    ResponsePanel,
    SubscribePanel,
    inbox_link,
    inbox_panel,
    panels,
)
from userhooks.widgets.inbox_link import InboxLink
from userhooks.widgets.status_line import render_status
from userhooks.widgets.subscribe_panel import short_url

NAMES = {"ada": 11, "ben": 12, "cy": 13}


class RecordingInbox:
    def __init__(self, user: str, called: Callable[..., None]) -> None:
        self.id = self.name = user
        self.called = called
        self.rules: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:3334/in/{user}"
        self.links = 0
        self.requests: list[Received] = []

    @property
    def page(self) -> str:
        self.links += 1
        return f"http://127.0.0.1:3334/inbox/{self.name}?token={self.links}"

    def received(self, after: int) -> Iterator[Received]:
        yield from (request for request in self.requests if request.seq > after)

    def script(self) -> list[dict[str, Any]]:
        return self.rules

    def respond(self, script: list[dict[str, Any]]) -> None:
        self.called("respond", self.name, script)
        self.rules = script

    def arrive(self, body: bytes, **fields: Any) -> None:
        seq = len(self.requests) + 1
        at = datetime(2026, 11, 23, 12, 0, seq % 60, 123_456, tzinfo=UTC)
        given: dict[str, Any] = {"response_status": 200, "secret": "ok", "secret_reason": "", "note": "", "headers": (), **fields}
        self.requests.append(Received(seq, at, "POST", "/", "", body=body, **given))


class RecordingLesson:
    """A fake lesson that records each call; raises `fault` if it is set."""

    name = "01"
    users: Mapping[str, int] = NAMES

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fault: BaseException | None = None
        self.ended: UserhooksError | None = None  # what a lesson raises that was started again
        self.inboxes = {user: RecordingInbox(user, self._called) for user in NAMES}
        self.subscribed: dict[str, Subscription] = {}
        self.answer = ReceiverAnswer(200, 12.3, b'{"ok": true}')
        self.clients = SimpleNamespace(
            inspector=SimpleNamespace(call=self._inspector), start=lambda: self._called("start"), subscriptions=self
        )
        self.threads: set[str] = set()

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fault is not None:
            raise self.fault

    def _inspector(self, method: str, path: str) -> dict[str, Any]:
        self.threads.add(threading.current_thread().name)
        if self.fault is not None:
            raise self.fault
        count = len(self.inboxes[path.rpartition("/")[2]].requests)
        return {"count": count, "last_seq": count}

    def inbox(self, user: str) -> RecordingInbox:
        if self.ended is not None:
            raise self.ended
        return self.inboxes[user]

    def subscribe(self, user: str, url: str) -> Any:
        self._called("subscribe", user, url)
        sink_name = f"user-{NAMES[user]}-notifications"
        created = sink_name not in self.subscribed
        self.subscribed[sink_name] = Subscription(NAMES[user], sink_name, sink_name, url, "active")
        return replace(self.subscribed[sink_name], secret=f"secret-of-{user}" if created else None, created=created)

    def subscriptions(self) -> list[Subscription]:
        if self.fault is not None:
            raise self.fault
        return list(self.subscribed.values())

    def unsubscribe(self, sink_name: str) -> None:
        self._called("unsubscribe", sink_name)
        del self.subscribed[sink_name]

    def send_test_event(self, sink_name: str) -> ReceiverAnswer:
        self._called("send_test_event", sink_name)
        return self.answer

    def generate(self, **options: Any) -> Generated:
        progress = options.pop("progress")
        self._called("generate", options)
        for rows in range(0, 100, 10):
            progress(rows)
        return Generated(100, 0, 0, {11: 100}, 100, 100, 0.99, datetime.now(UTC), False, 1, 100, ())

    def backfill(self, user: str) -> Any:
        self._called("backfill", user)
        handle = SimpleNamespace(sink_name="user-11-notifications", state="completed")
        handle.wait = lambda progress: handle
        return handle


@pytest.fixture
def lesson() -> Iterator[RecordingLesson]:
    yield RecordingLesson()
    for panel in list(panels._following.values()):
        panel.close()
    panels._following.clear()
    Widget.close_all()


def real(lesson: RecordingLesson) -> Lesson:
    return cast("Lesson", lesson)


PANELS = [SubscribePanel, GeneratePanel, BackfillPanel, ResponsePanel]


def text_of(widget: Widget) -> str:
    """Return what a reader sees of an HTML widget, one line for each line."""
    return html.unescape(re.sub(r"<[^>]*>", "", widget.value.replace("<br>", "\n").replace("</div>", "\n"))).strip()


def said(panel: Panel) -> str:
    return text_of(panel.state)


def controls(widget: Widget) -> list[Widget]:
    inner = [found for child in getattr(widget, "children", ()) for found in controls(child)]
    return [widget, *inner]


# --- one click, one call ---------------------------------------------------------------------------------------------------


def test_subscribe_sends_the_chosen_user_to_their_own_inbox(lesson: RecordingLesson) -> None:
    panel = SubscribePanel(real(lesson))
    panel.user.value = "ben"
    panel.button.click()
    assert lesson.calls == [("subscribe", "ben", "http://127.0.0.1:3334/in/ben")]
    assert "Ben is subscribed: the sink user-12-notifications sends to http://127.0.0.1:3334/in/ben" in said(panel)
    panel.button.click()
    assert "Ben was subscribed already" in said(panel)


def test_subscribe_takes_a_typed_url(lesson: RecordingLesson) -> None:
    panel = SubscribePanel(real(lesson))
    panel.url.value = "https://example.com/hook"
    panel.button.click()
    assert lesson.calls == [("subscribe", "ada", "https://example.com/hook")]


def test_generate_shows_how_far_it_is_and_ends_with_the_summary(lesson: RecordingLesson) -> None:
    panel = GeneratePanel(real(lesson))
    panel.rate.value, panel.seconds.value = 50, 2
    panel.button.click()
    assert lesson.calls == [("generate", {"rate": 50, "seconds": 2.0})]
    assert (panel.progress.value, panel.progress.max) == (100, 100)
    assert "100 inserted for 1 users in 1.0 s, 100 rows/s" in said(panel)


def test_numbers_stay_within_what_the_generator_takes(lesson: RecordingLesson) -> None:
    panel = GeneratePanel(real(lesson))
    panel.rate.value, panel.seconds.value = 10**9, -1
    assert (panel.rate.value, panel.seconds.value) == (100_000, 0.1)


def test_backfill_waits_for_the_end(lesson: RecordingLesson) -> None:
    panel = BackfillPanel(real(lesson))
    panel.button.click()
    assert lesson.calls == [("backfill", "ada")]
    assert "The backfill of user-11-notifications is completed" in said(panel)


def test_backfill_begins_with_the_first_user_who_has_a_subscription(lesson: RecordingLesson) -> None:
    assert BackfillPanel(real(lesson)).user.value == "ada", "nobody has one"
    lesson.subscribe("cy", url="http://127.0.0.1:3334/in/cy")
    lesson.subscribe("ben", url="http://127.0.0.1:3334/in/ben")
    assert BackfillPanel(real(lesson)).user.value == "ben"


def test_backfill_begins_with_the_first_user_if_sequin_does_not_answer(lesson: RecordingLesson) -> None:
    lesson.fault = SequinUnreachable("Sequin does not answer.")
    assert BackfillPanel(real(lesson)).user.value == "ada"


def test_a_url_that_cannot_be_is_named_as_its_field_is_labelled(lesson: RecordingLesson) -> None:
    panel = SubscribePanel(real(lesson))
    lesson.fault = InvalidInput("webhookUrl", "webhookUrl has no host.", "Send a URL.")
    panel.button.click()
    assert "Not done. URL has no host." in said(panel)
    assert "webhookUrl" not in said(panel)


def test_a_subscription_that_is_gone_is_explained_with_the_panels_own_button(lesson: RecordingLesson) -> None:
    lesson.subscribe("ada", url="http://127.0.0.1:3334/in/ada")
    panel = SubscribePanel(real(lesson))
    lesson.fault = NotFound("There is no subscription with the sink.", "List them with userhooks subscriptions.")
    panel.rows[0].test.click()
    assert "There is no subscription with the sink." in said(panel)
    assert "Update list" in said(panel)
    assert "userhooks subscriptions" not in said(panel)


def test_rules_that_equal_those_that_are_set_are_not_called_unset(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    panel.add.click()
    assert "Not set yet" in said(panel)
    panel.remove.click()
    assert "Not set yet" not in said(panel)
    assert "Ada's inbox answers always: 200." in said(panel)
    panel.add.click()
    panel.button.click()
    panel.remove.click()
    assert "Not set yet" in said(panel)


def test_the_rules_of_a_response_script_are_added_shown_in_words_and_set_together(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    assert "Ada's inbox answers always: 200." in said(panel)
    panel.condition.value, panel.many.value, panel.status.value, panel.retry_after.value = "first", 3, 503, 2
    panel.add.click()
    panel.condition.value, panel.many.value, panel.seed.value, panel.effect.value = "percent", 12.5, 7, "reset"
    panel.add.click()
    rules = [{"first": 3, "status": 503, "retry_after": 2}, {"percent": 12.5, "seed": 7, "effect": "reset"}]
    assert panel.rules == rules
    assert lesson.calls == [], "nothing is set before the button is clicked"
    assert "Not set yet" in said(panel)
    assert "<li>first 3: 503 with Retry-After 2</li><li>12.5 % by seed 7: reset</li><li>else: 200</li>" in panel.call.value
    panel.button.click()
    assert lesson.calls == [("respond", "ada", rules)]
    assert "Ada's inbox answers first 3: 503 with Retry-After 2; 12.5 % by seed 7: reset; else: 200." in said(panel)


@pytest.mark.parametrize(
    ("chosen", "rule"),
    [
        ({"condition": "always", "status": 410}, {"status": 410}),
        ({"condition": "every", "many": 10, "delay": 1.5}, {"every": 10, "status": 500, "delay": 1.5}),
        *[({"condition": "always", "effect": effect}, {"effect": effect}) for effect in ("hang", "drip", "reset", "redirect", "oversized")],
    ],
)
def test_each_kind_of_rule_can_be_chosen(lesson: RecordingLesson, chosen: dict[str, Any], rule: dict[str, Any]) -> None:
    panel = ResponsePanel(real(lesson))
    for control, value in chosen.items():
        getattr(panel, control).value = value
    panel.add.click()
    panel.button.click()
    assert lesson.calls == [("respond", "ada", [rule])]


def test_the_response_panel_begins_with_what_the_chosen_inbox_answers(lesson: RecordingLesson) -> None:
    lesson.inboxes["ben"].rules = [{"status": 500}, {"status": 410}]
    panel = ResponsePanel(real(lesson))
    assert panel.remove.disabled
    panel.user.value = "ben"
    assert panel.rules == [{"status": 500}, {"status": 410}]
    assert "Ben's inbox answers always: 500; always: 410." in said(panel)
    panel.remove.click()
    assert "lesson.inbox(&quot;ben&quot;).respond([{&#x27;status&#x27;: 500}])" in panel.call.value
    panel.remove.click()
    assert "lesson.inbox(&quot;ben&quot;).respond()" in panel.call.value


def test_a_rule_that_cannot_be_is_not_added_and_says_why(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    panel.condition.value, panel.many.value = "percent", 300
    panel.add.click()
    assert "Not added. script[0].percent is 300.\nIt must be a number from 0 to 100." in said(panel)
    assert panel.rules == []


def test_controls_that_do_not_matter_cannot_be_used(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    panel.condition.value, panel.effect.value = "always", "hang"
    assert panel.many.disabled
    assert panel.seed.disabled
    assert panel.status.disabled
    panel.condition.value, panel.effect.value = "percent", "status"
    assert not panel.many.disabled
    assert not panel.seed.disabled
    assert not panel.status.disabled


# --- numbers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "taken", "sentence"),
    [
        (-5, 1, "Rows per second must be between 1 and 100,000; -5 was changed to 1."),
        (10**9, 100_000, "Rows per second must be between 1 and 100,000; 1,000,000,000 was changed to 100,000."),
        (float("inf"), 100_000, "inf was changed to 100,000."),
        (float("nan"), 1, "nan was changed to 1."),
    ],
)
def test_a_panel_says_which_number_it_changed(lesson: RecordingLesson, typed: float, taken: float, sentence: str) -> None:
    panel = GeneratePanel(real(lesson))
    panel.rate.value = typed
    assert panel.rate.value == taken
    assert sentence in text_of(panel.notice)
    assert 'role="alert"' in panel.notice.value
    panel.button.click()
    assert lesson.calls[0][1]["rate"] == taken
    assert sentence in text_of(panel.notice), "it stays beside the result"
    panel.rate.value = 50
    assert panel.notice.value == ""


def test_several_changed_numbers_are_all_said(lesson: RecordingLesson) -> None:
    panel = GeneratePanel(real(lesson))
    panel.rate.value, panel.seconds.value = 0, 7200
    assert "0 was changed to 1." in text_of(panel.notice)
    assert "Seconds must be between 0.1 and 3,600; 7,200 was changed to 3,600." in text_of(panel.notice)


def test_a_fraction_where_only_whole_numbers_are_valid_is_said(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    panel.status.value = 500.5
    assert panel.status.value == 500
    assert "Status must be a whole number between 100 and 599; 500.5 was changed to 500." in text_of(panel.notice)


def test_a_fraction_of_requests_is_not_rounded_but_refused(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    panel.many.value = 2.5
    panel.add.click()
    assert "Not added. script[0].first is 2.5." in said(panel)


# --- reports ---------------------------------------------------------------------------------------------------------------


def test_each_kind_of_report_has_its_own_word_color_icon_and_role() -> None:
    reports = {kind: render_status(kind, ["The text."]) for kind in ("working", "done", "failed", "stopped", "changed", "live")}
    assert len(set(reports.values())) == len(reports)
    for report in reports.values():
        assert "<strong" in report
        assert 'aria-hidden="true"' in report
        assert "The text." in report
    assert "--jp-success-color" in reports["done"]
    assert "--jp-error-color" in reports["failed"]
    assert {kind for kind, report in reports.items() if 'role="alert"' in report} == {"failed", "changed"}
    assert {kind for kind, report in reports.items() if 'role="status"' in report} == {"working", "done", "stopped", "live"}
    assert not any("#" in report or "rgb(" in report for report in reports.values()), "colors are the theme's"


def test_a_panel_says_that_it_works_and_then_what_came_of_it(lesson: RecordingLesson) -> None:
    panel = BackfillPanel(real(lesson))
    seen: list[str] = []
    panel.state.observe(lambda _: seen.append(said(panel).split(".")[0]), "value")
    panel.button.click()
    lesson.fault = InvalidInput("user", "No.")
    panel.button.click()
    assert seen == ["Working", "Done", "Working", "Not done"]


def test_a_run_that_stop_ended_early_is_not_called_done(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lesson.generate(progress=lambda _: None)
    monkeypatch.setattr(lesson, "generate", lambda **_: replace(whole, interrupted=True))
    panel = GeneratePanel(real(lesson))
    panel.button.click()
    assert said(panel).startswith("Stopped early. 100 inserted")
    assert "Done" not in said(panel)


# --- links to inboxes ------------------------------------------------------------------------------------------------------


def target(link: InboxLink) -> str:
    found = re.search('href="([^"]*)"', link.value)
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize("kind", [SubscribePanel, ResponsePanel, InboxPanel])
def test_the_inbox_of_the_chosen_user_is_linked(kind: type[Any], lesson: RecordingLesson) -> None:
    panel = kind(real(lesson))
    assert target(panel.link).startswith("http://127.0.0.1:3334/inbox/ada?token=")
    assert text_of(panel.link) == "Open Ada's inbox ↗"
    panel.user.value = "cy"
    assert target(panel.link).startswith("http://127.0.0.1:3334/inbox/cy?token=")


def test_a_link_is_renewed_before_it_expires_and_only_then(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_link, "CHECK_SECONDS", 0.01)
    link = InboxLink(real(lesson), "ada")
    first = target(link)
    checks: list[float] = []
    start = time.time()
    monkeypatch.setattr(inbox_link, "time", SimpleNamespace(time=lambda: checks.append(0) or start + 60))
    eventually(lambda: len(checks) > 3)
    assert target(link) == first
    monkeypatch.setattr(inbox_link, "time", SimpleNamespace(time=lambda: start + 3000))
    eventually(lambda: target(link) != first)
    link.close()
    eventually(lambda: not link._renewer.is_alive())


@pytest.mark.parametrize("kind", [SubscribePanel, ResponsePanel, InboxPanel])
def test_a_lesson_that_was_started_again_has_no_inbox_to_link_and_the_panel_says_so(kind: type[Any], lesson: RecordingLesson) -> None:
    panel = kind(real(lesson))
    lesson.ended = NotFound("Lesson 01 was started again.", "Run the cells above this one again.")
    panel.user.value = "cy"
    eventually(lambda: "Lesson 01 was started again.\nRun the cells above" in said(panel))
    assert panel.link.value == ""


def test_a_link_to_an_inbox_that_is_gone_goes_away_quietly(
    lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inbox_link, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(inbox_link, "RENEW_SECONDS", 0)
    link = InboxLink(real(lesson), "ada")
    lesson.ended = NotFound("Lesson 01 was started again.")
    eventually(lambda: link.value == "")
    lesson.ended = None
    eventually(lambda: "Open Ada's inbox" in link.value)
    link.close()
    assert capsys.readouterr() == ("", "")


# --- the list of subscriptions ---------------------------------------------------------------------------------------------


@pytest.fixture
def subscribed(lesson: RecordingLesson) -> SubscribePanel:
    """Return a panel that has subscribed Ada and Ben."""
    panel = SubscribePanel(real(lesson))
    for user in ("ada", "ben"):
        panel.user.value = user
        panel.button.click()
    return panel


def test_subscriptions_from_elsewhere_are_listed_from_the_start(lesson: RecordingLesson) -> None:
    lesson.subscribe("cy", "https://example.com/hook")
    panel = SubscribePanel(real(lesson))
    assert [text_of(row.text) for row in panel.rows] == ["Cy● activehttps://example.com/hook"]
    lesson.subscribe("ada", "https://example.com/<b>")
    panel.update.click()
    assert [row.user for row in panel.rows] == ["Cy", "Ada"]
    assert "<b>" not in panel.rows[1].text.value


def test_an_empty_list_says_so(lesson: RecordingLesson) -> None:
    assert "none yet" in text_of(SubscribePanel(real(lesson)).heading)


def test_a_list_that_cannot_be_read_is_said_and_can_be_read_later(lesson: RecordingLesson) -> None:
    lesson.fault = SequinUnreachable("Sequin does not answer.", "Start it.")
    panel = SubscribePanel(real(lesson))
    assert "The list cannot be read. Sequin does not answer." in text_of(panel.heading)
    lesson.fault = None
    panel.update.click()
    assert "Subscriptions of this lesson" in text_of(panel.heading)


def test_a_secret_is_shown_once_and_masked_with_the_next_click(lesson: RecordingLesson) -> None:
    panel = SubscribePanel(real(lesson))
    panel.button.click()
    assert "shown only now: secret-of-ada" in text_of(panel.secret)
    panel.rows[0].test.click()
    assert "secret-of-ada" not in panel.secret.value
    assert "Secret of user-11-notifications: ••••" in text_of(panel.secret)
    panel.button.click()
    assert "was subscribed already" in said(panel)
    assert "secret-of-ada" not in panel.secret.value
    panel.user.value = "ben"
    panel.button.click()
    assert "Secret of user-12-notifications, shown only now: secret-of-ben" in text_of(panel.secret)


def test_unsubscribing_takes_one_subscription_away(subscribed: SubscribePanel, lesson: RecordingLesson) -> None:
    subscribed.rows[0].remove.click()
    assert lesson.calls[-1] == ("unsubscribe", "user-11-notifications")
    assert "Done. Ada is unsubscribed: the sink user-11-notifications is deleted." in said(subscribed)
    assert [row.user for row in subscribed.rows] == ["Ben"]
    assert subscribed._list.children == subscribed.rows
    subscribed.rows[0].remove.click()
    assert subscribed.secret.value == "", "the secret of a subscription that is gone is of no use"


def test_a_subscription_that_somebody_else_removed_leaves_the_list(subscribed: SubscribePanel, lesson: RecordingLesson) -> None:
    del lesson.subscribed["user-11-notifications"]
    lesson.unsubscribe = lambda name: (_ for _ in ()).throw(NotFound(f"There is no {name}."))
    subscribed.rows[0].remove.click()
    assert "Not done. There is no user-11-notifications." in said(subscribed)
    assert [row.user for row in subscribed.rows] == ["Ben"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            ReceiverAnswer(200, 12.3, b'{"ok":  true}'),
            'Done. Ben\'s receiver answered the test event with 200 after 12 ms.\nBody: {"ok": true}',
        ),
        (ReceiverAnswer(204, 1.26), "with 204 after 1.3 ms.\nThe answer has no body."),
        (ReceiverAnswer(200, 5, b"<script>\xff" + b"x" * 900), "Body: <script>\ufffdxxx"),
        (
            ReceiverAnswer(500, 5, b"Boom"),
            "Not accepted. Ben's receiver answered the test event with 500 after 5.0 ms.\nBody: Boom\nOnly 2xx",
        ),
        (
            ReceiverAnswer(None, 5, problem="The connection was refused."),
            "No answer. Ben's receiver got no test event, or did not answer.\nThe connection was refused.",
        ),
    ],
)
def test_a_test_event_shows_what_the_receiver_answered(
    subscribed: SubscribePanel, lesson: RecordingLesson, answer: ReceiverAnswer, words: str
) -> None:
    lesson.answer = answer
    subscribed.rows[1].test.click()
    assert lesson.calls[-1] == ("send_test_event", "user-12-notifications")
    assert words in said(subscribed)
    assert ('role="alert"' in subscribed.state.value) is not answer.accepted
    assert "<script" not in subscribed.state.value
    assert len(said(subscribed)) < 400


def test_all_buttons_wait_while_a_call_runs(subscribed: SubscribePanel, lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def send(sink_name: str) -> ReceiverAnswer:
        rows = [button.disabled for row in subscribed.rows for button in (row.test, row.remove)]
        seen.extend([subscribed.button.disabled, subscribed.update.disabled, *rows])
        return lesson.answer

    monkeypatch.setattr(lesson, "send_test_event", send)
    subscribed.rows[0].test.click()
    assert seen == [True] * 6
    assert not any(button.disabled for row in subscribed.rows for button in (row.test, row.remove, subscribed.button, subscribed.update))
    subscribed.button.click()
    assert not any(row.test.disabled or row.remove.disabled for row in subscribed.rows), "rows that are made anew during a call"


@pytest.mark.parametrize(
    ("url", "short"),
    [
        ("http://127.0.0.1:3334/in/ada", "127.0.0.1:3334/in/ada"),
        ("https://example.com/hook", "https://example.com/hook"),
        (f"http://127.0.0.1:3334/in/{'a' * 60}secret", f"127.0.0.1:3334/in/{'a' * 19}…secret"),
        (f"https://{'h' * 80}.example/x", f"https://{'h' * 21}….example/x"[:1]),
    ],
)
def test_a_url_is_shortened_in_the_middle(url: str, short: str) -> None:
    assert short_url(url).startswith(short)
    assert len(short_url(url)) <= 44


# --- the inbox -------------------------------------------------------------------------------------------------------------

BODY = b"""{"record": {"id": 7, "user_id": 11, "message": "Hello & <b>welcome</b>"}, "changes": null, "action": "insert", "metadata":
    {"consumer": {"id": "s", "name": "user-11-notifications"}, "table_schema": "public", "table_name": "notifications",
     "idempotency_key": "k", "commit_lsn": 1, "commit_idx": 0, "commit_timestamp": "2026-11-23T12:00:00Z"}}"""


def test_a_look_shows_the_newest_webhooks_first_with_every_value_escaped(lesson: RecordingLesson) -> None:
    for _ in range(11):
        lesson.inboxes["ada"].arrive(BODY)
    lesson.inboxes["ada"].arrive(b"<script>alert(1)</script>", response_status=500, secret="not applicable")
    panel = InboxPanel(real(lesson))
    panel.button.click()
    assert panel.table.value.count("<tr>") == 1 + inbox_panel.NEWEST
    assert "12:00:12.123" in panel.table.value.split("<tr>")[2]
    assert "not a Sequin message" in panel.table.value.split("<tr>")[2]
    assert "Hello &amp; &lt;b&gt;welcome&lt;/b&gt;" in panel.table.value
    assert "<script" not in panel.table.value
    assert "Live. 12 webhooks in the inbox of Ada. The newest 10 are shown." in said(panel)


def test_a_test_event_is_called_one_and_a_failed_answer_stands_out(lesson: RecordingLesson) -> None:
    lesson.inboxes["ada"].arrive(b'{"data": []}', headers=((TEST_HEADER, "id"),))
    lesson.inboxes["ada"].arrive(BODY, response_status=503)
    panel = InboxPanel(real(lesson))
    panel.button.click()
    failed, test = panel.table.value.split("<tr>")[2:]
    assert ">test event</td>" in test
    assert "--jp-error-color" in failed
    assert "--jp-error-color" not in test


def test_the_panel_follows_by_itself_and_a_choice_is_followed_at_once(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_panel, "FOLLOW_SECONDS", 0.01)
    panel = InboxPanel(real(lesson))
    lesson.inboxes["ada"].arrive(BODY)
    eventually(lambda: "Hello" in panel.table.value)
    panel.user.value = "cy"
    assert "0 webhooks in the inbox of Cy. They appear here as they arrive." in said(panel)
    assert panel.table.value == ""


def test_a_dead_inspector_is_said_and_its_return_too(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_panel, "FOLLOW_SECONDS", 0.01)
    panel = InboxPanel(real(lesson))
    lesson.fault = NotRunning("The inspector does not answer.", "Start it with: userhooks up")
    eventually(lambda: "Not updated. The inspector does not answer.\nStart it with: userhooks up" in said(panel))
    eventually(lambda: panel.start.layout.display is None)
    lesson.fault = None
    eventually(lambda: "0 webhooks in the inbox of Ada" in said(panel))
    eventually(lambda: panel.start.layout.display == "none")


def test_a_cell_that_is_run_again_takes_over_from_its_own_panel_only(lesson: RecordingLesson) -> None:
    bens, first = InboxPanel(real(lesson), user="ben"), InboxPanel(real(lesson))
    second = InboxPanel(real(lesson))
    assert not first._follower.is_alive()
    assert "A newer panel shows this inbox" in said(first)
    assert bens._follower.is_alive()
    assert second._follower.is_alive()
    first.button.click()
    assert "0 webhooks in the inbox of Ada" in said(first)


def test_a_closed_panel_stops_looking(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_panel, "FOLLOW_SECONDS", 0.01)
    panel = InboxPanel(real(lesson))
    panel.close()
    eventually(lambda: not panel._follower.is_alive())


# --- properties of all widgets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PANELS)
def test_an_error_is_shown_in_two_lines_and_the_button_works_again(kind: type[Panel], lesson: RecordingLesson) -> None:
    lesson.fault = InvalidInput("url", "That is <no> URL.", "Type one like https://…")
    panel = kind(real(lesson))
    panel.button.click()
    assert "Not done. That is <no> URL.\nType one like https://…" in said(panel)
    assert panel.button.disabled is False
    lesson.fault = None
    panel.button.click()
    assert "Not done" not in said(panel)


@pytest.mark.parametrize("error", [NotRunning, DatabaseUnavailable, SequinUnreachable])
@pytest.mark.parametrize("kind", PANELS)
def test_a_stack_that_is_stopped_can_be_started_from_the_panel(
    kind: type[Panel], error: type[UserhooksError], lesson: RecordingLesson
) -> None:
    panel = kind(real(lesson))
    assert panel.start.layout.display == "none"
    lesson.fault = error("It does not answer.", "Run userhooks up")
    panel.button.click()
    assert "Not done. It does not answer.\nRun userhooks up" in said(panel)
    assert (panel.start.layout.display, panel.start.description) == (None, "Start the stack")
    lesson.fault = None
    panel.start.click()
    assert lesson.calls[-1] == ("start",)
    assert "The stack is running again." in said(panel)
    assert panel.start.layout.display == "none"


@pytest.mark.parametrize("kind", PANELS)
def test_starting_is_not_offered_for_what_it_would_not_mend(kind: type[Panel], lesson: RecordingLesson) -> None:
    panel = kind(real(lesson))
    lesson.fault = InvalidInput("url", "That is no URL.", "")
    panel.button.click()
    assert panel.start.layout.display == "none"


def test_a_stack_that_cannot_be_started_says_why_and_can_be_tried_again(lesson: RecordingLesson) -> None:
    panel = SubscribePanel(real(lesson))
    lesson.fault = NotRunning("Port 3334 is in use.", "Stop what uses it.")
    panel.button.click()
    panel.start.click()
    assert "Not done. Port 3334 is in use.\nStop what uses it." in said(panel)
    assert panel.start.layout.display is None


@pytest.mark.parametrize("kind", PANELS)
def test_stop_ends_the_call_and_the_button_works_again(kind: type[Panel], lesson: RecordingLesson) -> None:
    panel = kind(real(lesson))
    lesson.fault = KeyboardInterrupt()
    panel.button.click()
    assert "Stopped." in said(panel)
    assert panel.button.disabled is False


@pytest.mark.parametrize("kind", PANELS)
def test_the_button_is_disabled_while_its_call_runs(kind: type[Panel], lesson: RecordingLesson) -> None:
    panel = kind(real(lesson))
    seen: list[bool] = []
    panel.button.observe(lambda change: seen.append(change["new"]), "disabled")
    panel.button.click()
    assert seen == [True, False]


@pytest.mark.parametrize("kind", [*PANELS, InboxPanel])
def test_everything_has_words_and_a_stable_short_repr(
    kind: type[Panel], lesson: RecordingLesson, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = kind(real(lesson))
    assert repr(panel) == f"{kind.__name__}(lesson 01)"
    assert panel.button.description
    assert panel.button.icon == ""
    for widget in controls(panel):
        if "description" in widget.trait_names() and not hasattr(widget, "children"):
            assert widget.description or isinstance(widget, HTML)
            assert widget.description == "" or isinstance(widget, Button) or widget.style.description_width == "initial"
    panel.button.click()
    assert capsys.readouterr() == ("", "")


def test_no_colour_is_fixed(lesson: RecordingLesson) -> None:
    lesson.inboxes["ada"].arrive(BODY)
    panel = InboxPanel(real(lesson))
    panel.button.click()
    styles = [part.split('"')[0] for part in panel.table.value.split('style="')[1:]]
    assert styles
    assert not any("#" in style or "rgb" in style or "background" in style for style in styles)
