"""The command line: help, exit codes, and output; and an import that stays light."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.stack.conftest import Installation
from tests.waiting import eventually
from userhooks import Stack

COMMANDS = (
    "up", "down", "status", "lab", "lessons", "subscribe", "unsubscribe", "subscriptions", "backfill", "generate", "inbox", "listen",
    "ledger", "doctor", "demo",
)  # fmt: skip


def test_help_lists_every_command(installation: Installation) -> None:
    listed = re.findall(r"^    (\w+)(?:  |$)", installation.succeed("--help"), re.MULTILINE)
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_a_command_shows_an_example(installation: Installation, command: str) -> None:
    assert f"Example:\n  userhooks {command}" in installation.succeed(command, "--help")


@pytest.mark.parametrize("wrong", [[], ["start"], ["subscribe", "one", "http://127.0.0.1"], ["generate", "--seconds", "1", "--count", "1"]])
def test_a_command_line_that_is_wrong_ends_with_2(installation: Installation, wrong: list[str]) -> None:
    done = installation.run(*wrong)
    assert done.returncode == 2
    assert "usage: userhooks" in done.stderr


def test_the_name_alone_prints_the_help(installation: Installation) -> None:
    assert installation.run().stderr == installation.succeed("--help")


def test_status_succeeds_only_when_everything_is_ready(installation: Installation) -> None:
    stopped = installation.run("status")
    assert (stopped.returncode, stopped.stdout.split()[:2]) == (1, ["not", "ready"])
    stack = Stack.start(installation.settings)
    assert installation.run("status", "--json").returncode == 0
    stack.kill("server")
    assert installation.run("status", "--json").returncode == 1


@pytest.mark.parametrize(
    "command",
    [
        ["subscribe", "1", "http://127.0.0.1:9/"],
        ["subscriptions"],
        ["generate", "--count", "1"],
        ["inbox"],
        ["ledger"],
        ["listen", "--forward-to", "http://localhost:3000"],
    ],
)
def test_a_command_that_needs_the_stack_says_how_to_start_it(installation: Installation, command: list[str]) -> None:
    assert "userhooks up --detach" in installation.fail(*command)
    assert not installation.home.path.exists()


def test_the_whole_way_by_commands(installation: Installation) -> None:
    installation.succeed("up", "--detach")
    url = re.search(r"send to (\S+)", installation.succeed("inbox", "ada"))
    assert url is not None
    first = installation.succeed("subscribe", "1", url.group(1))
    assert first.startswith("New sink user-1-notifications")
    assert "Authorization: Bearer " in first
    again = installation.succeed("subscribe", "1", url.group(1))
    assert again.startswith("Known sink user-1-notifications")
    assert "Bearer" not in again
    assert "user-1-notifications  user 1" in installation.succeed("subscriptions")

    generated = installation.run("generate", "--rate", "500", "--count", "60", "--seed", "1")
    assert generated.returncode == 0
    assert generated.stdout.startswith("60 inserted")
    assert "60 committed" in eventually(
        lambda: verdict if "0 lost" in (verdict := installation.run("ledger").stdout) else "", what="every message to arrive"
    )
    assert "completed" in installation.succeed("backfill", "user-1-notifications", "--wait")
    assert re.search(r"ada  \d+ requests", installation.succeed("inbox"))

    assert "Removed" in installation.succeed("unsubscribe", "user-1-notifications")
    assert "There are no subscriptions" in installation.succeed("subscriptions")
    for wrong in (
        ["subscribe", "999", url.group(1)],
        ["subscribe", "1", "ftp://x"],
        ["unsubscribe", "user-1-notifications"],
        ["backfill", "x"],
    ):
        installation.fail(*wrong)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, userhooks; userhooks.Stack; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
    for heavy in ("pandas", "matplotlib", "ipywidgets", "httpx", "psycopg", "fastapi", "uvicorn"):
        assert f"'{heavy}'" not in loaded
