"""A reader in front of a notebook in JupyterLab: runs it, uses its panels, looks at all of it in a light and a dark theme."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import Lab, run_cells
from userhooks.inspector.client import Inbox

SCREENSHOTS = os.environ.get("USERHOOKS_SCREENSHOTS")
"""A folder that keeps the screenshots, for those who want to look at them."""

RUN_SECONDS = 300
"""Lesson 08 creates thousands of subscriptions and removes them again."""
_ERROR = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
_SCROLLED = ".jp-WindowedPanel-outer"
# What a reader would see as cut off or lying outside: content that is wider than its box, and words that do not fit their button or label.
_CUT_OFF = """panel => {
    const shown = element => element.offsetParent !== null && element.clientWidth > 0;
    const wide = element => element.scrollWidth > element.clientWidth + 2;
    const boxes = ".jp-RenderedMarkdown, .jp-OutputArea-output, .jupyter-button, .widget-label, .widget-readout";
    const cut = [...panel.querySelectorAll(boxes)].filter(element => shown(element) && wide(element));
    return cut.map(element => `${element.className}: ${element.textContent.trim().slice(0, 80)}`);
}"""


@dataclass
class Reader:
    """One notebook, opened in one page."""

    page: Page
    lab: Lab
    name: str

    @property
    def notebook(self) -> Locator:
        """The notebook that is in front."""
        return self.page.locator(".jp-NotebookPanel:visible")

    @property
    def lesson(self) -> str:
        """Its number, as the lesson is called."""
        return self.name[:2]

    def run_all(self) -> None:
        """Open the notebook, run all its cells as the menu does, and return when the last one has ended; none may fail."""
        cells = nbformat.read(self.lab.notebooks / f"{self.name}.ipynb", as_version=4).cells
        executions = len([cell for cell in cells if cell.cell_type == "code"])
        run_cells(self.page, self.lab, f"{self.name}.ipynb")
        prompt = self.notebook.locator(".jp-CodeCell .jp-InputArea-prompt:not(.jp-Placeholder-prompt)").last
        expect(prompt).to_have_text("[*]:")
        expect(prompt).to_have_text(f"[{executions}]:", timeout=RUN_SECONDS * 1000)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        expect(self.notebook.locator(_ERROR)).to_have_count(0)
        expect(self.notebook.get_by_text("Error displaying widget")).to_have_count(0)

    def panel(self, button: str) -> Locator:
        """The panel that has a button with these words."""
        return self.notebook.locator(".jp-OutputArea").filter(has=self.page.get_by_role("button", name=button, exact=True))

    def press(self, button: str) -> None:
        """Click a panel's button."""
        self.panel(button).get_by_role("button", name=button, exact=True).click()

    def choose(self, button: str, user: str) -> None:
        """Choose a user, like `Cy`, in the panel with this button."""
        self.panel(button).get_by_label("User").select_option(label=user)

    def fill(self, button: str, label: str, value: str) -> None:
        """Type a number into a field of the panel with this button."""
        field = self.panel(button).get_by_label(label)
        field.fill(value)
        field.press("Enter")

    def sees(self, text: str, *, within: float = 30) -> None:
        """Wait until the notebook shows this."""
        shown = self.notebook.get_by_text(text).first
        expect(shown).to_be_visible(timeout=within * 1000)
        shown.evaluate(
            "element => element.scrollIntoView({block: 'nearest'})"
        )  # a panel that looks again meanwhile makes it anew: no fault

    def user(self, name: str) -> int:
        """The id of a user of this lesson."""
        return next(number for number, label in self.lab.stack.database.users() if label == f"lesson {self.lesson}: {name}")

    def inbox(self, name: str) -> Inbox:
        """The inbox of a user of this lesson."""
        return self.lab.stack.inspector.inbox(f"lesson {self.lesson}: {name}")

    def insert(self, name: str, text: str) -> None:
        """Write a row for a user of this lesson, as the app would."""
        self.lab.stack.database.insert_notifications([(self.user(name), text)])

    def look(self, theme: str) -> None:
        """Choose `light` or `dark` and scroll through the notebook; nothing may be cut off."""
        self._choose_theme(f"JupyterLab {theme.capitalize()}")
        scrolled = self.notebook.locator(_SCROLLED)
        scrolled.evaluate("element => element.scrollTo(0, 0)")
        height, whole = scrolled.evaluate("element => [element.clientHeight, element.scrollHeight]")
        for screen in range(-(-whole // height) + 1):
            scrolled.evaluate("(element, top) => element.scrollTo(0, top)", screen * height)
            self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert self.notebook.evaluate(_CUT_OFF) == []
            if SCREENSHOTS:
                self.page.screenshot(path=Path(SCREENSHOTS) / f"{self.name}-{theme}-{screen:02}.png")
            whole, top = scrolled.evaluate("element => [element.scrollHeight, element.scrollTop]")
            if top + height >= whole - 1:
                break

    def _choose_theme(self, name: str) -> None:
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-name", name)
