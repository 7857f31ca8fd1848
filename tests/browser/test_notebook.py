"""Every notebook as a reader goes through it: JupyterLab in a real Chromium, all cells run, panels clicked, in two themes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.lab import ROOT, Lab, end_kernels, open_notebook, running_lab
from tests.browser.lessons import CLICKS
from tests.browser.reader import Reader

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as one:
        yield one


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1300, "height": 1000}) as context:
        context.set_default_timeout(60_000)
        yield context


@pytest.fixture
def page(window: BrowserContext, lab: Lab, request: pytest.FixtureRequest) -> Iterator[Page]:
    """JupyterLab as the test before left it, or after a failure a new page."""
    if request.session.testsfailed:
        for old in window.pages:
            old.close()
    yield window.pages[0] if window.pages else window.new_page()
    end_kernels(lab)


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_a_reader_runs_a_notebook_clicks_its_panels_and_sees_it_whole_in_two_themes(page: Page, lab: Lab, path: Path) -> None:
    reader = Reader(page, lab, path.stem)
    reader.run_all()
    CLICKS.get(path.stem, lambda _: None)(reader)
    for theme in ("light", "dark"):
        reader.look(theme)


def test_a_solution_shows_when_it_is_opened_and_is_not_run(page: Page, lab: Lab) -> None:
    open_notebook(page, lab, "01_first_webhook.ipynb")
    exercise = page.locator(".jp-Cell", has=page.get_by_role("heading", name="Exercise"))
    exercise.scroll_into_view_if_needed()
    solution = exercise.locator("xpath=following::details[1]")
    expect(solution.get_by_text("Show a solution")).to_be_visible()
    expect(solution.locator("pre")).to_be_hidden()
    solution.get_by_text("Show a solution").click()
    expect(solution.locator("pre")).to_be_visible()


def test_the_glossary_opens_as_a_page_from_the_first_lesson(page: Page, lab: Lab) -> None:
    open_notebook(page, lab, "01_first_webhook.ipynb")
    page.get_by_role("link", name="glossary").click()
    expect(page.get_by_role("heading", name="Glossary")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(16)


def test_every_notebook_with_a_panel_has_its_clicks() -> None:
    panels = {path.stem for path in PATHS if any("widgets." in cell.source for cell in nbformat.read(path, as_version=4).cells)}
    assert panels == set(CLICKS)
