"""Notebook 01 as a reader goes through it: JupyterLab in a real Chromium, every cell run, a click on Subscribe, rows that show up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.lab import Lab, choose_theme, run_all, running_lab

SCREENSHOTS = os.environ.get("USERHOOKS_SCREENSHOTS")
"""A folder that keeps the screenshots, for those who want to look at them."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as one:
        yield one


@pytest.fixture
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        one = context.new_page()
        one.set_default_timeout(60_000)
        yield one


def keep(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_reader_runs_the_first_notebook_subscribes_with_a_click_and_sees_rows_arrive(page: Page, lab: Lab, theme: str) -> None:
    choose_theme(lab, f"JupyterLab {theme.capitalize()}")
    users = run_all(page, lab)
    panel = page.locator(".jp-NotebookPanel:visible")
    cy = users["cy"]
    assert lab.stack.subscriptions.list(cy) == []
    panel.get_by_label("User").first.select_option(label="Cy")
    subscribe = panel.get_by_role("button", name="Subscribe")
    subscribe.click()
    expect(panel.get_by_text(f"Cy is subscribed: the sink user-{cy}-notifications sends to", exact=False)).to_be_visible()
    [subscription] = lab.stack.subscriptions.list(cy)
    assert lab.stack.sequin.sink(subscription.sink_name).status == "active"
    subscribe.scroll_into_view_if_needed()
    keep(page, f"subscribe-{theme}")

    lab.stack.database.insert_notifications([(users["ada"], f"From the test, {theme} <b>&")])
    arrived = panel.get_by_text(f"From the test, {theme} <b>&")
    expect(arrived).to_be_visible()
    arrived.scroll_into_view_if_needed()
    keep(page, f"inbox-{theme}")
