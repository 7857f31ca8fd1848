"""`userhooks demo` does the main job in one command, and detects rows that reach the wrong user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_program import EngineProgram
from tests.ports import free_port
from userhooks.settings import PORT_VARIABLES
from userhooks.stack.control import down
from userhooks.stack.home import Home
from userhooks.webhooks.database import Database


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield environment variables for a separate home on free ports, and remove the home afterwards."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("USERHOOKS_", "SEQUIN_", "DATABASE_URL"))}
    folder = tmp_path / "home"
    yield {**clean, **{variable: str(free_port()) for variable in PORT_VARIABLES.values()}, "USERHOOKS_HOME": str(folder)}
    home = Home(folder)
    down(home)
    home.remove()


def demo(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "userhooks.cli", "demo", "--rate", "300", "--seconds", "1", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_it_ends_with_a_clean_verdict_and_leaves_nothing_running(environment: dict[str, str]) -> None:
    result = demo(environment)
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("300 committed, 300 expected, 300 received, 0 lost, 0 duplicated, 0 foreign, order kept")
    assert "backfill: 300 expected, 300 received, 0 lost" in last
    assert not Home(Path(environment["USERHOOKS_HOME"])).stack_file.exists()


def test_it_fails_and_names_the_rows_when_everything_goes_to_everybody(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    Database(database_url).set_up("leaky_pub")
    engine = EngineProgram(database_url, tmp_path, publication="leaky_pub").start(module=("-m", "tests.leaky_engine"))
    try:
        real = {"SEQUIN_URL": engine.url, "SEQUIN_API_TOKEN": engine.token, "DATABASE_URL": database_url}
        result = demo({**environment, **real})
        assert result.returncode == 1, result.stdout + result.stderr
        assert " 0 foreign" not in result.stdout.splitlines()[-1]
        assert "foreign" in result.stdout.splitlines()[-1]
        assert "foreign: insert of row" in result.stdout
    finally:
        down(Home(Path(environment["USERHOOKS_HOME"])))
        engine.stop()
