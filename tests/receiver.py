"""A plain webhook receiver with real sockets, independent of this project's code."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.waiting import eventually


@dataclass(frozen=True)
class Received:
    """A request: its raw parts, the messages in its body, the number of its connection, and the status of the response."""

    line: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    messages: list[dict[str, Any]]
    connection: int
    status: int


Script = Callable[[str, list[dict[str, Any]]], int]


class _Server(ThreadingHTTPServer):
    """Server with one thread per connection; `peers` are the client addresses of the open connections."""

    daemon_threads = True
    request_queue_size = 512  # with the default of 5, a sender's many connections would be refused for a second

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.peers: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Record the peer; connections are processed here one at a time, in the order in which they are accepted."""
        self.peers.add(client_address)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.peers.discard(client_address)


class Receiver:
    """A webhook receiver on a free port.

    `script` returns the status for a path and messages, 200 by default; 0 closes the connection without a response. Responses wait until
    `gate` is set; `arrived` counts all requests, including those that are waiting.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.script: Script = lambda path, messages: 200
        self.arrived = 0
        self.gate = threading.Event()
        self.gate.set()
        outer = self
        connections = itertools.count(1)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.connection_number = next(connections)

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                text = gzip.decompress(raw) if self.headers["content-encoding"] == "gzip" else raw
                body = json.loads(text) if text else {"data": []}
                messages = body["data"] if isinstance(body, dict) and "data" in body else [body]
                outer.arrived += 1
                outer.gate.wait(30)
                status = outer.script(self.path, messages)
                headers = list(self.headers.items())
                outer.requests.append(Received(self.requestline, self.path, headers, raw, messages, self.connection_number, status))
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "5" if self.command == "HEAD" else "0")  # the length that a GET would have
                self.end_headers()

            do_GET = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = do_POST  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = _Server(Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def settle(self) -> None:
        """Wait until everything that a killed sender sent has been read and answered, and its connections are closed.

        Connections are accepted in order, so the one opened here comes after all of the sender's.
        """
        with socket.create_connection(self._server.server_address) as connection:
            own_peer = {connection.getsockname()}
            eventually(lambda: self._server.peers == own_peer, within=60, every=0.001, what="the killed sender's connections to be closed")

    def messages(self, path: str = "") -> list[dict[str, Any]]:
        """Return the messages of requests below a path that were answered with 2xx."""
        return [m for r in list(self.requests) if r.path.startswith(path) and 200 <= r.status < 300 for m in r.messages]

    def ids(self, path: str = "") -> list[int]:
        return [m["record"]["id"] for m in self.messages(path)]

    def wait_for(self, count: int, path: str = "", within: float = 15) -> list[dict[str, Any]]:
        eventually(
            lambda: len(self.messages(path)) >= count,
            within=within,
            what=f"{count} messages at {path or '/'}, now {len(self.messages(path))}",
        )
        return self.messages(path)
