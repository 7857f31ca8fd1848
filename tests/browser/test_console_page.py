"""The engine's console in a real Chromium: live while messages flow, worked by keyboard alone, light and dark, and without script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.engine_program import EngineProgram
from tests.receiver import Receiver

CONTRAST = 4.5
"""WCAG 2.2, 1.4.3: text on its background"""


@contextmanager
def opened(browser: Browser, engine: EngineProgram, path: str = "/", *, dark: bool = False, script: bool = True) -> Iterator[Page]:
    """A page in a context of its own; it must write nothing to the console, raise nothing, and ask nobody else for anything."""
    complaints: list[str] = []

    def listen(said: ConsoleMessage) -> None:
        complaints.append(said.text)

    viewport = {"width": 1300, "height": 800}
    scheme = "dark" if dark else "light"
    with browser.new_context(color_scheme=scheme, viewport=viewport, java_script_enabled=script) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith(engine.url + "/") else None)
        page.goto(f"{engine.url}{path}{'&' if '?' in path else '?'}token={engine.token}")
        assert page.url == engine.url + path
        yield page
        assert complaints == []


def insert(database: psycopg.Connection[Any], count: int = 1, message: str = "x") -> None:
    database.execute("insert into notifications (user_id, message) select 1, %s from generate_series(1, %s)", (message, count))


def row(page: Page, sink: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=sink, exact=True))


def tab_to(page: Page, name: str, most: int = 40) -> None:
    """Press Tab until the control with this name has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == name:
            return
    raise AssertionError(f"{name!r} is not reached by Tab")


def test_figures_change_by_themselves_while_messages_flow(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    with opened(browser, engine) as page:
        expect(row(page, "all")).to_contain_text("idle")
        insert(database, 7)
        expect(row(page, "all")).to_contain_text("healthy")
        expect(row(page, "all").get_by_role("cell").nth(2)).to_have_text("7")
        expect(row(page, "all").get_by_role("img", name="In the last 5 minutes, 7 delivered and 0 failed")).to_be_visible()
        engine.sink("later", receiver.url)
        expect(row(page, "later")).to_be_visible()
        engine.ask("DELETE", "/api/sinks/later")
        expect(row(page, "later")).to_have_count(0)


def test_pause_and_resume_by_keyboard_alone(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    with opened(browser, engine) as page:
        tab_to(page, "Pause all")
        width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 2
        page.keyboard.press("Enter")
        resume = page.get_by_role("button", name="Resume all")
        expect(resume).to_be_focused()
        expect(row(page, "all")).to_contain_text("paused")
        expect(page.get_by_role("status")).to_have_text("Pause all: done")
        insert(database, 2)
        expect(row(page, "all").get_by_role("cell").nth(3)).to_have_text("2")
        assert receiver.requests == []
        expect(resume).to_be_focused()
        page.keyboard.press("Space")
        expect(page.get_by_role("button", name="Pause all")).to_be_focused()
        receiver.wait_for(2)
        expect(row(page, "all")).to_contain_text("healthy")


def test_what_is_typed_and_where_the_page_stands_outlive_the_updates(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    for n in range(40):
        engine.sink(f"sink-{n:02}", receiver.url)
    with opened(browser, engine) as page:
        page.get_by_label("Find a sink").fill("sink-3")
        page.evaluate("scrollTo(0, 400)")
        insert(database)
        expect(row(page, "sink-07").get_by_role("cell").nth(2)).to_have_text("1")
        expect(page.get_by_label("Find a sink")).to_have_value("sink-3")
        expect(page.get_by_label("Find a sink")).to_be_focused()
        assert page.evaluate("scrollY") == 400
        page.keyboard.press("Enter")
        expect(page.get_by_text("10 of 40 sinks")).to_be_visible()
        assert page.url == engine.url + "/?find=sink-3"


def test_a_row_under_the_focus_keeps_its_place_and_sorts_once_left(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda path, _: 500 if path == "/c" else 200
    for name in ("a", "b", "c"):
        engine.sink(name, f"{receiver.url}/{name}")
    with opened(browser, engine) as page:
        headers = page.locator("tbody th[scope=row] a")
        tab_to(page, "Pause a")
        insert(database)
        expect(row(page, "c")).to_contain_text("Unexpected status code: 500")
        expect(headers).to_have_text(["a", "b", "c"])
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        expect(headers).to_have_text(["c", "a", "b"])


def test_a_sinks_page_and_a_backfill_by_keyboard(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    insert(database, 3_000)
    receiver.gate.clear()
    engine.sink("all", receiver.url)
    engine.ask("POST", "/api/sinks/all/backfills", {})
    with opened(browser, engine) as page:
        expect(page.get_by_role("progressbar", name="Rows of public.notifications")).to_be_visible()
        tab_to(page, "all")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="all", level=1)).to_be_visible()
        tab_to(page, "Pause the backfill of public.notifications")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Resume the backfill of public.notifications")).to_be_focused()
        receiver.gate.set()
        page.keyboard.press("Enter")
        expect(page.get_by_text("3,000 of 3,000 rows")).to_be_visible(timeout=15_000)
        expect(page.locator("#backfills")).to_contain_text("completed")


def test_an_action_that_fails_says_why_and_an_engine_that_is_gone_is_told(
    browser: Browser, engine: EngineProgram, receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{engine.url}/?token={engine.token}")
        # in one go: the page makes its buttons anew when it looks again
        page.get_by_role("button", name="Pause all").evaluate("button => { button.value = 'explode'; button.click() }")
        expect(page.get_by_role("status")).to_contain_text("Pause all: The form does not name an action.")
        engine.kill()
        expect(page.get_by_role("status")).to_contain_text("The engine does not respond. This page is from ")
        expect(row(page, "all")).to_be_visible()


def test_without_script_the_page_renews_itself_and_buttons_work(browser: Browser, engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    with opened(browser, engine, script=False) as page:
        page.get_by_role("button", name="Pause all").click()
        expect(row(page, "all")).to_contain_text("paused")
        engine.ask("PATCH", "/api/sinks/all", {"status": "active"})
        expect(row(page, "all")).to_contain_text("idle", timeout=10_000)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_light_and_dark_and_on_a_narrow_screen(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver, dark: bool, tmp_path: Path
) -> None:
    receiver.script = lambda path, _: 500 if path == "/bad" else 200
    for name in ("good", "bad", "held"):
        engine.sink(name, f"{receiver.url}/{name}")
    engine.sink("quiet", f"{receiver.url}/quiet", actions=["delete"])
    engine.ask("PATCH", "/api/sinks/held", {"status": "paused"})
    insert(database, 3)
    with opened(browser, engine, dark=dark) as page:
        for name, word in (("good", "healthy"), ("bad", "failing"), ("held", "paused"), ("quiet", "idle")):
            expect(row(page, name)).to_contain_text(word)
        check_contrast(page)
        page.screenshot(path=tmp_path / "console.png")
        check_width(page)
        page.goto(f"{engine.url}/sinks/bad")
        page.get_by_role("link", name="insert").first.click()
        expect(page.locator("#opened")).to_contain_text("500 Internal Server Error")
        check_contrast(page)
        page.screenshot(path=tmp_path / "sink.png", full_page=True)
        check_width(page)


def check_contrast(page: Page) -> None:
    """Check that all text on the page can be told from its background."""
    colours = page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, p, a, dt, dd, th, td, li, caption, button, input, summary, .badge, pre span")]
          .filter(element => element.checkVisibility({visibilityProperty: true})).map(element => {
            let ground = element;
            while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(ground ?? document.body).backgroundColor, element.outerHTML];
          })"""
    )
    assert len(colours) > 50
    for text, ground, element in colours:
        assert contrast(text, ground) >= CONTRAST, element


def check_width(page: Page) -> None:
    """Check that the page does not scroll sideways on a telephone, nor on half a screen."""
    for width in (390, 800):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1300, "height": 800})


def test_a_message_is_opened_closed_and_redelivered_by_keyboard(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    insert(database, 2, "<b>bold</b>")
    receiver.wait_for(2)
    with opened(browser, engine, "/sinks/all") as page:
        expect(page.locator("a[data-message]")).to_have_count(2)
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        body = page.get_by_label("Body")
        expect(body).to_contain_text('"message": "<b>bold</b>"')
        assert "?message=" in page.url
        redeliver = page.get_by_role("button", name="Redeliver this message")
        redeliver.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Redeliver this message: done")
        receiver.wait_for(3)
        expect(page.locator("#opened li")).to_have_count(2)
        expect(body).to_be_visible()
        page.keyboard.press("Escape")
        expect(body).to_have_count(0)
        assert page.url == engine.url + "/sinks/all"
        page.go_back()
        expect(body).to_be_visible()


def test_selected_messages_stay_while_others_arrive_and_are_redelivered(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    insert(database, 3)
    receiver.wait_for(3)
    with opened(browser, engine, "/sinks/all") as page:
        page.get_by_label("Select insert public.notifications 1", exact=True).check()
        page.get_by_label("Select insert public.notifications 3", exact=True).check()
        page.get_by_role("heading", level=1).hover()
        insert(database, 100)
        expect(page.get_by_label("Counts")).to_contain_text("103")
        expect(page.get_by_text("held still while you are here")).to_be_visible()
        expect(page.locator("a[data-message]")).to_have_count(3)
        page.get_by_role("button", name="Redeliver selected").click()
        receiver.wait_for(105)
        assert sorted(receiver.ids()[103:]) == [1, 3]
        page.get_by_role("heading", level=1).click()
        expect(page.locator("a[data-message]")).to_have_count(50)
        page.get_by_label("Select all messages").check()
        expect(page.locator("tbody :checked")).to_have_count(50)


def test_the_url_is_masked_until_its_button_is_pressed(browser: Browser, engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url + "/in/t0ken")
    with opened(browser, engine, "/sinks/all") as page:
        expect(page.locator("code.url")).to_have_text(f"{receiver.url}/in/••••")
        assert "t0ken" not in page.content()
        page.get_by_role("button", name="Show full URL").click()
        expect(page.locator("code.url")).to_have_text(f"{receiver.url}/in/t0ken")
        page.get_by_role("button", name="Hide").click()
        expect(page.locator("code.url")).to_have_text(f"{receiver.url}/in/••••")


def test_what_is_folded_out_stays_so_when_other_parts_appear(
    browser: Browser, engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda *_: 500
    engine.sink("all", receiver.url, max_retry_count=1)
    with opened(browser, engine, "/sinks/all") as page:
        page.get_by_text("Settings").click()
        insert(database)
        expect(page.get_by_role("heading", name="Discarded messages")).to_be_visible()
        expect(page.locator("#settings details[open]")).to_have_count(1)
        expect(page.locator("#health details[open]")).to_have_count(0)


def test_sinks_are_found_by_state(browser: Browser, engine: EngineProgram, receiver: Receiver) -> None:
    for name in ("a", "b", "c"):
        engine.sink(name, receiver.url)
    engine.ask("PATCH", "/api/sinks/b", {"status": "paused"})
    with opened(browser, engine) as page:
        page.get_by_role("link", name="paused 1").click()
        expect(page.locator("tbody th[scope=row] a")).to_have_text(["b"])
        assert page.url == engine.url + "/?state=paused"
        page.keyboard.press("/")
        expect(page.get_by_label("Find a sink")).to_be_focused()


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours as CSS computes them."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(n) / 255 for n in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
