"""Starts the counting receiver and reads its counts. The program that it runs is `counting_program.py`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from userhooks.errors import DeliveriesMissing, NotRunning
from userhooks.shared import python_command

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Count:
    """Counts since the last reset.

    `first` and `last` are the times of the first and last request, in seconds since 1970. `open` and `most_open` are the current and the
    maximum number of connections.
    """

    requests: int
    messages: int
    first: float
    last: float
    open: int
    most_open: int


class CountingReceiver:
    """A process that counts POST requests and answers them with 200, on `ports` free ports of 127.0.0.1.

    Stop it with `close`, or use it as a context manager. It also exits when the process that created it exits.
    """

    def __init__(self, ports: int = 1) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a program of this package
            python_command.command("userhooks.capacity.counting_program", str(ports)),
            env=python_command.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # interrupting the kernel must not stop the receiver
        )
        self.ports: list[int] = self._answer()

    @property
    def pid(self) -> int:
        """Process ID of the receiver."""
        return self._process.pid

    def url(self, number: int) -> str:
        """Return a URL whose path ends with this number, such as a user ID. The number also selects the port."""
        return f"http://127.0.0.1:{self.ports[number % len(self.ports)]}/in/{number}"

    def count(self) -> Count:
        """Return the counts since the last reset."""
        return Count(**self._ask("count"))

    def reset(self, *, latencies: bool = False) -> None:
        """Restart counting from 0; if `latencies` is true, also record the latency of each request."""
        self._ask("reset latencies" if latencies else "reset")

    def latencies(self) -> list[tuple[int, float]]:
        """Return (number, seconds from commit to receipt) of every request since the last call or reset.

        For a batch, this is the latency of its first message.
        """
        recorded = self._ask("latencies")
        return list(zip(recorded["paths"], recorded["latencies"], strict=True))

    def wait_for(self, messages: int, timeout: float, progress: Callable[[int], object] = lambda _: None) -> Count:
        """Wait until this many messages have arrived; raises DeliveriesMissing after `timeout` seconds without a new one."""
        last_count, last_change = -1, time.monotonic()
        while (count := self.count()).messages < messages:
            progress(count.messages)
            now = time.monotonic()
            if count.messages > last_count:
                last_count, last_change = count.messages, now
            if now - last_change > timeout:
                problem = f"{count.messages:,} of {messages:,} messages have arrived, and none in the last {timeout:g} s."
                raise DeliveriesMissing(problem, "Check with `userhooks status` that Sequin is running and that the sinks are active.")
            time.sleep(_POLL_SECONDS)
        return count

    def close(self) -> None:
        """Stop the process. From then on, its methods raise NotRunning."""
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, command: str) -> Any:
        assert self._process.stdin is not None  # noqa: S101 - Popen was asked for a pipe
        if self._process.stdin.closed:
            raise NotRunning("The counting receiver was closed.", "Create it again, with capacity.LoadUsers(stack).")
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - Popen was asked for a pipe
        return json.loads(self._process.stdout.readline())
