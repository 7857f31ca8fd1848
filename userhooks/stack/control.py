"""Send requests to the supervisor, and spawn it if there is none.

A request and its reply are one line of JSON each, over loopback. A request contains a token that only the home's owner can read.
`supervisor.py` handles the requests. The public interface is in `stack.py`.
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
"""Seconds a part may take to become ready. Half a second is usual, but the engine with 100,000 sinks on a slow machine takes long."""
STOP_SECONDS = 5.0
"""Seconds a program may take to stop before it is killed."""
LOCKED = b"locked\n"
"""Output of a spawned supervisor if another one holds the home's lock."""


def up(settings: Settings) -> tuple[StackStatus, bool]:
    """Start every part that is not running. Return the status, and whether this call started the supervisor.

    Raises the error that the supervisor replies with.
    """
    home = Home.open(settings)
    deadline = time.monotonic() + 2 * START_SECONDS
    while time.monotonic() < deadline:
        state = home.running()
        if state is not None:
            with contextlib.suppress(NotRunning):  # the supervisor was killed or is about to exit, so spawn another one
                return ask(state, "up", settings=as_json(settings)), False
        if (line := _spawn(home, settings)) != LOCKED:
            return _result(line), True
        time.sleep(0.05)
    raise NotRunning(f"Another supervisor has locked {home.lock_file} and does not answer.", f"See the log: {home.log('supervisor')}")


def ask(state: Mapping[str, Any], do: str, **arguments: Any) -> StackStatus:
    """Send a request to the supervisor that wrote `state`, and return the status.

    Raises the error in the reply, or NotRunning if the supervisor has exited.
    """
    return _result(_request(state, do, **arguments))


def _request(state: Mapping[str, Any], do: str, **arguments: Any) -> bytes:
    control = state["supervisor"]
    try:
        with socket.create_connection(("127.0.0.1", control["port"]), timeout=2 * START_SECONDS) as connection:
            connection.sendall(json.dumps({"token": control["token"], "do": do, **arguments}).encode() + b"\n")
            return connection.makefile("rb").readline()
    except OSError as error:
        raise NotRunning(f"The supervisor does not answer: {error}.", f"{START}.") from None


def down(home: Home) -> bool:
    """Stop the stack and return when none of its processes is left. Return False if there was no supervisor."""
    state = home.running()
    if state is None:
        return False
    try:
        _reply(_request(state, "down"))  # ignore the status in the reply, which another version's supervisor may send in another form
    except NotRunning:  # the supervisor was killed, so its programs exit by themselves; wait for them, as the next `up` would
        end_programs_of(state)
        home.stack_file.unlink(missing_ok=True)
        return False
    await_end({state["supervisor"]["pid"]: state["supervisor"]["started"]}, STOP_SECONDS)
    return True


def _spawn(home: Home, settings: Settings) -> bytes:
    """Start a supervisor that outlives this process. Return its one line of output: LOCKED, or the reply to the `up` it starts with."""
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
    # The process forks immediately and exits, so that the supervisor is not our child. This reads until the supervisor closes its stdout.
    line, _ = process.communicate(json.dumps(as_json(settings)).encode() + b"\n")
    return (
        line
        or json.dumps(as_reply(UserhooksError("The supervisor exited immediately.", f"See the log: {home.log('supervisor')}"))).encode()
    )


def as_json(settings: Settings) -> dict[str, Any]:
    """Return the settings in the form that the supervisor reads."""
    return {**asdict(settings), "home": str(settings.home), "ports": dict(settings.ports)}


def as_reply(error: UserhooksError) -> dict[str, Any]:
    """Return an error in the form that the supervisor replies with."""
    return {"error": {"type": type(error).__name__, "what": error.what, "remedy": error.remedy}}


def _result(line: bytes) -> StackStatus:
    """Return the status in a reply, or raise the error in it."""
    return StackStatus.from_json(_reply(line)["status"])


def _reply(line: bytes) -> dict[str, Any]:
    """Return a reply, or raise the error in it as an instance of its original class."""
    if not line:
        raise NotRunning("The supervisor exited before it answered.", f"{START}.")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        kind, what, remedy = (reply["error"][key] for key in ("type", "what", "remedy"))
        raise InvalidInput("part", what, remedy) if kind == "InvalidInput" else getattr(errors, kind)(what, remedy)
    return reply


def started_at(pid: int) -> float | None:
    """Return a process's start time (psutil's create_time), or None if there is no such process or it is a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return float(process.create_time())
    return None


def await_end(processes: Mapping[int, float], patience: float) -> dict[int, float]:
    """Wait until these processes (pid -> start time) have exited. Return those that are still running after `patience` seconds."""
    deadline = time.monotonic() + patience
    running = dict(processes)
    while True:
        running = {pid: started for pid, started in running.items() if started_at(pid) == started}
        if not running or time.monotonic() > deadline:
            return running
        time.sleep(0.02)


def end_programs_of(state: Mapping[str, Any]) -> None:
    """Wait for the programs of a killed supervisor to exit by themselves, and kill those that do not.

    Only processes with the recorded start time are killed, because a pid may have been reused by another program.
    """
    started: Mapping[str, float] = state["started"]
    for pid in await_end({state[part]["pid"]: start for part, start in started.items() if part != "supervisor"}, STOP_SECONDS):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
