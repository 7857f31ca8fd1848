"""The console's pages: every value is escaped, status is shown as text, and of many sinks the failing ones come first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from userhooks.engine.change import Change
from userhooks.engine.console.html import (
    STATES,
    OpenedMessage,
    Overview,
    PageFrame,
    SinkDetail,
    SinkRow,
    Slot,
    message,
    overview,
    sink_page,
    sink_url,
)
from userhooks.engine.console.json_view import pieces
from userhooks.engine.console.rate_chart import rate_chart
from userhooks.engine.console.recent_messages import RecentMessage, recent_messages
from userhooks.engine.console.sink_settings import MASK, full_url, masked_url, settings, user_of
from userhooks.engine.delivery.sink_history import BARS, LoggedAttempt, Outline
from userhooks.engine.resources import BackfillResource, Discarded, HttpEndpoint, SinkResource

HOSTILE = [
    "<script>alert(1)</script>",
    "</title></style></script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "</textarea></td></table><iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "javascript:alert(1)",
    "<!--><img src=x onerror=alert(1)>-->",
    "{{ nonce }}{% raw %}{# {main}",
    "&lt;script&gt;&#x3c;img&#62;",
    "\\1 \\g<0> \x00 \u2028 \u202e",
]
VOID = {"meta", "link", "input", "br"}
PLAIN = "harmless"


class Skeleton(HTMLParser):
    """The elements and attribute names of a page in order, its text, and its attribute values; fails on unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


FRAME = PageFrame({"postgres": "running", "server": "down"}, True, "t", "nonce")
CHART = rate_chart([(0, 0)] * (BARS - 2) + [(10, 0), (5, 5)])


def row(**more: object) -> SinkRow:
    base = SinkRow("i-1", "user-1", "101", "http://h/in/••••", "active", "healthy", 3, 2, 5, 1, None, 61.5, CHART)
    return replace(base, **more)  # type: ignore[arg-type]


def first(hostile: str, **more: object) -> Overview:
    backfill = BackfillResource("b-1", "i-1", ("public", hostile), "active", "2026-01-01T00:00:00Z", "", 100, 40)
    sinks = [row(name=hostile, user=hostile, url=hostile, last_error=hostile)]
    slot = Slot(hostile, 10, 20)
    base = Overview(hostile, slot, 7, 4096, hostile, "", sinks, {"healthy": 1}, 1, [(hostile, backfill)])
    return replace(base, **more)  # type: ignore[arg-type]


def attempt(text: str, at: float = 1.0, answer: int | str = 200, attempts: int = 1, change: Change | None = None) -> LoggedAttempt:
    return LoggedAttempt(at, 0.0123, answer, 1, attempts, Outline(text, f"public.{text}", text, "insert", 5, 6), change)


def detail(hostile: str, **more: object) -> SinkDetail:
    endpoint = HttpEndpoint("e", hostile, "http", "127.0.0.1", 9000, "/" + hostile, None, None, {hostile: "x"}, {hostile: "y"})
    sink = SinkResource("i-1", "user-1", "e", filter="f", annotations={hostile: hostile}, path="/" + hostile)
    sent = Change.__new__(Change)
    failed = RecentMessage(hostile + "2", [attempt(hostile, 2.0, hostile, 3)])
    delivered = RecentMessage(hostile, [attempt(hostile, change=sent), attempt(hostile, answer=500)])
    base = SinkDetail(
        row(name=hostile, user=hostile, url=hostile, last_error=hostile),
        6,
        1,
        1_767_225_600,
        hostile,
        True,
        [failed, delivered],
        hostile,
        OpenedMessage(delivered, [("key", hostile), ("", hostile), ("string", hostile)], None),
        [{"name": hostile, "status": "error", "error": hostile}],
        settings(sink, endpoint),
        [Discarded(1, f"public.{hostile}", hostile, hostile, 3, hostile, hostile)],
        [BackfillResource("b-1", "i-1", ("public", hostile), "paused", "2026-01-01T00:00:00Z", "", None, 40)],
    )
    return replace(base, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_value_becomes_markup(hostile: str) -> None:
    """A page with a hostile value has the same elements and attributes as with a harmless one, and shows the value unchanged."""
    pages: list[Callable[[str], str]] = [
        lambda text: overview(first(text), FRAME),
        lambda text: sink_page(detail(text), FRAME),
        lambda text: sink_page(detail(text, full_url=None, opened=OpenedMessage(detail(text).messages[0], [], text)), FRAME),
        lambda text: message(text, text, FRAME),
        lambda text: message("x", text, replace(FRAME, parts={text: text})),
    ]
    for page in pages:
        shown, plain = (Skeleton(page(text)) for text in (hostile, PLAIN))
        assert shown.elements == plain.elements
        assert hostile.replace("\x00", "\ufffd") in shown.text or hostile in shown.text


def test_style_and_script_have_the_nonce_and_nothing_is_inline_or_from_elsewhere() -> None:
    for main in (overview(first("x"), FRAME), sink_page(detail("x"), FRAME)):
        page = Skeleton(main)
        names = [name for _, attributes in page.elements for name in attributes]
        assert not [name for name in names if name.startswith("on") or name == "style"]
        assert page.values.count("nonce") == 2
        assert not [value for value in page.values if "//" in value]


def test_every_form_has_the_token_and_posts_to_its_sink() -> None:
    frame = replace(FRAME, token="s3cret")
    for main in (overview(first("x"), frame), sink_page(detail("x"), frame)):
        page = Skeleton(main)
        posts = [value for value in page.values if value == "post"]
        assert len(posts) == page.values.count("s3cret") > 0


def test_the_parts_of_the_stack_have_a_word_for_their_state_and_the_inspector_a_link() -> None:
    html = overview(first("x"), FRAME)
    assert '<li class="state good">postgres running</li>' in html
    assert '<li class="state bad">server down</li>' in html
    assert '<a href="/inspector">Inspector</a>' in html
    assert "/inspector" not in overview(first("x"), replace(FRAME, has_inspector=False))


def test_buttons_follow_the_status() -> None:
    def buttons(status: str, discarded: int) -> list[str]:
        page = Skeleton(overview(first("x", sinks=[row(status=status, discarded=discarded)], backfills=[]), FRAME))
        return [value for value in page.values if value in ("pause", "resume", "redeliver all")]

    assert buttons("active", 0) == ["pause"]
    assert buttons("paused", 2) == ["resume", "redeliver all"]
    assert buttons("disabled", 0) == []


def test_what_is_not_shown_is_counted() -> None:
    text = Skeleton(overview(first("x", find="", states={"idle": 9_000, "healthy": 1_000}, total=10_000), FRAME)).text
    assert "10,000 sinks, failing first; showing the first 1" in text
    assert "idle 9,000" in text
    assert "2 of 10,000 sinks" in Skeleton(overview(first("x", find="u", states={"idle": 2}, total=10_000), FRAME)).text


def test_without_sinks_and_without_a_match_the_page_says_so() -> None:
    assert "There are no sinks yet." in overview(first("x", sinks=[], states={}, total=0), FRAME)
    assert "No  sink has “<b>” in its name" in Skeleton(overview(first("x", find="<b>", sinks=[], states={}, total=3), FRAME)).text
    assert "No sink is failing now." in overview(first("x", find="", state="failing", sinks=[], states={}, total=3), FRAME)


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_a_word_and_has_a_color_of_its_own(state: str) -> None:
    for main in (overview(first("x", sinks=[row(state=state)]), FRAME), sink_page(detail("x", row=row(state=state)), FRAME)):
        assert f'<span class="badge {STATES[state]}">{state}</span>' in main


def test_an_idle_sink_looks_idle() -> None:
    assert STATES["idle"] == "idle"


def test_all_headers_have_a_scope() -> None:
    for main in (overview(first("x"), FRAME), sink_page(detail("x"), FRAME)):
        page = Skeleton(main)
        assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
        assert Counter(tag for tag, _ in page.elements)["th"] > 5


def test_a_message_shows_its_answer_latency_attempts_and_time() -> None:
    text = " ".join(Skeleton(sink_page(detail("x", messages=[RecentMessage("m", [attempt("x", 7.5, 503, 4)])]), FRAME)).text.split())
    assert "insert public.x x 503 Service Unavailable 12 ms 4 00:00:07.500" in text


def test_only_a_delivered_message_can_be_selected() -> None:
    def selectable(message: RecentMessage) -> bool:
        return 'type="checkbox" form="redeliver"' in sink_page(detail("x", messages=[message], opened=None), FRAME)

    sent = Change.__new__(Change)
    assert selectable(RecentMessage("m", [attempt("x", change=sent)]))
    assert not selectable(RecentMessage("m", [attempt("x")]))
    assert not selectable(RecentMessage("m", [attempt("x", answer=503, change=sent)]))


def test_a_message_that_is_not_known_any_more_is_said_to_be_gone() -> None:
    assert "does not keep that message any more" in sink_page(detail("x", opened=None), FRAME)


def test_a_backfills_progress_is_a_bar_and_words() -> None:
    main = overview(first("x"), FRAME)
    assert '<progress max="100" value="40" aria-label="Rows of public.x"></progress> 40 of 100 rows' in main


def test_the_settings_hold_no_secret() -> None:
    endpoint = HttpEndpoint("e", "e", "https", "h", 443, "/p/s3cret", "key=s3cret", None, {"x-a": "s3cret"}, {"authorization": "s3cret"})
    shown = settings(SinkResource("i", "n", "e", path="/q/s3cret?key=s3cret"), endpoint)
    assert "s3cret" not in str(shown)
    assert shown["Headers"] == "authorization: …, x-a: …"


@pytest.mark.parametrize(
    ("path", "query", "own", "shown"),
    [
        (None, None, None, "https://h"),
        ("/in/t0ken", None, None, f"https://h/in/{MASK}"),
        ("/hooks", None, None, "https://h/hooks"),
        ("/v1/hooks/a/b", None, None, f"https://h/v1/{MASK}/{MASK}/{MASK}"),
        ("/T0P-s3cret", None, None, f"https://h/{MASK}"),
        ("/averylongwordthatmaybeatoken", None, None, f"https://h/{MASK}"),
        ("/in/", "key=s3cret", None, f"https://h/in/?{MASK}"),
        ("/in", None, "/t0ken?a=b", f"https://h/in/{MASK}?{MASK}"),
        ("no-slash", None, None, "https://h/no-slash"),
    ],
)
def test_of_a_path_only_a_plain_first_word_is_shown(path: str | None, query: str | None, own: str | None, shown: str) -> None:
    sink, endpoint = SinkResource("i", "n", "e", path=own), HttpEndpoint("e", "e", "https", "h", 443, path, query)
    assert masked_url(sink, endpoint) == (shown, MASK in shown)


def test_the_full_url_is_that_of_the_requests() -> None:
    endpoint = HttpEndpoint("e", "e", "http", "h", 8080, "/in/", "a=b")
    assert full_url(SinkResource("i", "n", "e"), endpoint) == "http://h:8080/in/?a=b"
    assert full_url(SinkResource("i", "n", "e", path="/x?c=d"), replace(endpoint, query=None)) == "http://h:8080/in/x?c=d"


@pytest.mark.parametrize(
    ("annotations", "user"), [({}, None), ({"user_id": "7"}, "7"), ({"user_id": 7}, "7"), ({"user_id": {"a": 1}}, '{"a":1}')]
)
def test_the_user_is_the_one_that_the_annotations_name(annotations: dict[str, object], user: str | None) -> None:
    assert user_of(SinkResource("i", "n", "e", annotations=annotations)) == user


def test_a_name_in_a_path_stays_one_segment() -> None:
    assert sink_url("a/../b?c#d") == "/sinks/a%2F..%2Fb%3Fc%23d"
    assert sink_url("a", "b/&=?") == "/sinks/a?message=b%2F%26%3D%3F"


def test_attempts_are_grouped_by_message_and_counted() -> None:
    failed, retried = attempt("a", 1.0, 500, 1), attempt("a", 3.0, 200, 2)
    again = [attempt("b", 5.0 - n, 500, 9 - n) for n in range(3)]
    other, first_message = recent_messages([*again, retried, failed])
    assert (other.id, other.attempts, other.last.at) == ("b", 9, 5.0)
    assert (first_message.attempts, [known.answer for known in first_message.known]) == (2, [200, 500])


def test_a_chart_has_a_bar_for_each_count_and_says_how_much_it_is() -> None:
    chart = rate_chart([(0, 0), (50, 0), (25, 25), (10, 0)])
    assert (chart.delivered, chart.failed, chart.now, chart.peak) == (85, 25, 5.0, 10.0)
    assert (chart.delivered_path.count("M"), chart.failed_path.count("M")) == (3, 1)
    assert rate_chart([]).delivered_path == ""


@pytest.mark.parametrize(
    "text", ['{"a":[1,2.50,-3e7,{}],"b":{"c":null,"d":"x: \\"y\\", [z]"},"e":[]}', "[]", "17", '"text"', "123456789012345678901234567890"]
)
def test_indented_json_is_the_same_json_with_all_its_digits(text: str) -> None:
    shown = list(pieces(text))
    assert "".join("".join(piece for _, piece in shown).split()) == "".join(text.split())
    assert json.loads("".join(piece for _, piece in shown)) == json.loads(text)


def test_json_is_indented_and_colored_by_kind() -> None:
    shown = list(pieces('{"id":7,"note":"x","gone":null,"tags":[]}'))
    assert "".join(piece for _, piece in shown) == '{\n  "id": 7,\n  "note": "x",\n  "gone": null,\n  "tags": []\n}'
    assert [(kind, piece) for kind, piece in shown if kind] == [
        ("key", '"id"'),
        ("number", "7"),
        ("key", '"note"'),
        ("string", '"x"'),
        ("key", '"gone"'),
        ("word", "null"),
        ("key", '"tags"'),
    ]
