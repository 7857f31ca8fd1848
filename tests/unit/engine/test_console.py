"""The console's pages: every value is escaped, status is shown as text, and of many sinks the failing ones come first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from userhooks.engine.console.html import Overview, SinkDetail, SinkRow, Slot, message, overview, sink_page, sink_url
from userhooks.engine.console.routes import settings
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


def row(**more: object) -> SinkRow:
    base = SinkRow("i-1", "user-1", "active", "healthy", 3, 2, 5, 1, None, 61.5)
    return replace(base, **more)  # type: ignore[arg-type]


def first(hostile: str, **more: object) -> Overview:
    backfill = BackfillResource("b-1", "i-1", ("public", hostile), "active", "2026-01-01T00:00:00Z", "", 100, 40)
    sinks = [row(name=hostile, last_error=hostile)]
    base = Overview(hostile, Slot(hostile, 10, 20), 7, 4096, hostile, sinks, 1, 1, [(hostile, backfill)])
    return replace(base, **more)  # type: ignore[arg-type]


def detail(hostile: str) -> SinkDetail:
    endpoint = HttpEndpoint("e", "e", "http", "127.0.0.1", 9000, "/" + hostile, None, None, {hostile: "x"}, {hostile: "y"})
    sink = SinkResource("i-1", "user-1", "e", filter="f", annotations={hostile: hostile}, path="/" + hostile)
    return SinkDetail(
        row(name=hostile, last_error=hostile),
        6,
        1,
        [{"name": hostile, "status": "error", "error": hostile}],
        settings(sink, endpoint),
        [Discarded(1, f"public.{hostile}", hostile, hostile, 3, hostile, hostile)],
        [BackfillResource("b-1", "i-1", ("public", hostile), "paused", "2026-01-01T00:00:00Z", "", None, 40)],
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_value_becomes_markup(hostile: str) -> None:
    """A page with a hostile value has the same elements and attributes as with a harmless one, and shows the value unchanged."""
    pages: list[Callable[[str], str]] = [
        lambda text: overview(first(text), "t", "nonce"),
        lambda text: sink_page(detail(text), "t", "nonce"),
        lambda text: message(text, text, "nonce"),
    ]
    for page in pages:
        shown, plain = (Skeleton(page(text)) for text in (hostile, PLAIN))
        assert shown.elements == plain.elements
        assert hostile.replace("\x00", "\ufffd") in shown.text or hostile in shown.text


def test_style_and_script_have_the_nonce_and_nothing_is_inline_or_from_elsewhere() -> None:
    page = Skeleton(overview(first("x"), "t", "n0nce"))
    names = [name for _, attributes in page.elements for name in attributes]
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert page.values.count("n0nce") == 2
    assert not [value for value in page.values if "//" in value]


def test_every_form_has_the_token_and_posts_to_its_sink() -> None:
    for main in (overview(first("x"), "s3cret", "n"), sink_page(detail("x"), "s3cret", "n")):
        page = Skeleton(main)
        posts = [value for value in page.values if value == "post"]
        assert len(posts) == page.values.count("s3cret") > 0


def test_buttons_follow_the_status() -> None:
    def buttons(status: str, discarded: int) -> list[str]:
        page = Skeleton(overview(first("x", sinks=[row(status=status, discarded=discarded)], backfills=[]), "t", "n"))
        return [value for value in page.values if value in ("pause", "resume", "redeliver")]

    assert buttons("active", 0) == ["pause"]
    assert buttons("paused", 2) == ["resume", "redeliver"]
    assert buttons("disabled", 0) == []


def test_what_is_not_shown_is_counted() -> None:
    text = Skeleton(overview(first("x", find="", matching=10_000, total=10_000), "t", "n")).text
    assert "10,000 sinks, failing first; showing the first 1" in text
    assert "2 of 10,000 sinks" in Skeleton(overview(first("x", find="u", matching=2, total=10_000), "t", "n")).text


def test_without_sinks_and_without_a_match_the_page_says_so() -> None:
    assert "There are no sinks yet." in overview(first("x", sinks=[], matching=0, total=0), "t", "n")
    assert "No sink has “<b>” in its name." in Skeleton(overview(first("x", find="<b>", sinks=[], matching=0, total=3), "t", "n")).text


def test_status_is_a_word_and_all_headers_have_a_scope() -> None:
    for main in (overview(first("x"), "t", "n"), sink_page(detail("x"), "t", "n")):
        page = Skeleton(main)
        assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
        assert Counter(tag for tag, _ in page.elements)["th"] > 5
        assert "healthy" in page.text


def test_a_backfills_progress_is_a_bar_and_words() -> None:
    main = overview(first("x"), "t", "n")
    assert '<progress max="100" value="40" aria-label="Rows of public.x"></progress> 40 of 100 rows' in main


def test_the_settings_hold_no_secret() -> None:
    endpoint = HttpEndpoint("e", "e", "https", "h", 443, "/p", "key=s3cret", None, {"x-a": "s3cret"}, {"authorization": "s3cret"})
    shown = settings(SinkResource("i", "n", "e", path="/q?key=s3cret"), endpoint)
    assert "s3cret" not in str(shown)
    assert shown["Headers"] == "authorization: …, x-a: …"
    assert shown["Path"] == "/q"


def test_a_name_in_a_path_stays_one_segment() -> None:
    assert sink_url("a/../b?c#d") == "/sinks/a%2F..%2Fb%3Fc%23d"
