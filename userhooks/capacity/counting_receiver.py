"""The counting receiver as an object: its process, its addresses, what it has counted. The program itself is `counting_program.py`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from userhooks.errors import DeliveriesMissing
from userhooks.shared import python_command

_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Count:
    """Requests and messages since the reset, times of the first and the last (seconds since 1970), connections open now, and at most."""

    requests: int
    messages: int
    first: float
    last: float
    open: int
    most_open: int


class CountingReceiver:
    """A process that counts POSTs and answers each with 200, on `ports` free ports of 127.0.0.1.

    End it with `close`, or use it as a context manager. It exits when the process that created it is gone.
    """

    def __init__(self, ports: int = 1) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            python_command.command("userhooks.capacity.counting_program", str(ports)),
            env=python_command.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a kernel's interrupt is for the cell
        )
        self.ports: list[int] = self._answer()

    @property
    def pid(self) -> int:
        """The receiver's process."""
        return self._process.pid

    def url(self, number: int) -> str:
        """The address for the webhooks that `number` stands for: a path of its own, and the ports in turn."""
        return f"http://127.0.0.1:{self.ports[number % len(self.ports)]}/in/{number}"

    def count(self) -> Count:
        """What has come since the last reset."""
        return Count(**self._ask("count"))

    def reset(self, *, latencies: bool = False) -> None:
        """Count from 0 again, and keep the latency of each request if wanted."""
        self._ask("reset latencies" if latencies else "reset")

    def latencies(self) -> list[tuple[int, float]]:
        """(number, seconds from commit to receipt) of every request since the last such call or reset; of a batch that of its first."""
        kept = self._ask("latencies")
        return list(zip(kept["paths"], kept["latencies"], strict=True))

    def wait_for(self, messages: int, timeout: float, progress: Callable[[int], object] = lambda _: None) -> Count:
        """Return once so many messages have come; raises DeliveriesMissing after `timeout` seconds without any."""
        seen, since = -1, time.monotonic()
        while (count := self.count()).messages < messages:
            progress(count.messages)
            now = time.monotonic()
            if count.messages > seen:
                seen, since = count.messages, now
            if now - since > timeout:
                what = f"{count.messages:,} of {messages:,} messages have come, and none in the last {timeout:g} s."
                raise DeliveriesMissing(what, "Is Sequin running, and are the sinks active? Look with userhooks status.")
            time.sleep(_LOOK_SECONDS)
        return count

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, command: str) -> Any:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        return json.loads(self._process.stdout.readline())
