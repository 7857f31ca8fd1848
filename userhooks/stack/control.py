"""How the supervisor is reached or spawned: one line of JSON each way over loopback, with a token that only the home's owner can read.

What the supervisor does with a request is in `supervisor.py`; what people call is in `stack.py`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psutil

from userhooks import errors
from userhooks.errors import START, InvalidInput, NotRunning, UserhooksError
from userhooks.settings import Settings
from userhooks.shared import python_command
from userhooks.stack.home import Home
from userhooks.stack.status import StackStatus

START_SECONDS = 180.0
"""How long a part may take until it answers: for the engine with 100,000 sinks on a slow machine, not for the usual half second."""
STOP_SECONDS = 5.0
"""How long a program may take to end before it is killed."""
LOCKED = b"locked\n"
"""What a spawned supervisor says when another one holds the home."""


def up(settings: Settings) -> tuple[StackStatus, bool]:
    """Have every part running and return (status, whether this call started the supervisor); raises what the supervisor answers."""
    home = Home.open(settings)
    deadline = time.monotonic() + 2 * START_SECONDS
    while time.monotonic() < deadline:
        state = home.running()
        if state is not None:
            with contextlib.suppress(NotRunning):  # it was killed, or is about to end: then another one is spawned
                return ask(state, "up", settings=as_json(settings)), False
        if (line := _spawn(home, settings)) != LOCKED:
            return _result(line), True
        time.sleep(0.05)
    raise NotRunning(f"Another supervisor holds {home.lock_file} and does not answer.", f"Its log is {home.log('supervisor')}")


def ask(state: Mapping[str, Any], do: str, **arguments: Any) -> StackStatus:
    """Send one request to the supervisor of `state` and return the status; raises its error, or NotRunning when it is gone."""
    control = state["supervisor"]
    try:
        with socket.create_connection(("127.0.0.1", control["port"]), timeout=2 * START_SECONDS) as connection:
            connection.sendall(json.dumps({"token": control["token"], "do": do, **arguments}).encode() + b"\n")
            line = connection.makefile("rb").readline()
    except OSError as error:
        raise NotRunning(f"The supervisor does not answer: {error}.", f"{START}.") from None
    return _result(line)


def down(home: Home) -> bool:
    """End the stack and return when no process of it is left; False when there was none."""
    state = home.running()
    if state is None:
        return False
    try:
        ask(state, "down")
    except NotRunning:  # it was killed: its programs have noticed, and the next `up` would wait for them just so
        end_programs_of(state)
        home.stack_file.unlink(missing_ok=True)
        return False
    await_end({state["supervisor"]["pid"]: state["supervisor"]["started"]}, STOP_SECONDS)
    return True


def _spawn(home: Home, settings: Settings) -> bytes:
    """Start a supervisor that outlives us and return the one line it says: LOCKED, or its reply to its own first `up`."""
    home.start_log("supervisor")
    with home.log("supervisor").open("ab") as output:
        process = subprocess.Popen(
            python_command.command("userhooks.stack.supervisor"),
            env=python_command.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=home.path,
            start_new_session=True,
        )
    # It forks at once, so that we are not its parent: this waits for the first of the two only.
    line, _ = process.communicate(json.dumps(as_json(settings)).encode() + b"\n")
    return line or json.dumps(as_reply(UserhooksError("The supervisor ended at once.", f"Its log is {home.log('supervisor')}"))).encode()


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as the supervisor reads them."""
    return {**asdict(settings), "home": str(settings.home), "ports": dict(settings.ports)}


def as_reply(error: UserhooksError) -> dict[str, Any]:
    """An error as the supervisor answers it."""
    return {"error": {"type": type(error).__name__, "what": error.what, "remedy": error.remedy}}


def _result(line: bytes) -> StackStatus:
    """The status in a reply; an error in it is raised as the class it had."""
    if not line:
        raise NotRunning("The supervisor ended before it answered.", f"{START}.")
    reply = json.loads(line)
    if "error" in reply:
        kind, what, remedy = (reply["error"][key] for key in ("type", "what", "remedy"))
        raise InvalidInput("part", what, remedy) if kind == "InvalidInput" else getattr(errors, kind)(what, remedy)
    return StackStatus.from_json(reply["status"])


def started_at(pid: int) -> float | None:
    """When the process was started (psutil's create_time), or None when there is none; a zombie counts as none."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return float(process.create_time())
    return None


def await_end(processes: Mapping[int, float], patience: float) -> dict[int, float]:
    """Wait until these processes (pid -> start time) are gone, and return those that still run after `patience` seconds."""
    deadline = time.monotonic() + patience
    left = dict(processes)
    while True:
        left = {pid: started for pid, started in left.items() if started_at(pid) == started}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def end_programs_of(state: Mapping[str, Any]) -> None:
    """Let the programs of a supervisor that was killed end by themselves, as they do, and kill those that do not.

    Only processes whose start time is the recorded one are touched: a pid alone may be a stranger's by now.
    """
    started: Mapping[str, float] = state["started"]
    for pid in await_end({state[part]["pid"]: when for part, when in started.items() if part != "supervisor"}, STOP_SECONDS):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
