"""The inspector knows which parts of the stack answer, and leads to the console."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx

from tests.inspector.program import running, with_token
from tests.ports import free_port


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def healthy_part() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_alone_the_inspector_shows_only_itself(http: httpx.Client) -> None:
    assert http.get("/api/stack").json() == {"parts": [{"name": "inspector", "state": "running"}], "console": False}
    console = http.get("/console")
    assert (console.status_code, console.json()["error"]) == (404, "There is no console. Start the whole stack with userhooks up.")


def test_parts_that_answer_and_parts_that_do_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, healthy_part() as port:
        parts = {
            "postgres": f"postgres://127.0.0.1:{silent.getsockname()[1]}",
            "sequin": f"http://127.0.0.1:{port}",
            "server": f"http://127.0.0.1:{free_port()}",
        }
        with running(tmp_path, parts=parts) as program, httpx.Client(base_url=program.url, auth=with_token, trust_env=False) as http:
            states = http.get("/api/stack").json()["parts"]
            assert [tuple(part.values()) for part in states] == [
                ("postgres", "down"), ("sequin", "running"), ("server", "down"), ("inspector", "running"),
            ]  # fmt: skip


def test_the_console_is_reached_with_a_link_that_holds_no_token(tmp_path: Path) -> None:
    console = {"url": "http://127.0.0.1:7376/", "token": "for-the-console"}
    with running(tmp_path, console=console) as program, httpx.Client(base_url=program.url, trust_env=False) as http:
        assert http.get("/console").status_code == 401
        answer = http.get("/console", auth=with_token)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("http://127.0.0.1:7376/?token=")
        assert "for-the-console" not in answer.headers["location"]


def test_a_separate_sequin_has_its_own_login(tmp_path: Path) -> None:
    console = {"url": "http://127.0.0.1:7376/", "token": None}
    with running(tmp_path, console=console) as program, httpx.Client(base_url=program.url, auth=with_token, trust_env=False) as http:
        assert http.get("/console").headers["location"] == "http://127.0.0.1:7376/"
