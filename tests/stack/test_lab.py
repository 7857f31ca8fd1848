"""`userhooks lab` and `userhooks lessons` as a reader uses them in a terminal, and `make clean` beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest
from jupyter_server.auth import passwd

from tests.ports import free_port
from tests.stack.conftest import Installation, assert_gone
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
# Makes the terminal on stdin the controlling one, as a login does, so that Ctrl-C typed there becomes a signal.
IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """A program that runs in a terminal of its own."""

    def __init__(self, *command: str, cwd: Path, environment: dict[str, str], log: Path) -> None:
        self._keyboard, screen = os.openpty()
        self._log = log
        with log.open("wb") as output:
            arguments = [sys.executable, "-c", IN_TERMINAL, *command]
            self.process = subprocess.Popen(
                arguments, stdin=screen, stdout=output, stderr=output, cwd=cwd, env=environment, start_new_session=True
            )
        os.close(screen)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def press_ctrl_c(self) -> None:
        os.write(self._keyboard, b"\x03")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        os.close(self._keyboard)


@dataclass(frozen=True)
class Checkout:
    """A folder that commands take for a checkout of this project, and a home in it."""

    folder: Path
    installation: Installation

    @property
    def lessons(self) -> Path:
        return self.folder / "lessons"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = self.installation.environment
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=90, check=False)

    def userhooks(self, *arguments: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.run(sys.executable, "-m", "userhooks.cli", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def lab(self, *options: str) -> Iterator[Terminal]:
        """Run the lab in a terminal, without a browser."""
        command = ["-m", "userhooks.cli", "lab", "--no-browser", "--", f"--ServerApp.port={free_port()}", *options]
        terminal = Terminal(*command, cwd=self.folder, environment=self.installation.environment, log=self.folder / "lab.log")
        try:
            yield terminal
        finally:
            terminal.close()

    def write_note(self, name: str) -> None:
        """Change a lesson as a reader does."""
        file = self.lessons / name
        notebook = json.loads(file.read_text())
        notebook["cells"][0]["source"] = "my note"
        file.write_text(json.dumps(notebook))


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    folder = tmp_path / "checkout"
    (folder / "tests").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "tests/__init__.py", "tests/remove_home.py"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    installation = Installation(folder / ".userhooks")
    yield Checkout(folder, installation)
    installation.remove()


def url_in(terminal: Terminal) -> str:
    """Wait for the URL that the lab prints."""

    def printed() -> str:
        assert terminal.process.poll() is None, terminal.output
        found = re.search(r"http://(?:127\.0\.0\.1|localhost):\d+/lab\S+", terminal.output)
        return found.group() if found else ""

    return eventually(printed, within=60, what="the URL of JupyterLab")


def test_one_ctrl_c_ends_a_lab_and_its_stack_and_make_clean_waits_for_that(checkout: Checkout) -> None:
    with checkout.lab() as terminal:
        url = urlsplit(url_in(terminal))
        assert url.path == "/lab/tree/index.md", "the start page instead of the launcher"
        token = parse_qs(url.query)["token"][0]
        after = eventually(lambda: terminal.output.partition("Open this link:")[2].strip(), within=30, what="the line about the link")
        assert urlsplit(after)[2:] == url[2:], "the link to the same page, as the last thing that the lab says"
        assert "other pages" in terminal.output
        with httpx.Client(base_url=f"http://{url.netloc}", headers={"Authorization": f"token {token}"}, timeout=30) as client:
            listed = {entry["name"] for entry in client.get("/api/contents/").raise_for_status().json()["content"]}
            assert {"index.md", "01_first_webhook.ipynb", "glossary.md", "alerts.yaml"} <= listed
            assert not {"conftest.py", "nbval.cfg"} & listed
            settings = client.get("/lab/api/settings/@jupyterlab/apputils-extension:notification").json()
            assert settings["schema"]["properties"]["fetchNews"]["default"] == "false"
            kernel = client.post("/api/kernels", json={"name": "python3"}).raise_for_status().json()
            assert kernel["id"]
        assert checkout.installation.status()["ready"]

        checkout.write_note("02_traffic.ipynb")
        assert "If it is open in JupyterLab, choose File > Reload Notebook from Disk" in checkout.userhooks("lessons", "reset", "03")
        refused = checkout.run("make", "clean")
        assert "JupyterLab has your lessons open." in refused.stderr
        assert "Error 1" in refused.stderr
        assert {".venv", ".userhooks", "lessons"} <= {file.name for file in checkout.folder.iterdir()}
        assert checkout.installation.status()["ready"]

        everything = [*checkout.installation.processes(), *psutil.Process(terminal.process.pid).children(recursive=True)]
        terminal.press_ctrl_c()
        assert terminal.process.wait(30) == 130
        assert_gone(everything)
        assert "Traceback" not in terminal.output
        assert "Shut down" not in terminal.output, "it does not ask"

    cleaned = checkout.run("make", "clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert "these files are yours: 02_traffic.ipynb" in cleaned.stdout
    assert "my note" in (checkout.lessons / "02_traffic.ipynb").read_text()
    assert not {".venv", ".userhooks"} & {file.name for file in checkout.folder.iterdir()}


def test_make_clean_stops_while_the_stack_runs_and_then_removes_unchanged_lessons(checkout: Checkout) -> None:
    checkout.userhooks("lessons", "copy")
    checkout.userhooks("up", "--detach")
    refused = checkout.run("make", "clean")
    assert "The stack is running. Run .venv/bin/userhooks down" in refused.stderr
    assert checkout.installation.status()["ready"]
    checkout.userhooks("down")
    assert checkout.run("make", "clean").returncode == 0
    assert not {".venv", ".userhooks", "lessons"} & {file.name for file in checkout.folder.iterdir()}


def press_ctrl_c_until_it_ends(terminal: Terminal) -> None:
    def ended() -> bool:
        terminal.press_ctrl_c()
        return terminal.process.poll() is not None

    eventually(ended, within=30, every=0.2, what="the lab to end")


def terminate(terminal: Terminal) -> None:
    terminal.process.terminate()


@pytest.mark.parametrize(("stop", "code"), [(press_ctrl_c_until_it_ends, 130), (terminate, 143)])
def test_a_lab_with_a_password_ends_everything_when_it_is_stopped_in_another_way(
    checkout: Checkout, stop: Callable[[Terminal], None], code: int
) -> None:
    with checkout.lab(f"--PasswordIdentityProvider.hashed_password={passwd('secret')}") as terminal:
        assert "token=" not in url_in(terminal)
        everything = [*checkout.installation.processes(), *psutil.Process(terminal.process.pid).children(recursive=True)]
        stop(terminal)
        assert terminal.process.wait(30) == code
        assert_gone(everything)
        assert "Traceback" not in terminal.output


def test_the_lab_keeps_changed_lessons_and_says_in_one_line_when_newer_ones_exist(checkout: Checkout) -> None:
    checkout.userhooks("lessons", "copy")
    checkout.write_note("02_traffic.ipynb")
    record = checkout.lessons / ".copies.json"
    older = dict.fromkeys(json.loads(record.read_text()), "made from an earlier version")
    record.write_text(json.dumps(older))
    with checkout.lab("--version") as terminal:
        assert terminal.process.wait(60) == 0
        [line] = [line for line in terminal.output.splitlines() if "ewer" in line]
        assert line.endswith("userhooks lessons reset 02")
    assert "my note" in (checkout.lessons / "02_traffic.ipynb").read_text()
    assert (checkout.lessons / "index.md").read_text().startswith("# Webhooks")


# --- userhooks lessons ---------------------------------------------------------------------------------------------------


def test_lessons_are_listed_and_reset_without_a_stack(checkout: Checkout) -> None:
    assert re.search(r"03_backfill\.ipynb +not copied yet", checkout.userhooks("lessons"))
    assert not checkout.lessons.exists()
    assert re.search(r"03_backfill\.ipynb +unchanged", checkout.userhooks("lessons", "copy"))
    checkout.write_note("03_backfill.ipynb")
    listed = checkout.userhooks("lessons", "list")
    assert re.search(r"03_backfill\.ipynb +changed by you", listed)
    assert re.search(r"02_traffic\.ipynb +unchanged", listed)

    told = checkout.userhooks("lessons", "reset", "03")
    [old] = checkout.lessons.glob("03_backfill.old-*.ipynb")
    assert told == f"03_backfill.ipynb: a fresh copy. Yours is now {old.name}.\n"
    assert "my note" in old.read_text()
    assert re.search(r"03_backfill\.ipynb +unchanged", checkout.userhooks("lessons"))
    assert not checkout.installation.home.path.exists()


def test_a_reset_of_every_lesson_must_be_asked_for(checkout: Checkout) -> None:
    checkout.userhooks("lessons", "copy")
    checkout.write_note("03_backfill.ipynb")
    for arguments in ([], ["--all", "03"]):
        done = checkout.run(sys.executable, "-m", "userhooks.cli", "lessons", "reset", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "a lesson, like 03, or --all" in done.stderr
        assert re.search(r"03_backfill\.ipynb +changed by you", checkout.userhooks("lessons"))
    told = checkout.userhooks("lessons", "reset", "--all")
    assert re.search(r"^03_backfill\.ipynb: a fresh copy\. Yours is now ", told, re.MULTILINE)
    assert re.search(r"^02_traffic\.ipynb: a fresh copy\.$", told, re.MULTILINE)


def test_a_lesson_that_does_not_exist_is_an_error_of_two_lines(checkout: Checkout) -> None:
    done = checkout.run(sys.executable, "-m", "userhooks.cli", "lessons", "reset", "42")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: There is no lesson 42.\nuserhooks lessons list shows all of them.\n"
    assert not checkout.lessons.exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_two_lines(checkout: Checkout) -> None:
    checkout.lessons.write_text("a file")
    done = checkout.run(sys.executable, "-m", "userhooks.cli", "lessons", "copy")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: Cannot write to {checkout.lessons}: ")
    assert len(done.stderr.splitlines()) == 2
