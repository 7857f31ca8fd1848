"""`userhooks lab` in a copy of the project, and lesson 01 run in it: for the tests, and for the README's picture."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.sync_api import Page

from tests.ports import free_port
from tests.waiting import eventually
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.control import down
from userhooks.stack.home import Home
from userhooks.stack.stack import Stack

ROOT = Path(__file__).parents[2]
TOKEN = "for-this-test"

_OPEN_INSTEAD = """async path => {
    const { commands } = window.jupyterapp;
    await commands.execute("docmanager:save-all");  // or it would ask whether to
    await commands.execute("application:close-all");
    await commands.execute("docmanager:open", { path });
}"""


@dataclass
class Lab:
    """A running `userhooks lab` in a copy of the project; `notebooks` is the folder of the reader's copies."""

    url: str
    stack: Stack
    notebooks: Path

    def notebook(self, name: str) -> str:
        """`reset` closes what an earlier page had open: a command would go to whichever notebook happens to be in front."""
        return f"{self.url}/lab/tree/{name}?reset&token={TOKEN}"


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """Start stack and JupyterLab as `userhooks lab` does, with everything of theirs in `folder`; end them afterwards."""
    copy = folder / "project"  # the reader's copies are made in it
    for part in ("userhooks", "notebooks"):
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    port = free_port()
    environment = {
        **os.environ,
        **dict.fromkeys(PORT_VARIABLES.values(), "0"),
        "USERHOOKS_HOME": str(folder / "home"),
        "PYTHONPATH": str(copy),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    options = [
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={TOKEN}",
        "--ServerApp.port_retries=0",
        "--LabApp.expose_app_in_browser=True",  # so that a test can switch the theme of a page that is open
    ]
    home = Home(folder / "home")
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "userhooks.cli", "lab", "--no-browser", "--", *options],
            cwd=copy,  # before PYTHONPATH
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(url), within=60, what="JupyterLab to answer")
        stack = Stack.attach(Settings.from_env(environment))
        with stack.inspector, stack.sequin:
            yield Lab(url, stack, copy / "lessons")
    finally:
        process.terminate()
        process.wait(60)
        down(home)
        home.remove()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api", params={"token": TOKEN}).status_code == 200
    except httpx.TransportError:
        return False


def lesson_users(lab: Lab) -> dict[str, int]:
    return {name.removeprefix("lesson 01: "): user_id for user_id, name in lab.stack.database.users() if name.startswith("lesson 01: ")}


def run_all(page: Page, lab: Lab) -> dict[str, int]:
    """Open notebook 01, run all cells, wait for what the last one does (an error would stop the run), and return the users."""
    before = lesson_users(lab)
    run_cells(page, lab, "01_first_webhook.ipynb")
    eventually(lambda: (users := lesson_users(lab)) and users != before, within=60, every=0.1, what="the first cell to make its users")
    ada = lab.stack.inspector.inbox("lesson 01: ada")
    ada.wait_for(1, match=lambda message: message.record["message"] == "It has arrived", timeout=60)
    return lesson_users(lab)


def open_notebook(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook, as the only one; where JupyterLab is shown already, without the seconds that it takes to load."""
    if page.url.startswith(lab.url):
        page.evaluate(_OPEN_INSTEAD, name)
    else:
        page.goto(lab.notebook(name))


def run_cells(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook and begin to run all its cells."""
    open_notebook(page, lab, name)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def end_kernels(lab: Lab) -> None:
    """End the kernels of all notebooks that were open."""
    headers = {"Authorization": f"token {TOKEN}"}
    for session in httpx.get(f"{lab.url}/api/sessions", headers=headers).raise_for_status().json():
        httpx.delete(f"{lab.url}/api/sessions/{session['id']}", headers=headers).raise_for_status()


def choose_theme(lab: Lab, theme: str) -> None:
    """What Settings, Theme does in JupyterLab."""
    url = f"{lab.url}/lab/api/settings/@jupyterlab/apputils-extension:themes"
    setting = {"raw": json.dumps({"theme": theme})}
    httpx.put(url, json=setting, headers={"Authorization": f"token {TOKEN}"}).raise_for_status()
