"""The fault dial in JupyterLab in a real Chromium: a slider, a click, a picture that changes, and a retry that succeeds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.lab import Lab, choose_theme, run_cells, running_lab

SCREENSHOTS = os.environ.get("USERHOOKS_SCREENSHOTS")
CELLS = [
    """from userhooks import Stack, widgets
stack = Stack.start()
lesson = stack.lesson("dial")
for user in lesson.users:
    lesson.subscribe(user, url=lesson.inbox(user).url)""",
    "dial = widgets.FaultDial(lesson)\ndial",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("dial")) as one:
        yield one


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1300, "height": 1250}) as context:
        one = context.new_page()
        one.set_default_timeout(60_000)
        yield one


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_reader_makes_a_receiver_fail_watches_and_heals_it(page: Page, lab: Lab, theme: str) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS], metadata=kernel)
    nbformat.write(notebook, lab.notebooks / f"dial-{theme}.ipynb")
    choose_theme(lab, f"JupyterLab {theme.capitalize()}")
    run_cells(page, lab, f"dial-{theme}.ipynb")
    panel = page.locator(".jp-NotebookPanel:visible")
    picture = panel.locator("img.jupyter-widgets")
    expect(picture).to_be_visible(timeout=60_000)
    expect(panel.get_by_text("Nothing done yet.")).to_be_visible()
    slider = panel.get_by_role("slider").first
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(panel.get_by_text("lesson.inbox(\"ada\").respond([{'percent': 100.0")).to_be_visible()
    panel.get_by_role("button", name="Apply").click()
    expect(panel.get_by_text("Ada: 100 % answered 500.")).to_be_visible()
    before = picture.get_attribute("src")
    users = {name.removeprefix("lesson dial: "): number for number, name in lab.stack.database.users() if name.startswith("lesson dial: ")}
    lab.stack.database.insert_notifications([(users[user], f"row {n}") for n in range(20) for user in ("ada", "ben")])
    expect(panel.get_by_text("20 waiting")).to_be_visible(timeout=20_000)
    expect(picture).not_to_have_attribute("src", str(before))
    panel.get_by_role("button", name="All is well again").click()
    expect(panel.get_by_text("Ada: all is well.")).to_be_visible()
    ada = lab.stack.inspector.inbox("lesson dial: ada")
    assert len(ada.wait_for(20, timeout=30)) == 20
    assert any(not request.accepted for request in ada.received())
    expect(panel.get_by_text("20 waiting")).to_be_hidden(timeout=20_000)
    if SCREENSHOTS:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(SCREENSHOTS) / f"dial-{theme}.png")
