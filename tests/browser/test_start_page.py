"""The first minutes of a reader: JupyterLab opens the start page instead of the launcher, and its links work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.lab import TOKEN, Lab, running_lab

SCREENSHOTS = os.environ.get("USERHOOKS_SCREENSHOTS")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("start")) as one:
        yield one


@pytest.fixture
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    """A new browser, which has opened the address that the lab prints."""
    with browser.new_context(viewport={"width": 1440, "height": 1000}) as context:
        one = context.new_page()
        one.set_default_timeout(60_000)
        one.goto(f"{lab.url}/?token={TOKEN}")
        yield one


def tabs(page: Page) -> list[str]:
    return page.locator(".lm-DockPanel-tabBar .lm-TabBar-tabLabel").all_inner_texts()


def test_the_first_start_opens_the_start_page_and_a_click_leads_to_lesson_01(page: Page, lab: Lab) -> None:
    expect(page.get_by_role("heading", name="Webhooks for each user's own rows")).to_be_visible()
    expect(page.get_by_role("cell", name=re.compile(r"^\d+\smin$"))).to_have_count(len(list(lab.notebooks.glob("*.ipynb"))))
    assert tabs(page) == ["index.md"]
    for theme in ("Dark", "Light"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {theme}")
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
        expect(page.locator("#jupyterlab-splash")).to_be_hidden()
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS) / f"start-page-{theme.lower()}.png")
    page.get_by_role("link", name="Start with lesson 01").click()
    expect(page.locator(".jp-NotebookPanel:visible").get_by_role("heading", name="01 · Your first user webhook")).to_be_visible()
    assert tabs(page) == ["index.md", "01_first_webhook.ipynb"]


@pytest.mark.parametrize("name", ["inspector", "console"])
def test_a_link_signs_the_browser_in_to_a_page_of_the_stack(page: Page, name: str) -> None:
    with page.expect_popup() as opened:
        page.get_by_role("link", name=name, exact=True).click()
    opened.value.wait_for_load_state()
    without_token = opened.value.goto(opened.value.url.partition("?")[0])
    assert without_token is not None
    assert without_token.status == 200
