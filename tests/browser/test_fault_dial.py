"""Fault dial, panels, and plots in JupyterLab in a real Chromium: a slider, a click, a picture that changes, a retry that succeeds, a
stack that is stopped and started again, a theme that changes while all is open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import Lab, choose_theme, run_cells, running_lab
from tests.waiting import eventually

SCREENSHOTS = os.environ.get("USERHOOKS_SCREENSHOTS")
BEGIN = """from userhooks import Stack, widgets
stack = Stack.start()
lesson = stack.lesson("{}")
for user in lesson.users:
    lesson.subscribe(user, url=lesson.inbox(user).url)"""


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


def run(page: Page, lab: Lab, name: str, *cells: str) -> Locator:
    """Make a notebook of these cells, run it, and return its panel."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel)
    nbformat.write(notebook, lab.notebooks / f"{name}.ipynb")
    run_cells(page, lab, f"{name}.ipynb")
    return page.locator(".jp-NotebookPanel:visible")


def users_of(lab: Lab, lesson: str) -> dict[str, int]:
    named = f"lesson {lesson}: "
    return {name.removeprefix(named): number for number, name in lab.stack.database.users() if name.startswith(named)}


def rows(lab: Lab) -> int:
    with lab.stack.database.connect() as connection:
        return int(connection.execute("select count(*) from notifications").fetchall()[0][0])


def writes(lab: Lab, before: int) -> bool:
    return rows(lab) > before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_reader_makes_a_receiver_fail_watches_and_heals_it(page: Page, lab: Lab, theme: str) -> None:
    choose_theme(lab, f"JupyterLab {theme.capitalize()}")
    panel = run(page, lab, f"dial-{theme}", BEGIN.format("dial"), "dial = widgets.FaultDial(lesson)\ndial")
    picture = panel.locator(".userhooks-traffic")
    expect(picture).to_be_visible(timeout=60_000)
    expect(panel.get_by_text("Nothing done yet.")).to_be_visible()
    slider = panel.get_by_role("slider").first
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(panel.get_by_text("lesson.inbox(\"ada\").respond([{'percent': 100.0")).to_be_visible()
    panel.get_by_role("button", name="Apply").click()
    expect(panel.get_by_text("Ada: 100% answered 500.")).to_be_visible()
    expect(picture.get_by_text("1 Ada: 100% answered 500")).to_be_visible()
    users = users_of(lab, "dial")
    lab.stack.database.insert_notifications([(users[user], f"row {n}") for n in range(20) for user in ("ada", "ben")])
    expect(picture.get_by_text("20 waiting")).to_be_visible(timeout=20_000)
    expect(picture.get_by_text("Rows waiting now: 20 for Ada.")).to_be_visible()
    panel.get_by_role("button", name="Clear all faults").click()
    expect(panel.get_by_text("Ada: no faults.")).to_be_visible()
    ada = lab.stack.inspector.inbox("lesson dial: ada")
    assert len(ada.wait_for(20, timeout=30)) == 20
    assert any(not request.accepted for request in ada.received())
    expect(picture.get_by_text("20 waiting")).to_be_hidden(timeout=20_000)
    expect(picture.get_by_text("No rows waiting now. Most in the last")).to_be_visible()
    if SCREENSHOTS:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(SCREENSHOTS) / f"dial-{theme}.png")


def test_the_dial_floats_beside_the_notebook_and_follows_the_theme_while_it_is_open(page: Page, lab: Lab) -> None:
    choose_theme(lab, "JupyterLab Light")
    panel = run(page, lab, "floats", BEGIN.format("floats"), "dial = widgets.FaultDial(lesson)\ndial")
    picture = panel.locator(".userhooks-traffic")
    expect(picture.get_by_text("No rows waiting, now or in the last")).to_be_visible(timeout=60_000)
    picture.locator(".lane").first.click(button="right")
    page.get_by_role("menuitem", name="Create New View for Cell Output").click()
    drag_beside(page, page.get_by_role("tab", name="Output View"), panel)
    beside = page.locator(".jp-MainAreaWidget:not(.jp-NotebookPanel) .userhooks-traffic")
    expect(beside).to_be_visible()
    # The charts are replaced every second, so that an element may be gone before the next call to the browser.
    places = page.evaluate("[...document.querySelectorAll('.userhooks-traffic')].map(one => one.getBoundingClientRect().toJSON())")
    left, right = sorted(places, key=lambda place: float(place["left"]))
    assert left["right"] <= right["left"]
    for theme in ("Light", "Dark", "Light"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {theme}")
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
        eventually(partial(is_light, page, ".userhooks-traffic", "color", expected=theme == "Dark"), what="text in the color of the theme")
        eventually(partial(is_light, page, ".userhooks-traffic line", "stroke", expected=theme == "Dark"), what="lines in that color")
        expect(panel.get_by_role("button", name="Apply")).to_be_visible()


def drag_beside(page: Page, tab: Locator, panel: Locator) -> None:
    """Drag a tab to the right edge of a notebook, which then has only the left half."""
    start, whole = tab.bounding_box(), panel.bounding_box()
    assert start
    assert whole
    page.mouse.move(start["x"] + 40, start["y"] + 10)
    page.mouse.down()
    page.mouse.move(start["x"] + 80, start["y"] - 60, steps=8)
    page.mouse.move(whole["x"] + whole["width"] - 25, whole["y"] + whole["height"] / 2, steps=20)
    page.mouse.up()


def test_a_plot_fills_the_column_and_follows_the_theme(page: Page, lab: Lab) -> None:
    choose_theme(lab, "JupyterLab Light")
    draw = (
        "import matplotlib.pyplot as plt\nfrom userhooks import diagrams\nfigure, ax = plt.subplots(figsize=(8, 3))\n_ = diagrams.slot(ax)"
    )
    panel = run(page, lab, "plot", draw)
    plot = panel.get_by_role("img", name="A slot is a bookmark")
    expect(plot).to_be_visible(timeout=60_000)
    drawn, column = plot.bounding_box(), panel.locator(".jp-OutputArea-output").bounding_box()
    assert drawn
    assert column
    assert drawn["width"] > 0.95 * column["width"]
    for theme in ("Light", "Dark", "Light"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {theme}")
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
        eventually(
            partial(is_light, page, "svg[aria-label^='A slot'] text[style*=currentColor]", "fill", expected=theme == "Dark"),
            what="a title in the color of the theme",
        )


def is_light(page: Page, selector: str, of: str, *, expected: bool) -> bool:
    """Whether a color of all these elements is light, or dark, as expected."""
    colors = page.evaluate(
        "([selector, of]) => [...document.querySelectorAll(selector)].map(one => getComputedStyle(one)[of].match(/[0-9.]+/g).map(Number))",
        [selector, of],
    )
    return bool(colors) and all((sum(color[:3]) > 450) == expected for color in colors)


def test_a_reader_chooses_answers_by_keyboard_and_starts_a_stack_that_was_stopped(page: Page, lab: Lab) -> None:
    choose_theme(lab, "JupyterLab Light")
    panel = run(page, lab, "answers", BEGIN.format("answers"), "widgets.ResponsePanel(lesson)", "widgets.InboxPanel(lesson)")
    expect(panel.get_by_text("Ada's inbox answers always: 200.")).to_be_visible(timeout=60_000)
    start = panel.locator("button", has_text="Start the stack")
    expect(start).to_have_count(2)
    expect(start.first).to_be_hidden()
    panel.get_by_label("How many").fill("1")
    panel.get_by_label("How many").press("Tab")
    panel.get_by_role("button", name="Add the rule").press("Enter")
    expect(panel.get_by_text("first 1: 500", exact=True)).to_be_visible()
    panel.get_by_role("button", name="Set these answers").press("Enter")
    expect(panel.get_by_text("Ada's inbox answers first 1: 500; else: 200.")).to_be_visible()
    lab.stack.stop()
    panel.get_by_role("button", name="Set these answers").press("Enter")
    expect(panel.get_by_text("Not done. The inspector does not answer")).to_be_visible()
    expect(panel.get_by_text("Not updated. The inspector does not answer")).to_be_visible()
    expect(start.last).to_be_visible()
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / "stopped.png")
    start.first.press("Enter")
    expect(panel.get_by_text("The stack is running again.")).to_be_visible()
    expect(start.first).to_be_hidden()
    expect(start.last).to_be_hidden()
    panel.get_by_role("button", name="Set these answers").press("Enter")
    expect(panel.get_by_text("Ada's inbox answers first 1: 500; else: 200.")).to_be_visible()
    lab.stack.database.insert_notifications([(users_of(lab, "answers")["ada"], "tried twice")])
    expect(panel.get_by_role("cell", name="tried twice")).to_have_count(2)
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / "answers.png")


def test_stop_ends_what_a_panel_does_from_its_second_press_on_too(page: Page, lab: Lab) -> None:
    cells = (BEGIN.format("stop"), "panel = widgets.GeneratePanel(lesson)\npanel", "panel", "widgets.SubscribePanel(lesson)")
    panel = run(page, lab, "stop", *cells)
    generate, seconds = panel.get_by_role("button", name="Generate"), panel.get_by_label("Seconds")
    stop = panel.get_by_role("button", name="Interrupt the kernel")
    expect(generate).to_have_count(2, timeout=60_000)
    seconds.first.fill("0.5")
    generate.first.click()
    expect(panel.get_by_text("50 inserted for").first).to_be_visible()
    for place in (0, 1):  # the same panel, shown twice
        seconds.nth(place).fill("600")
        before = rows(lab)
        generate.nth(place).click()
        eventually(partial(writes, lab, before), what="the generator to write")
        stop.click()
        expect(panel.get_by_text("Stopped early.").first).to_be_visible()
        expect(generate.nth(place)).to_be_enabled()
    panel.get_by_role("button", name="Subscribe", exact=True).click()
    expect(panel.get_by_text("Ada was subscribed already")).to_be_visible()
