"""The inspector's pages in a real Chromium: what a person sees and does there, and that no payload is ever more than text."""

from __future__ import annotations

import gzip
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
import orjson
import pytest
from playwright.sync_api import Browser, CDPSession, ConsoleMessage, Page, expect

from tests.inspector.bodies import batch, bearer, message
from tests.inspector.program import TOKEN, Program, running
from tests.ports import free_port
from tests.waiting import eventually
from userhooks.inspector.client import Inbox, InspectorClient

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)></iframe>",
    '<iframe srcdoc="<script>parent.alert(1)</script>">',
    '"><script>alert(1)</script>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>x</details>",
    "<input autofocus onfocus=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<style>@import 'http://127.0.0.1:9/x.css';</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/>",
    "<template><img src=x onerror=alert(1)></template>",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "`${alert(1)}`",
    "<!--><img src=x onerror=alert(1)>-->",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "data: {}\n\nevent: request\ndata: {}",
    "\u2028\u2029<img src=x onerror=alert(1)>",
    "\u202egnitaroced\u202c",
]


UNTIL_SHOWN = """seq => new Promise((done) => {
  const look = () => document.getElementById(`request-${seq}`) ? done() : requestAnimationFrame(look);
  look();
})"""


@pytest.fixture
def inspector(tmp_path: Path) -> Iterator[Program]:
    with running(tmp_path) as program:
        yield program


@pytest.fixture
def inbox(inspector: Program) -> Iterator[Inbox]:
    with InspectorClient(inspector.url, TOKEN) as client:
        yield client.inbox("ada")


@contextmanager
def opened(browser: Browser, url: str, *, dark: bool = False, refused: int = 0) -> Iterator[Page]:
    """A page in a context of its own; it must write nothing to the console, raise nothing, and ask nobody else for anything.

    Chromium itself writes a line for each call that is `refused`.
    """
    complaints: list[str] = []
    origin = str(httpx.URL(url).copy_with(raw_path=b"")).rstrip("/")

    def listen(said: ConsoleMessage) -> None:
        complaints.append(said.text)

    with browser.new_context(color_scheme="dark" if dark else "light", viewport={"width": 1300, "height": 800}) as context:
        page = context.new_page()
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith(origin + "/") else None)
        page.goto(url)
        yield page
        assert [one for one in complaints if "status of 400 (Bad Request)" not in one] == []
        assert len(complaints) == refused


def send(inbox: Inbox, path: str = "", **request: object) -> None:
    httpx.request(str(request.pop("method", "POST")), inbox.url + path, trust_env=False, **request)  # type: ignore[arg-type]


def pipeline(inbox: Inbox, count: int) -> None:
    """Send many requests on one connection, a hundred at a time."""
    url = httpx.URL(inbox.url)
    body = orjson.dumps(batch(message(1)))
    request = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b" % (url.raw_path, url.netloc, len(body), body)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        for _ in range(count // 100):
            connection.sendall(request * 100)
            answers = b""
            while answers.count(b"HTTP/1.1 200") < 100:
                answers += connection.recv(65536)


def test_what_is_sent_appears_at_once_and_can_be_read_with_the_keyboard(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        expect(page.get_by_role("heading", name="Inbox ada")).to_be_visible()
        expect(page.locator("#url")).to_have_text(inbox.url)
        expect(page.locator("#hint")).to_contain_text("This inbox is empty")
        expect(page.locator("#connection")).to_have_text("live")
        send(inbox, json=batch(message(1, 10, "first")), headers=bearer(1, inbox.url))
        send(inbox, "/deep?x=1", json=batch(message(1, 11, "second"), message(1, 12)), headers=[("x-a", "1"), ("x-b", "2"), ("x-a", "3")])
        options = page.get_by_role("option")
        expect(options).to_have_count(2)
        expect(options.nth(0)).to_contain_text("insert row 11 of user 1 and 1 more in notifications")
        expect(options.nth(0)).to_contain_text("missing")
        expect(options.nth(1)).to_contain_text("row 10")
        page.get_by_role("listbox").focus()
        page.keyboard.press("ArrowDown")
        expect(page.locator("#target")).to_have_text(f"POST /in/{inbox.id}/deep?x=1")
        expect(page.locator("#verdict")).to_have_text("Secret missing.")
        expect(page.locator("#reason")).to_contain_text("no Authorization header")
        names = page.locator("#headers td:first-child").all_inner_texts()
        assert [name for name in names if name.startswith("x-")] == ["x-a", "x-b", "x-a"]
        page.keyboard.press("ArrowDown")
        expect(page.locator("#verdict")).to_have_text("Secret ok.")
        expect(options.nth(1)).to_have_attribute("aria-selected", "true")
        expect(page.locator("#when")).to_contain_text("answered 200")
        page.keyboard.press("Home")
        expect(options.nth(0)).to_have_attribute("aria-selected", "true")
        expect(options.nth(1)).to_have_attribute("aria-selected", "false")


def test_json_is_shown_as_a_tree_without_touching_its_values_and_raw_on_request(browser: Browser, inbox: Inbox) -> None:
    body = '{"long":12345678901234567890123,"b":1.0,"a":{},"e":[],"list":[1,{"x":"a, {b}: \\"c\\""},true,null],"a":2}'
    send(inbox, content=body.encode())
    with opened(browser, inbox.page) as page:
        page.get_by_role("option").click()
        tree = page.locator("#json")
        expect(tree).to_contain_text('"list": [')
        assert "".join((tree.inner_text()).split()) == "".join(body.split())
        assert tree.locator(".json-key").all_text_contents() == ['"long"', '"b"', '"a"', '"e"', '"list"', '"x"', '"a"']
        assert tree.locator(".json-number").all_text_contents() == ["12345678901234567890123", "1.0", "1", "2"]
        assert tree.locator(".json-string").all_text_contents() == ['"a, {b}: \\"c\\""']
        assert tree.locator(".json-word").all_text_contents() == ["true", "null"]
        expect(page.locator("#raw")).to_be_hidden()
        page.keyboard.press("r")
        expect(page.locator("#json")).to_be_hidden()
        assert page.locator("#raw").text_content() == body
        page.get_by_role("button", name="JSON", exact=True).click()
        expect(page.locator("#raw")).to_be_hidden()
        expect(tree).to_contain_text('"list": [')


def test_objects_and_arrays_fold_and_say_what_they_hold(browser: Browser, inbox: Inbox) -> None:
    send(inbox, json={"data": [{"id": 1, "note": "one"}, {"id": 2}]})
    with opened(browser, inbox.page) as page:
        page.get_by_role("option").click()
        head = page.locator(".json-fold > summary").nth(1)
        expect(head).to_have_text('"data": [ 2 items ]')
        expect(page.locator("#json").get_by_text('"one"')).to_be_visible()
        head.press("Enter")
        expect(page.locator("#json").get_by_text('"one"')).to_be_hidden()
        assert page.locator("#json").inner_text().split() == ["{", '"data":', "[", "2", "items", "]", "}"]
        head.click()
        expect(page.locator("#json").get_by_text('"one"')).to_be_visible()


def test_deep_and_large_parts_are_folded_at_first_and_cost_little(browser: Browser, inbox: Inbox) -> None:
    deep: object = "bottom"
    for _ in range(40):
        deep = {"in": deep}
    send(inbox, json={"deep": deep, "text": "x" * 5_000, "many": list(range(150_000))})
    send(inbox, content=b"[" * 50_000 + b"]" * 50_000)
    with opened(browser, inbox.page) as page:
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable")
        before = thread_time(devtools)
        page.locator("#request-1").click()
        expect(page.get_by_role("button", name="Show 100 more of 149,900")).to_be_visible()
        assert thread_time(devtools) - before < 2
        expect(page.locator("#json").get_by_text("bottom")).to_be_hidden()
        page.get_by_role("button", name="Show 100 more of 149,900").click()
        expect(page.get_by_role("button", name="Show 100 more of 149,800")).to_be_visible()
        expect(page.locator(".json-line").get_by_text("199", exact=True)).to_be_visible()
        page.get_by_role("button", name="show all 5,002 characters").click()
        assert len(page.locator(".json-string").first.text_content() or "") == 5_002
        folds = page.locator(".json-fold:not([open]) > summary")
        for _ in range(35):
            folds.first.click()
        expect(page.locator("#json").get_by_text("bottom")).to_be_visible()
        page.locator("#request-2").click()
        expect(page.locator("#when")).to_contain_text("#2,")
        expect(folds).to_have_count(1)


def thread_time(devtools: CDPSession) -> float:
    """Seconds of CPU that the page has taken so far."""
    return next(float(one["value"]) for one in devtools.send("Performance.getMetrics")["metrics"] if one["name"] == "ThreadTime")


def test_bodies_that_are_no_json_or_no_text_or_long_are_shown_as_they_are(browser: Browser, inbox: Inbox) -> None:
    send(inbox, content=b"plain {text")
    send(inbox, content=b"\x00\xff binary")
    send(inbox, content=b"x" * (2 << 20))
    send(inbox)
    with opened(browser, inbox.page) as page:
        options = page.get_by_role("option")
        expect(options).to_have_count(4)
        options.nth(3).click()
        expect(page.locator("#raw")).to_have_text("plain {text")
        expect(page.locator("#json")).to_be_hidden()
        expect(page.get_by_role("group", name="View of the body")).to_be_hidden()
        options.nth(2).click()
        expect(page.locator("#bodyTitle")).to_have_text("Body, hexadecimal (not UTF-8)")
        expect(page.locator("#raw")).to_contain_text("00000000  00 ff 20 62 69 6e 61 72 79")
        options.nth(1).click()
        expect(page.locator("#cut")).to_have_text("The body has 2,097,152 bytes; only the first 65,536 are shown.")
        assert len(page.locator("#raw").text_content() or "") == 65536
        options.nth(0).click()
        expect(page.locator("#bodyTitle")).to_have_text("Body: empty")
        expect(page.locator("#cut")).to_be_hidden()


def test_answers_are_shown_as_they_are_set_and_as_they_come(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        inbox.respond(fail_first=1)
        expect(page.locator("#answers")).to_have_text("first 1: 500; else: 200")
        send(inbox)
        expect(page.get_by_role("option").first).to_contain_text("500")
        inbox.respond(delay=0.7)
        expect(page.locator("#answers")).to_have_text("always: 200 after 0.7 s")
        with httpx.stream("POST", inbox.url, trust_env=False, timeout=10) as response:
            assert response.status_code == 200
        expect(page.get_by_role("option").first).to_contain_text("200")


def test_a_sender_that_left_is_said_in_words(browser: Browser, inbox: Inbox) -> None:
    inbox.respond(delay=60)
    with opened(browser, inbox.page) as page:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(inbox.url, trust_env=False, timeout=0.5)
        expect(page.get_by_role("option").first).to_contain_text("none")
        page.get_by_role("option").first.click()
        expect(page.locator("#note")).to_have_text("the sender disconnected before the response")


def test_clear_empties_the_inbox_and_can_be_undone(browser: Browser, inbox: Inbox) -> None:
    for n in range(3):
        send(inbox, content=b"gone %d" % n)
    with opened(browser, inbox.page) as page:
        page.locator("#request-1").click()
        expect(page.locator("#raw")).to_have_text("gone 0")
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_role("option")).to_have_count(0)
        expect(page.locator("#shown")).to_be_hidden()
        expect(page.locator("#hint")).to_contain_text("This inbox is empty")
        expect(page.locator("#matches")).to_have_text("0 requests")
        expect(page.locator("#cleared")).to_contain_text("3 requests cleared")
        assert inbox.count() == 0
        send(inbox, content=b"new")
        expect(page.get_by_role("option")).to_have_count(1)
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_role("option")).to_have_count(4)
        expect(page.locator("#cleared")).to_be_hidden()
        assert [one.get_attribute("data-seq") for one in page.get_by_role("option").all()] == ["4", "3", "2", "1"]
        assert inbox.count() == 4
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#cleared")).to_be_visible()
        expect(page.locator("#cleared")).to_be_hidden()
        expect(page.get_by_role("option")).to_have_count(0)


def test_messages_of_the_page_go_away(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy URL").click()
        expect(page.locator("#toast")).to_have_text("URL copied")
        assert page.evaluate("navigator.clipboard.readText()") == inbox.url
        expect(page.locator("#toast")).to_be_hidden()


def test_each_row_shows_method_path_and_answer(browser: Browser, inbox: Inbox) -> None:
    send(inbox, "/orders/7?source=shop", json=batch(message(1, 10)), method="PUT")
    with opened(browser, inbox.page) as page:
        row = page.get_by_role("option")
        expect(row.locator(".method")).to_have_text("PUT")
        expect(row.locator(".path")).to_have_text("/orders/7?source=shop")
        expect(row).to_contain_text("200")
        expect(row).to_contain_text("insert row 10 of user 1")
        row.click()
        expect(page.locator("#when")).to_contain_text(re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC"))


def test_a_time_is_in_the_browsers_zone_and_says_which(browser: Browser, inbox: Inbox) -> None:
    send(inbox)
    received = next(inbox.received()).received_at
    for zone, name in (("America/St_Johns", "UTC−"), ("Asia/Kolkata", "UTC+05:30")):
        with browser.new_context(timezone_id=zone) as context:
            page = context.new_page()
            page.goto(inbox.page)
            page.get_by_role("option").click()
            expect(page.locator("#when")).to_contain_text(name)
            local = received.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")
            expect(page.locator("#when")).to_contain_text(local)


def test_the_filter_finds_text_anywhere_and_the_keyboard_passes_by_what_it_hides(browser: Browser, inbox: Inbox) -> None:
    for n in range(6):
        send(
            inbox,
            f"/even/{n}" if n % 2 == 0 else "",
            json=batch(message(1, n, "x" * 5_000 + f"note {n}")),
            headers={"x-color": "Dark Blue" if n == 4 else "red"},
        )
    with opened(browser, inbox.page) as page:
        shown = page.locator(".entry:visible")
        expect(shown).to_have_count(6)
        expect(page.locator("#matches")).to_have_text("6 requests")
        page.keyboard.press("/")
        page.keyboard.type("EVEN/")
        expect(shown).to_have_count(3)
        expect(page.locator("#matches")).to_have_text("3 of 6")
        page.keyboard.press("Enter")
        page.keyboard.press("j")
        page.keyboard.press("j")
        expect(page.locator("#target")).to_contain_text("/even/2")
        page.keyboard.press("k")
        expect(page.locator("#target")).to_contain_text("/even/4")
        for text, count in (("x-color: dark blue", 1), ("note 3", 1), ("post /in/", 6), ("dark x-color", 0), ("POST", 6)):
            page.get_by_label("Filter").fill(text)
            expect(page.locator("#matches")).to_have_text(f"{count} of 6")
            expect(shown).to_have_count(count)
        page.get_by_label("Filter").fill("dark blue")
        send(inbox, "/odd")
        expect(page.locator("#matches")).to_have_text("1 of 7")
        assert "first 16 kB of the body" in str(page.get_by_label("Filter").get_attribute("title"))
        page.get_by_label("Filter").press("Escape")
        expect(shown).to_have_count(7)


def test_the_keyboard_alone_is_enough_and_says_how(browser: Browser, inbox: Inbox) -> None:
    send(inbox, content=b"one")
    send(inbox, content=b"two")
    with opened(browser, inbox.page) as page:
        expect(page.get_by_role("option")).to_have_count(2)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("older request")
        page.keyboard.press("j")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator("#shown")).to_be_hidden()
        page.keyboard.press("j")
        expect(page.locator("#raw")).to_have_text("two")
        page.keyboard.press("End")
        expect(page.locator("#raw")).to_have_text("one")


def test_the_bar_shows_the_parts_of_the_stack_and_leads_to_the_console(browser: Browser, tmp_path: Path) -> None:
    parts = {"server": f"http://127.0.0.1:{free_port()}"}
    console = {"url": "http://127.0.0.1:7376/", "token": "t"}
    with (
        running(tmp_path, parts=parts, console=console) as program,
        InspectorClient(program.url, TOKEN) as client,
        opened(browser, client.inbox("ada").page) as page,
    ):
        shown = page.get_by_role("list", name="Parts of the stack").get_by_role("listitem")
        expect(shown).to_have_text(["server down", "inspector running"])
        expect(page.get_by_role("link", name="Console")).to_have_attribute("href", "/console")


def test_alone_the_inspector_has_no_link_to_a_console(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        expect(page.get_by_role("listitem")).to_have_text(["inspector running"])
        expect(page.get_by_role("link", name="Console")).to_be_hidden()


@pytest.mark.parametrize("width", [1440, 800, 400])
def test_nothing_is_wider_than_the_window_and_no_row_wraps(browser: Browser, inspector: Program, inbox: Inbox, width: int) -> None:
    inbox.respond([{"percent": 20, "seed": 1, "status": 429, "retry_after": 2}, {"first": 3, "status": 500, "body": "x"}])
    send(inbox, "/a/very/long/path" * 10, json=batch(message(1, 1), message(1, 1)))
    send(inbox, json=batch(message(1, 1)), headers={"x-long": "x" * 500})
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{inspector.url}/?token={TOKEN}")
        expect(page.get_by_role("link", name="ada")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.goto(inbox.page)
        expect(page.get_by_role("option")).to_have_count(2)
        rows = page.get_by_role("option").evaluate_all("rows => rows.map((row) => row.offsetHeight)")
        assert rows == [56, 56]
        page.get_by_role("option").first.click()
        expect(page.locator("#when")).to_contain_text("#2,")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.getElementById('detail').scrollWidth - document.getElementById('detail').clientWidth") <= 0
        if width == 1440:
            assert page.locator("#head").evaluate("head => head.offsetHeight") < 60
            assert page.locator(".topbar").evaluate("bar => bar.offsetHeight") < 60
        elif width == 400:
            expect(page.locator("#list")).to_be_hidden()
            page.get_by_role("button", name="Requests").click()
            expect(page.locator("#list")).to_be_visible()
            expect(page.locator("#shown")).to_be_hidden()
        page.locator("#panes").evaluate("panes => panes.scrollTop = 1000")
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_role("button", name="Undo")).to_be_in_viewport()


def test_a_copied_curl_command_sends_the_same_request_again(browser: Browser, inbox: Inbox) -> None:
    odd = 'it\'s $HOME `id` \\ "quoted"\n@line\u00e9'
    send(inbox, "/a%20b?x=1&y='", content=odd.encode(), headers=[("x-twice", "1"), ("x-twice", "2"), ("content-type", "text/plain")])
    send(inbox, method="PUT", content=b"\x00\xff" * 50)
    send(inbox, method="DELETE")
    with opened(browser, inbox.page) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        for number in (1, 2, 3):
            page.locator(f"#request-{number}").click()
            expect(page.locator("#when")).to_contain_text(f"#{number},")
            page.evaluate("navigator.clipboard.writeText('')")
            page.get_by_role("button", name="Copy as cURL").click()
            command = eventually(lambda: page.evaluate("navigator.clipboard.readText()"), what="the command")
            subprocess.run(["/bin/sh", "-c", f"no_proxy='*'; export no_proxy; {command}"], check=True, capture_output=True, timeout=20)
    first, again = list(inbox.received())[:3], list(inbox.received())[3:]
    own = {"host", "content-length", "connection"}
    for one, other in zip(first, again, strict=True):
        assert (one.method, one.path, one.query, one.body) == (other.method, other.path, other.query, other.body)
        assert sorted(h for h in one.headers if h[0] not in own) == sorted(h for h in other.headers if h[0] not in own)


def test_answers_are_changed_on_the_page_and_a_retry_succeeds(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page, refused=1) as page:
        page.get_by_role("button", name="Answers").click()
        expect(page.locator("#applied")).to_have_text("The rules below are active")
        page.get_by_role("button", name="Fail the first 3").click()
        expect(page.get_by_role("button", name="Fail the first 3")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#applied")).to_have_text("The rules below are not applied yet")
        expect(page.locator("#active")).to_have_text("always: 200")
        assert inbox.script() == []
        page.get_by_label("how many", exact=True).fill("1")
        page.get_by_label("Retry-After in seconds").fill("2")
        expect(page.locator("#python")).to_have_text('inbox.respond([{"first":1,"status":500,"retry_after":2}])')
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#active")).to_have_text("first 1: 500 with Retry-After 2; else: 200")
        expect(page.locator("#answers")).to_have_text("first 1: 500 with Retry-After 2; else: 200")
        expect(page.locator("#applied")).to_have_text("The rules below are active")
        send(inbox)
        send(inbox)
        options = page.locator(".entry")
        expect(options.nth(1)).to_contain_text("500")
        expect(options.nth(0)).to_contain_text("200")
        options.nth(1).click()
        expect(page.locator("#when")).to_contain_text("answered 500 by rule 1: first 1")
        page.get_by_label("status", exact=True).fill("999")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#ruleProblem")).to_have_text("script[0].status is 999. It must be a whole number from 100 to 599.")
        page.get_by_role("button", name="Add a rule").click()
        expect(page.locator(".rule")).to_have_count(2)
        page.get_by_role("button", name="Discard changes").click()
        expect(page.locator(".rule")).to_have_count(1)
        expect(page.locator("#ruleProblem")).to_be_hidden()
        page.get_by_role("button", name="Always 200").click()
        expect(page.locator("#rules")).to_contain_text("every request is answered 200")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#answers")).to_have_text("always: 200")
    assert inbox.script() == []


def test_an_answer_gets_a_body_and_headers_on_the_page(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page, refused=1) as page:
        page.get_by_role("button", name="Answers").click()
        page.get_by_role("button", name="JSON body").click()
        headers, body = page.get_by_label("Headers, one per line"), page.get_by_label("Body, up to 64 kB")
        expect(headers).to_have_value("Content-Type: application/json")
        headers.fill("Content-Type: application/json\nno colon")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#ruleProblem")).to_contain_text("Line 2 of the headers of rule 1 has no colon")
        headers.fill("Content-Length: 5")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#ruleProblem")).to_contain_text("script[0].headers has Content-Length. The inspector sets it")
        headers.fill("Content-Type: application/json\nX-Trace: a: b\n")
        body.fill('{"hello": "caf\u00e9"}')
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#active")).to_contain_text("200 with 2 headers and a body of 18 bytes")
        answer = httpx.post(inbox.url, trust_env=False)
        assert (answer.json(), answer.headers["x-trace"]) == ({"hello": "caf\u00e9"}, "a: b")
        page.reload()
        page.get_by_role("button", name="Answers").click()
        expect(page.get_by_label("Body, up to 64 kB")).to_have_value('{"hello": "caf\u00e9"}')
        expect(page.locator("#applied")).to_have_text("The rules below are active")


def test_a_body_with_a_script_does_not_run_on_the_inspectors_origin(browser: Browser, inbox: Inbox) -> None:
    inbox.respond([{"headers": {"Content-Type": "text/html"}, "body": "<h1>shown</h1><script>document.title = 'ran'</script>"}])
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(inbox.page)
        page.goto(inbox.url)
        expect(page.get_by_role("heading", name="shown")).to_be_visible()
        assert page.title() == ""


def test_answers_set_elsewhere_are_followed_unless_the_editor_has_changes(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        page.get_by_role("button", name="Answers").click()
        inbox.respond(status=503)
        expect(page.get_by_label("status", exact=True)).to_have_value("503")
        expect(page.locator("#applied")).to_have_text("The rules below are active")
        page.get_by_label("status", exact=True).fill("410")
        inbox.respond(status=418)
        expect(page.locator("#active")).to_have_text("always: 418")
        expect(page.get_by_label("status", exact=True)).to_have_value("410")
        expect(page.locator("#applied")).to_have_text("The rules below are not applied yet")


def test_what_is_wrong_with_a_request_is_said_and_leads_to_the_other_one(browser: Browser, inbox: Inbox) -> None:
    one = batch(message(1, 10, "twice"))
    foreign = message(1, 11)
    foreign["record"]["user_id"] = 2
    for body in (one, one, batch(foreign)):
        send(inbox, json=body, headers=bearer(1, inbox.url))
    with opened(browser, inbox.page) as page:
        options = page.get_by_role("option")
        expect(options.nth(0).locator(".badge.bad")).to_have_text("another user's row")
        expect(options.nth(1)).to_contain_text("duplicate of #1")
        options.nth(0).click()
        expect(page.locator("#judgements")).to_contain_text("belongs to user 2, but user-1-notifications is a subscription of user 1")
        options.nth(1).click()
        page.get_by_role("button", name="Show #1").click()
        expect(page.locator("#when")).to_contain_text("#1,")


def test_a_gzip_body_is_shown_unpacked_and_as_it_came(browser: Browser, inbox: Inbox) -> None:
    send(inbox, content=gzip.compress(b'{"packed":true}'), headers={"content-encoding": "gzip", "content-type": "application/json"})
    with opened(browser, inbox.page) as page:
        page.get_by_role("option").click()
        expect(page.locator("#bodyTitle")).to_have_text("Body, decompressed")
        expect(page.locator("#json")).to_contain_text('"packed": true')
        page.keyboard.press("r")
        expect(page.locator("#raw")).to_have_text('{"packed":true}')
        expect(page.locator("#packed")).to_contain_text("00000000  1f 8b")


def test_a_request_is_sent_again_to_another_inbox_and_all_are_downloaded(browser: Browser, inspector: Program, inbox: Inbox) -> None:
    with InspectorClient(inspector.url, TOKEN) as client:
        other = client.inbox("ben")
        send(inbox, "/deep", content=b"once more")
        with opened(browser, inbox.page) as page:
            page.get_by_role("option").click()
            page.get_by_label("to", exact=True).select_option("ben")
            page.get_by_role("button", name="Send again").click()
            expect(page.locator("#toast")).to_have_text("#1 sent to ben: it answered 200")
            with page.expect_download() as download:
                page.get_by_role("link", name="Download all").click()
            lines = Path(download.value.path()).read_bytes().splitlines()
        assert [orjson.loads(line)["body"] for line in lines] == ["once more"]
        assert [one.body for one in other.received()] == [b"once more"]


def test_the_last_minute_is_drawn_and_said_in_words(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        expect(page.locator("#rateWords")).to_have_text("No requests in the last minute")
        inbox.respond(fail_first=1)
        for _ in range(3):
            send(inbox, json=batch(message(1)))
        expect(page.locator("#rateWords")).to_have_text(re.compile(r"3 requests in the last minute, at most \d/s, 1 refused"))
        expect(page.locator("#latencyWords")).to_have_text(re.compile(r"Commit to receipt: latest median [\d.]+ (ms|s|min|h|days)"))
        assert str(page.locator("#rateBars").get_attribute("d")).startswith("M")


def test_the_list_of_inboxes_follows_and_creates(browser: Browser, inspector: Program, inbox: Inbox) -> None:
    with opened(browser, f"{inspector.url}/?token={TOKEN}") as page:
        expect(page.get_by_role("link", name="ada")).to_be_visible()
        send(inbox)
        expect(page.get_by_role("row", name="ada").locator("td").nth(1)).to_have_text("1")
        page.get_by_label("Name of new inbox").fill("bob's")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Inbox bob's")).to_be_visible()
        page.get_by_role("link", name="all inboxes").click()
        expect(page.get_by_role("link", name="bob's")).to_be_visible()


def test_a_page_survives_the_end_of_the_inspector_and_takes_up_where_it_was(browser: Browser, inspector: Program, inbox: Inbox) -> None:
    send(inbox, content=b"before")
    with browser.new_page() as page:
        page.goto(inbox.page)
        expect(page.get_by_role("option")).to_have_count(1)
        inspector.kill()
        expect(page.locator("#connection")).to_contain_text("does not answer")
        inspector.start()
        send(inbox, content=b"after")
        expect(page.get_by_role("option")).to_have_count(2)
        expect(page.locator("#connection")).to_have_text("live")


def test_the_list_of_inboxes_says_when_the_inspector_is_down_and_recovers(browser: Browser, inspector: Program, inbox: Inbox) -> None:
    with browser.new_page() as page:
        page.goto(f"{inspector.url}/?token={TOKEN}")
        expect(page.get_by_role("link", name="ada")).to_be_visible()
        inspector.kill()
        expect(page.get_by_role("alert")).to_have_text("The inspector does not answer.")
        expect(page.get_by_role("listitem")).to_have_text(["inspector down"])
        inspector.start()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.get_by_role("listitem")).to_have_text(["inspector running"])


def test_a_link_leaves_no_token_in_the_address_and_the_browser_is_known_from_then_on(
    browser: Browser, inspector: Program, inbox: Inbox
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        bare = f"{inspector.url}/inboxes/{inbox.id}"
        page.goto(bare)
        expect(page.get_by_role("heading", name="No access")).to_be_visible()
        expect(page.get_by_text("userhooks inbox NAME")).to_be_visible()
        page.goto(inbox.page)
        expect(page.locator("#connection")).to_have_text("live")
        assert page.url == bare
        assert page.evaluate("document.cookie") == ""
        page.reload()
        expect(page.locator("#connection")).to_have_text("live")
        another = context.new_page()
        another.goto(f"{inspector.url}/")
        expect(another.get_by_role("link", name="ada")).to_be_visible()


def test_an_unknown_inbox_is_said_in_words(browser: Browser, inspector: Program) -> None:
    with browser.new_page() as page:
        page.goto(f"{inspector.url}/inboxes/nobody?token={TOKEN}")
        expect(page.get_by_role("alert")).to_contain_text("There is no inbox with this id.")
        expect(page.get_by_role("link", name="all inboxes")).to_be_visible()


def test_hostile_payloads_are_only_ever_text(browser: Browser, inspector: Program, inbox: Inbox) -> None:
    for payload in HOSTILE:
        send(inbox, content=payload.encode())
        send(inbox, json=batch(message(1, 1, payload) | {"action": payload, "changes": {payload: payload}}))
        hostile = message(1, 1, payload)
        hostile["metadata"] |= {"table_name": payload, "record_pks": [payload]}
        send(inbox, json=batch(hostile))
        value = re.sub(r"[\x00-\x1f]", " ", payload).encode()
        send(inbox, f"/{quote(payload)}", headers=[("x-hostile", value)])
        send(inbox, params={"q": payload}, headers={"authorization": value, "user-agent": value})
    with opened(browser, inbox.page) as page:
        options = page.get_by_role("option")
        expect(options).to_have_count(5 * len(HOSTILE))
        tags = "script,img,svg,iframe,a,link,meta,base,style,form,input,video,details:not(.json-fold),math,template"
        built = f"document.querySelectorAll('{tags}').length"
        before = page.evaluate(built)
        page.get_by_role("listbox").focus()
        for number in range(5 * len(HOSTILE), 0, -1):
            page.keyboard.press("ArrowDown")
            page.wait_for_function("seq => document.getElementById('when').textContent.includes(seq)", arg=f"#{number},")
            assert page.evaluate(built) == before
        shown = page.locator("#raw")
        expect(shown).to_have_text(HOSTILE[0])
        assert shown.locator("*").count() == 0


def test_hostile_names_are_only_ever_text(browser: Browser, inspector: Program) -> None:
    with InspectorClient(inspector.url, TOKEN) as client:
        names = [payload[:100].strip() for payload in HOSTILE if payload.isprintable()]
        hostile = [client.inbox(name) for name in names]
    with opened(browser, f"{inspector.url}/?token={TOKEN}") as page:
        links = page.locator("#rows a")
        expect(links).to_have_count(len(hostile))
        assert links.all_text_contents() == names
        assert page.locator("#rows img, #rows script, #rows svg, #rows iframe").count() == 0
    with opened(browser, hostile[0].page) as page:
        expect(page.locator("#title")).to_have_text(f"Inbox {names[0]}")


def test_ten_thousand_requests_in_one_go_leave_the_page_usable(browser: Browser, inbox: Inbox) -> None:
    with opened(browser, inbox.page) as page:
        expect(page.locator("#connection")).to_have_text("live")
        total = 10_500
        pipeline(inbox, total)

        # Not with expect(): each of its failed looks describes the whole page for its report, which takes minutes for so many entries.
        def shows(element: str, text: str) -> None:
            eventually(lambda: text in (page.locator(element).text_content() or ""), within=30, what=f"{element} shows {text}")

        shows("#matches", f"{total:,} requests")
        shows("#older", f"the newest 10,000 of {total:,} requests")
        assert page.locator(".entry").count() == 10_000
        assert page.locator(".entry").first.get_attribute("data-seq") == str(total)
        page.get_by_role("listbox").focus()
        page.keyboard.press("End")
        shows("#when", f"#{total - 9_999},")
        page.keyboard.press("Home")
        shows("#when", f"#{total},")


def test_an_arrival_costs_the_page_no_more_beside_ten_thousand_entries_than_beside_few(browser: Browser, inbox: Inbox) -> None:
    pipeline(inbox, 200)
    with opened(browser, inbox.page) as page:
        eventually(lambda: page.locator(".entry").count() == 200, within=30)
        few = cost_of_arrivals(page, inbox)
        pipeline(inbox, 10_000)
        eventually(lambda: page.locator(".entry").first.get_attribute("data-seq") == "10210", within=60)
        assert cost_of_arrivals(page, inbox) < 4 * few


def cost_of_arrivals(page: Page, inbox: Inbox) -> float:
    """Seconds of CPU that the page takes for ten requests, which come one by one."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    began = thread_time(devtools)
    for _ in range(10):
        newest = inbox.count()
        send(inbox, json=batch(message(1)))
        page.evaluate(UNTIL_SHOWN, newest + 1)
    return thread_time(devtools) - began


def test_the_list_is_as_long_as_what_it_shows_also_where_it_is_not_drawn(browser: Browser, inbox: Inbox) -> None:
    send(inbox, content=b"needle")
    pipeline(inbox, 300)
    length = "document.getElementById('list').scrollHeight / document.querySelector('.entry:not([hidden])').offsetHeight"
    with opened(browser, inbox.page) as page:
        eventually(lambda: page.locator(".entry").count() == 301, within=30)
        eventually(lambda: page.evaluate(length) == 301)  # what comes into sight or leaves it is laid out with the next frame
        page.get_by_label("Filter").fill("needle")
        expect(page.locator(".entry:visible")).to_have_count(1)
        page.evaluate("document.getElementById('list').style.minHeight = 0")
        eventually(lambda: page.evaluate(length) == 1)
        page.keyboard.press("Escape")
        eventually(lambda: page.evaluate(length) == 301)
        page.get_by_role("listbox").focus()
        page.keyboard.press("End")
        expect(page.locator("#when")).to_contain_text("#1,")
        for _ in range(60):
            page.keyboard.press("ArrowUp")
        expect(page.locator("#when")).to_contain_text("#61,")
        page.keyboard.press("PageDown")
        expect(page.locator("#when")).not_to_contain_text("#61,")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, inbox: Inbox, dark: bool) -> None:
    send(inbox, json=batch(message(1)), headers=bearer(1, inbox.url))
    send(inbox, json=batch(message(1)), headers=bearer(2, inbox.url))
    inbox.respond(status=503)
    send(inbox, content=b"text")
    contrast = """() => {
      const light = (colour) => {
        const parts = colour.match(/[\\d.]+/g).map((c) => Number(c) / 255);
        const [r, g, b] = parts.map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (node) => {
        for (; node; node = node.parentElement) {
          const colour = getComputedStyle(node).backgroundColor;
          if (!colour.endsWith(", 0)")) return colour;
        }
        return "rgb(255, 255, 255)";
      };
      const written = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
      const texts = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility() && written(node));
      return texts.map((node) => {
        const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), node.textContent.slice(0, 40)];
      });
    }"""
    with opened(browser, inbox.page, dark=dark) as page:
        expect(page.get_by_role("option")).to_have_count(3)
        for option in range(3):
            page.get_by_role("option").nth(option).click()
            expect(page.locator("#when")).to_contain_text(f"#{3 - option},")
            found = page.evaluate(contrast)
            assert len(found) > 20
            assert [entry for entry in found if entry[0] < 4.5] == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(16, 19, 24)") is dark
