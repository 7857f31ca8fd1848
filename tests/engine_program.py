"""The engine as tests run it: the real program in a separate process, and a client for its Management API."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
RETRY_BASE = 0.05
"""Seconds before the first retry in tests; every further wait is twice as long."""

FILTER = """\
def filter(_action, record, changes, metadata) do
  wanted = metadata.consumer.annotations["user_id"]
  not is_nil(wanted) and is_nil(changes["user_id"]) and to_string(record["user_id"]) == to_string(wanted)
end"""


class EngineProgram:
    """An engine on `database_url` with its state in `folder`; `start` may be called again after `kill` or `stop`."""

    def __init__(self, database_url: str, folder: Path, *, publication: str, slot: str | None = None, **config: Any) -> None:
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "engine.log"
        self.config = {
            "port": self.port,
            "metrics_port": free_port(),
            "api_token": self.token,
            "database_url": database_url,
            "store": str(folder / "engine.db"),
            "slot": slot or f"test_{secrets.token_hex(4)}",
            "publication": publication,
            "allow_private": True,
            "retry_base": RETRY_BASE,
            **config,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.http = self._client()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, module: tuple[str, ...] = ("-m", "userhooks.engine")) -> EngineProgram:
        """Start the program and wait until its API answers."""
        if self.http.is_closed:
            self.http = self._client()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *module],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self.config).encode() + b"\n")
        self._process.stdin.flush()
        eventually(self._answers, within=20, what=f"the engine to answer; its log: {self.log.read_text()}")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()

    def stop(self) -> None:
        """Stop the engine as the supervisor does, by closing its stdin."""
        self.http.close()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"The engine did not exit; its log: {self.log.read_text()}") from None

    # --- the API -------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Call the Management API and return the JSON response; raises AssertionError with its text unless the status is 2xx."""
        response = self.http.request(method, path, json=body)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        result: dict[str, Any] = response.json()
        return result

    def endpoint(self, name: str, url: str, **fields: Any) -> None:
        self.ask("POST", "/api/destinations/http_endpoints", {"name": name, "url": url, **fields})

    def sink(self, name: str, url: str, **fields: Any) -> dict[str, Any]:
        """Create an endpoint, and a sink with the same name on public.notifications."""
        self.endpoint(name, url)
        destination = {"type": "webhook", "http_endpoint": name, **fields.pop("destination", {})}
        source = {"include_tables": ["public.notifications"]}
        return self.ask(
            "POST", "/api/sinks", {"name": name, "database": "postgres", "source": source, "destination": destination, **fields}
        )

    def user_sink(self, user_id: int, url: str, **fields: Any) -> dict[str, Any]:
        """Create a sink for one user's rows, as the toolkit does."""
        yaml = "functions:\n  - name: rows-of-user\n    type: filter\n    code: |-\n" + "".join(
            f"      {line}\n" for line in FILTER.splitlines()
        )
        self.ask("POST", "/api/config/apply", {"yaml": yaml})
        return self.sink(f"user-{user_id}", url, filter="rows-of-user", annotations={"user_id": str(user_id)}, **fields)
