"""Run the inspector in its own process, for tests and benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port
from tests.waiting import eventually

HOME_KEY = bytes(range(32))
TOKEN = "for-programs"


def with_token(request: httpx.Request) -> httpx.Request:
    """Add the token to API calls, but not to webhooks; for the `auth` of an httpx client."""
    if not request.url.path.startswith("/in/"):
        request.headers["Authorization"] = f"Bearer {TOKEN}"
    return request


class Program:
    """An inspector on a free port; it can be started again after `kill` with the same store."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "inspector.log"
        self.config = {
            "bind": "127.0.0.1",
            "port": self.port,
            "public_url": None,
            "store": str(folder / "inspector.db"),
            "home_key": HOME_KEY.hex(),
            "token": TOKEN,
            **changes,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "userhooks.inspector"], stdin=subprocess.PIPE, stderr=log)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.config).encode() + b"\n")
        self.process.stdin.flush()
        eventually(self._answers, what=f"the inspector answers; its log: {self.log.read_text()}")

    def stop(self) -> int:
        """Stop the inspector by closing its stdin, as when its supervisor dies, and return the exit code."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(10)
        finally:
            self.kill()

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[Program]:
    program = Program(folder, **changes)
    program.start()
    try:
        yield program
    finally:
        assert program.stop() == 0, program.log.read_text()
