"""Homes for these tests, new for each test or shared by a file's tests, and the commands run on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.waiting import eventually
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.home import Home


class Installation:
    """A home and the environment that names it. `run` runs the command line in a separate process."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.home = Home(folder)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USERHOOKS_", "SEQUIN_", "DATABASE_URL"))}
        self.environment = {**inherited, "USERHOOKS_HOME": str(folder), **dict.fromkeys(PORT_VARIABLES.values(), "0"), **variables}

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.environment)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "userhooks.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=90, check=False)

    def succeed(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def fail(self, *arguments: str) -> str:
        """Run a command that must fail, and return its stderr: one or two lines, not a traceback."""
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
        return done.stderr

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return status

    def pids(self) -> dict[str, int | None]:
        status = self.status()
        return {part: status[part]["pid"] for part in ("postgres", "sequin", "server", "inspector")}

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and its descendants, including the watchdog, or an empty list if the stack is down."""
        state = self.home.running()
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(state["supervisor"]["pid"]) if state is not None else None
            return [supervisor, *supervisor.children(recursive=True)] if supervisor is not None else []
        return []

    def remove(self) -> None:
        processes = self.processes()
        if self.home.path.exists():
            self.succeed("down")
        assert_gone(processes)
        self.home.remove()


def assert_gone(processes: list[psutil.Process]) -> None:
    """Assert that every process exits within seconds."""
    eventually(lambda: not any(map(_is_running, processes)), within=15, what=f"{processes} to end")


def _is_running(process: psutil.Process) -> bool:
    """Return whether the process is running. A zombie that nobody reaps is not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[..., Installation]]:
    """Create installations. Each is stopped and removed at the end, and must not leave a process behind."""
    installations: list[Installation] = []

    def make(name: str = "home", **variables: str) -> Installation:
        installations.append(Installation(tmp_path / name, **variables))
        return installations[-1]

    yield make
    for installation in installations:
        installation.remove()


@pytest.fixture
def installation(install: Callable[..., Installation]) -> Installation:
    return install()


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home shared by a file's tests that do not depend on its earlier contents. Creating one takes longer than most tests."""
    folder = tmp_path_factory.mktemp("shared") / "home"
    yield folder
    Installation(folder).remove()


@pytest.fixture
def running(shared_folder: Path) -> Installation:
    """The shared home, with every part running."""
    shared = Installation(shared_folder)
    shared.succeed("up", "--detach")
    return shared


@pytest.fixture
def stopped(shared_folder: Path) -> Installation:
    """The shared home, which has run before and is stopped."""
    shared = Installation(shared_folder)
    if not shared_folder.exists():
        shared.succeed("up", "--detach")
    processes = shared.processes()
    shared.succeed("down")
    assert_gone(processes)
    return shared
