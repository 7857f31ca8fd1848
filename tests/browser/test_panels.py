"""The panels in JupyterLab in a real Chromium: subscribe, send a test event, unsubscribe, and what is said about numbers and failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import Lab, choose_theme, run_cells, running_lab
from tests.receiver import Receiver

SCREENSHOTS = os.environ.get("USERHOOKS_SCREENSHOTS")
BEGIN = """from userhooks import Stack, widgets
stack = Stack.start()
lesson = stack.lesson("{}")"""

# The contrast of each text with what is behind it, by the formula of WCAG 2. Colors are drawn to be read, because they may be mixtures.
_CONTRASTS = """report => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const drawn = colors => {
        canvas.clearRect(0, 0, 1, 1);
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = rgb => rgb.map(part => part / 255).map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
    const behind = [];
    for (let element = report; element; element = element.parentElement) behind.unshift(getComputedStyle(element).backgroundColor);
    return [report, ...report.querySelectorAll("strong, svg, span, code")].map(element => {
        const [one, other] = [drawn(behind), drawn([...behind, getComputedStyle(element).color])].map(light);
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    });
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("panels")) as one:
        yield one


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1300, "height": 1000}) as context:
        one = context.new_page()
        one.set_default_timeout(60_000)
        yield one


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def run(page: Page, lab: Lab, name: str, theme: str, *cells: str) -> Locator:
    """Run a notebook of these cells in a theme, and return its panel."""
    choose_theme(lab, f"JupyterLab {theme.capitalize()}")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    code = [nbformat.v4.new_code_cell(cell) for cell in (BEGIN.format(name), *cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=kernel), lab.notebooks / f"{name}-{theme}.ipynb")
    run_cells(page, lab, f"{name}-{theme}.ipynb")
    return page.locator(".jp-NotebookPanel:visible")


def shoot(page: Page, name: str) -> None:
    """Keep a screenshot of the panel and its surroundings, for those who want to look at it."""
    if SCREENSHOTS:
        page.mouse.move(0, 0)
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def reads_well(report: Locator) -> None:
    """Check that the words and the icon of a report can be read in this theme."""
    assert min(report.evaluate(_CONTRASTS)) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_reader_subscribes_sends_a_test_event_and_unsubscribes(page: Page, lab: Lab, receiver: Receiver, theme: str) -> None:
    notebook = run(page, lab, "panels", theme, "widgets.SubscribePanel(lesson)")
    expect(notebook.get_by_text("none yet")).to_be_visible()
    shoot(page, f"subscribe-{theme}-1-before")
    notebook.get_by_label("URL").fill(f"{receiver.url}/hooks/ada")
    notebook.get_by_role("button", name="Subscribe", exact=True).click()
    done, failed = notebook.get_by_role("status"), notebook.get_by_role("alert")
    expect(done).to_contain_text("Done. Ada is subscribed")
    reads_well(done)
    secret = notebook.get_by_text("shown only now").locator("xpath=following-sibling::code[1]").inner_text()
    ada = next(number for number, name in lab.stack.database.users() if name == "lesson panels: ada")
    assert secret == lab.stack.subscriptions.secret(ada, f"{receiver.url}/hooks/ada")
    shoot(page, f"subscribe-{theme}-2-subscribed")

    notebook.get_by_role("button", name="Send test event").click()
    expect(done).to_contain_text("Ada's receiver answered the test event with 200")
    [request] = receiver.requests
    assert dict(request.headers)["Authorization"] == f"Bearer {secret}"
    assert request.messages == []
    expect(notebook.get_by_text(secret)).to_have_count(0)
    shoot(page, f"subscribe-{theme}-3-test-event")

    receiver.script = lambda path, messages: 500
    notebook.get_by_role("button", name="Send test event").click()
    expect(failed).to_contain_text("Not accepted. Ada's receiver answered the test event with 500")
    reads_well(failed)
    shoot(page, f"subscribe-{theme}-4-refused")

    notebook.get_by_role("button", name="Unsubscribe").click()
    expect(done).to_contain_text("Done. Ada is unsubscribed")
    expect(notebook.get_by_text("none yet")).to_be_visible()
    expect(notebook.get_by_role("button", name="Unsubscribe")).to_have_count(0)
    assert lab.stack.subscriptions.list(ada) == []
    shoot(page, f"subscribe-{theme}-5-unsubscribed")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_panel_says_which_number_it_changed(page: Page, lab: Lab, theme: str) -> None:
    notebook = run(page, lab, "numbers", theme, "widgets.GeneratePanel(lesson)")
    rate = notebook.get_by_label("Rows per second")
    expect(rate).to_be_visible()
    shoot(page, f"generate-{theme}-1-before")
    rate.fill("-5")
    rate.press("Tab")
    changed = notebook.get_by_role("alert")
    expect(changed).to_have_text("Changed. Rows per second must be between 1 and 100,000; -5 was changed to 1.")
    expect(rate).to_have_value("1")
    reads_well(changed)
    shoot(page, f"generate-{theme}-2-changed")
    rate.fill("-7")
    rate.press("Tab")
    expect(changed).to_contain_text("-7 was changed to 1.")
    expect(rate).to_have_value("1")
    rate.fill("60")
    rate.press("Tab")
    expect(changed).to_have_count(0)
    notebook.get_by_label("Seconds").fill("0.5")
    notebook.get_by_role("button", name="Generate").click()
    expect(notebook.get_by_role("status")).to_contain_text("Done. 30 inserted")
    shoot(page, f"generate-{theme}-3-done")


def test_the_link_beside_a_panel_opens_the_inbox_in_a_browser_that_was_never_there(page: Page, lab: Lab) -> None:
    notebook = run(
        page, lab, "links", "light", "panel = widgets.InboxPanel(lesson)\npanel", 'lesson.subscribe("ada", panel.lesson.inbox("ada").url)'
    )
    expect(notebook.get_by_role("status")).to_contain_text("Live. 0 webhooks in the inbox of Ada.")
    with page.expect_popup() as opened:
        notebook.get_by_role("link", name="Open Ada's inbox").click()
    expect(opened.value.get_by_text("lesson links: ada").first).to_be_visible()
