"""Widgets in a kernel without a front end: a click makes one call, and a message reports the outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ipywidgets import Button, Widget

from tests.waiting import eventually
from userhooks.errors import DatabaseUnavailable, InvalidInput, NotRunning, SequinUnreachable, UserhooksError
from userhooks.inspector.client import Received
from userhooks.lessons.generator import Generated
from userhooks.lessons.lesson import Lesson
from userhooks.widgets import BackfillPanel, GeneratePanel, InboxPanel, Panel, ResponsePanel, SubscribePanel, panels

NAMES = {"ada": 11, "ben": 12, "cy": 13}


class RecordingInbox:
    def __init__(self, user: str, called: Callable[..., None]) -> None:
        self.id = self.name = user
        self.called = called
        self.rules: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:3334/in/{user}"
        self.requests: list[Received] = []

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
        given: dict[str, Any] = {"response_status": 200, "secret": "ok", "secret_reason": "", "note": "", **fields}
        self.requests.append(Received(seq, at, "POST", "/", "", (), body, **given))


class RecordingLesson:
    """A fake lesson that records each call; raises `fault` if it is set."""

    name = "01"
    users: Mapping[str, int] = NAMES

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fault: BaseException | None = None
        self.inboxes = {user: RecordingInbox(user, self._called) for user in NAMES}
        self.clients = SimpleNamespace(inspector=SimpleNamespace(call=self._inspector), start=lambda: self._called("start"))
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
        return self.inboxes[user]

    def subscribe(self, user: str, url: str) -> Any:
        self._called("subscribe", user, url)
        return SimpleNamespace(sink_name=f"user-{NAMES[user]}-notifications", url=url, created=len(self.calls) == 1)

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


def real(lesson: RecordingLesson) -> Lesson:
    return cast("Lesson", lesson)


PANELS = [SubscribePanel, GeneratePanel, BackfillPanel, ResponsePanel]


def controls(widget: Widget) -> list[Widget]:
    inner = [found for child in getattr(widget, "children", ()) for found in controls(child)]
    return [widget, *inner]


# --- one click, one call ---------------------------------------------------------------------------------------------------


def test_subscribe_sends_the_chosen_user_to_their_own_inbox(lesson: RecordingLesson) -> None:
    panel = SubscribePanel(real(lesson))
    panel.user.value = "ben"
    panel.button.click()
    assert lesson.calls == [("subscribe", "ben", "http://127.0.0.1:3334/in/ben")]
    assert "Ben is subscribed: the sink user-12-notifications sends to http://127.0.0.1:3334/in/ben" in panel.state.value
    panel.button.click()
    assert "Ben was subscribed already" in panel.state.value


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
    assert "100 inserted for 1 users in 1.0 s, 100 rows/s" in panel.state.value


def test_numbers_stay_within_what_the_generator_takes(lesson: RecordingLesson) -> None:
    panel = GeneratePanel(real(lesson))
    panel.rate.value, panel.seconds.value = 10**9, -1
    assert (panel.rate.value, panel.seconds.value) == (100_000, 0.1)


def test_backfill_waits_for_the_end(lesson: RecordingLesson) -> None:
    panel = BackfillPanel(real(lesson))
    panel.button.click()
    assert lesson.calls == [("backfill", "ada")]
    assert "The backfill of user-11-notifications is completed" in panel.state.value


def test_the_rules_of_a_response_script_are_added_shown_in_words_and_set_together(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    assert "Ada&#x27;s inbox answers always: 200." in panel.state.value
    panel.condition.value, panel.many.value, panel.status.value, panel.retry_after.value = "first", 3, 503, 2
    panel.add.click()
    panel.condition.value, panel.many.value, panel.seed.value, panel.effect.value = "percent", 12.5, 7, "reset"
    panel.add.click()
    rules = [{"first": 3, "status": 503, "retry_after": 2}, {"percent": 12.5, "seed": 7, "effect": "reset"}]
    assert panel.rules == rules
    assert lesson.calls == [], "nothing is set before the button is clicked"
    assert "Not set yet" in panel.state.value
    assert "<li>first 3: 503 with Retry-After 2</li><li>12.5 % by seed 7: reset</li><li>else: 200</li>" in panel.call.value
    panel.button.click()
    assert lesson.calls == [("respond", "ada", rules)]
    assert "Ada&#x27;s inbox answers first 3: 503 with Retry-After 2; 12.5 % by seed 7: reset; else: 200." in panel.state.value


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
    assert "Ben&#x27;s inbox answers always: 500; always: 410." in panel.state.value
    panel.remove.click()
    assert "lesson.inbox(&quot;ben&quot;).respond([{&#x27;status&#x27;: 500}])" in panel.call.value
    panel.remove.click()
    assert "lesson.inbox(&quot;ben&quot;).respond()" in panel.call.value


def test_a_rule_that_cannot_be_is_not_added_and_says_why(lesson: RecordingLesson) -> None:
    panel = ResponsePanel(real(lesson))
    panel.condition.value, panel.many.value = "percent", 300
    panel.add.click()
    assert "Not added: script[0].percent is 300.0.<br>It must be a number from 0 to 100." in panel.state.value
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
    assert panel.table.value.count("<tr>") == 1 + panels.NEWEST
    assert "12:00:12.123" in panel.table.value.split("<tr>")[2]
    assert "not a Sequin message" in panel.table.value.split("<tr>")[2]
    assert "Hello &amp; &lt;b&gt;welcome&lt;/b&gt;" in panel.table.value
    assert "<script" not in panel.table.value
    assert "12 in the inbox of Ada; the newest 10 are shown." in panel.state.value


def test_the_panel_follows_by_itself_and_a_choice_is_followed_at_once(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "FOLLOW_SECONDS", 0.01)
    panel = InboxPanel(real(lesson))
    lesson.inboxes["ada"].arrive(BODY)
    eventually(lambda: "Hello" in panel.table.value)
    panel.user.value = "cy"
    assert "0 in the inbox of Cy" in panel.state.value
    assert panel.table.value == ""


def test_a_dead_inspector_is_said_and_its_return_too(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "FOLLOW_SECONDS", 0.01)
    panel = InboxPanel(real(lesson))
    lesson.fault = NotRunning("The inspector does not answer.", "Start it with: userhooks up")
    eventually(lambda: "Cannot update: The inspector does not answer.<br>Start it with: userhooks up" in panel.state.value)
    eventually(lambda: panel.start.layout.display is None)
    lesson.fault = None
    eventually(lambda: "0 in the inbox of Ada" in panel.state.value)
    eventually(lambda: panel.start.layout.display == "none")


def test_a_cell_that_is_run_again_takes_over_from_its_own_panel_only(lesson: RecordingLesson) -> None:
    bens, first = InboxPanel(real(lesson), user="ben"), InboxPanel(real(lesson))
    second = InboxPanel(real(lesson))
    assert not first._follower.is_alive()
    assert "A newer panel shows this inbox" in first.state.value
    assert bens._follower.is_alive()
    assert second._follower.is_alive()
    first.button.click()
    assert "0 in the inbox of Ada" in first.state.value


def test_a_closed_panel_stops_looking(lesson: RecordingLesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "FOLLOW_SECONDS", 0.01)
    panel = InboxPanel(real(lesson))
    panel.close()
    eventually(lambda: not panel._follower.is_alive())


# --- properties of all widgets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PANELS)
def test_an_error_is_shown_in_two_lines_and_the_button_works_again(kind: type[Panel], lesson: RecordingLesson) -> None:
    lesson.fault = InvalidInput("url", "That is <no> URL.", "Type one like https://…")
    panel = kind(real(lesson))
    panel.button.click()
    assert "Not done: That is &lt;no&gt; URL.<br>Type one like https://…" in panel.state.value
    assert panel.button.disabled is False
    lesson.fault = None
    panel.button.click()
    assert "Not done" not in panel.state.value


@pytest.mark.parametrize("error", [NotRunning, DatabaseUnavailable, SequinUnreachable])
@pytest.mark.parametrize("kind", PANELS)
def test_a_stack_that_is_stopped_can_be_started_from_the_panel(
    kind: type[Panel], error: type[UserhooksError], lesson: RecordingLesson
) -> None:
    panel = kind(real(lesson))
    assert panel.start.layout.display == "none"
    lesson.fault = error("It does not answer.", "Run userhooks up")
    panel.button.click()
    assert "Not done: It does not answer.<br>Run userhooks up" in panel.state.value
    assert (panel.start.layout.display, panel.start.description) == (None, "Start the stack")
    lesson.fault = None
    panel.start.click()
    assert lesson.calls[-1] == ("start",)
    assert "The stack is running again." in panel.state.value
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
    assert "Not done: Port 3334 is in use.<br>Stop what uses it." in panel.state.value
    assert panel.start.layout.display is None


@pytest.mark.parametrize("kind", PANELS)
def test_stop_ends_the_call_and_the_button_works_again(kind: type[Panel], lesson: RecordingLesson) -> None:
    lesson.fault = KeyboardInterrupt()
    panel = kind(real(lesson))
    panel.button.click()
    assert "Stopped." in panel.state.value
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
            assert widget.description or widget.__class__.__name__ == "HTML"
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
