"""A receiver that a notebook defines, served by a thread of the notebook's kernel.

The other receivers are the inspector's inboxes, in `inspector/`.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from userhooks.errors import ConfigurationError, DeliveriesMissing, InvalidInput
from userhooks.shared.extras import lab_extra

if TYPE_CHECKING:
    import pandas as pd

POLL = 0.02
"""Seconds between two checks while waiting, and the time that closing a server may take."""

ANYWHERE = "0.0.0.0"  # noqa: S104 - for comparison only
"""Address that listens on every network interface, but cannot be connected to."""

_AT_ONCE = 256
"""Connections that may wait to be accepted.

With socketserver's default of five, part of a burst would be retried only a second later.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. If the handler raised an exception, `status` is None and `error` describes it."""

    received_at: datetime
    status: int | None
    seconds: float
    error: str


class ReceiverServer:
    """A server for an `http.server.BaseHTTPRequestHandler` class, which handles each request in a separate thread until it is closed.

    Senders use `url`. Its host may be a name that only containers can resolve, so use `local_url` to call the server from this machine.
    Each request gets its own connection. A server that is being closed still answers the requests it has received. Nothing is printed:
    `answers` returns each answer, and each exception that the handler raised. If the handler raises an exception, no answer is sent.

    `bind` is the address to listen on, `host` the host name in the URL, and `port` 0 means a free port. Raises InvalidInput if `handler` is
    not a handler class, and ConfigurationError if the port is in use.

        server = ReceiverServer(Receiver)
        server.url
        server.answers()
        server.close()
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], *, bind: str = "127.0.0.1", host: str = "127.0.0.1", port: int = 0) -> None:
        _require_handler(handler)
        self._answers: list[Answer] = []
        quiet = type(handler.__name__, (_RecordingHandler, handler), {"answer_log": self._answers})
        try:
            self._server = _Server((bind, port), quiet)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            what = f"The receiver cannot listen on port {port}, because another program does."
            raise ConfigurationError(what, "Run the notebook again from its first cell, which picks a free port.") from None
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}/"
        self.local_url = f"http://{'127.0.0.1' if bind == ANYWHERE else bind}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL,), name="userhooks receiver", daemon=True)
        self._thread.start()

    def answers(self) -> pd.DataFrame:
        """Return the answers so far as a DataFrame with one row per request, in order.

        Columns: `received_at` (UTC), `status` (missing if the handler raised an exception), `seconds` from request to answer, and `error`.
        """
        with lab_extra():
            import pandas as pd

        answers = list(self._answers)
        columns = {
            "received_at": pd.Series([answer.received_at for answer in answers], dtype="datetime64[us, UTC]"),
            "status": pd.Series([answer.status for answer in answers], dtype="Int64"),
            "seconds": pd.Series([answer.seconds for answer in answers], dtype="float64"),
            "error": pd.Series([answer.error for answer in answers], dtype="str"),
        }
        return pd.DataFrame(columns)

    def wait_for(self, n: int, status: int = 200, timeout: float = 10.0) -> int:
        """Wait until at least `n` requests were answered `status`, and return their number. Raises DeliveriesMissing after `timeout`."""
        deadline = time.monotonic() + timeout
        while (count := sum(answer.status == status for answer in self._answers)) < n:
            if time.monotonic() >= deadline:
                raise DeliveriesMissing(f"{count} of {n} requests were answered {status} within {timeout:g} s.", self._outcomes())
            time.sleep(POLL)
        return count

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return "ReceiverServer()"

    def _outcomes(self) -> str:
        if not self._answers:
            return "No request arrived. Check that this server's url is subscribed, and that a row of that user was written."
        outcomes = Counter(answer.error or f"answered {answer.status}" for answer in list(self._answers))
        return f"Outcomes so far: {', '.join(f'{count} × {outcome}' for outcome, count in outcomes.items())}."


_served: dict[str, ReceiverServer] = {}


def serve(name: str, handler: type[BaseHTTPRequestHandler], *, bind: str = "127.0.0.1", host: str = "127.0.0.1") -> ReceiverServer:
    """Serve the handler under a name. If the name already has a server, replace it at the same URL.

    Raises the errors of `ReceiverServer`.
    """
    _require_handler(handler)
    port = 0
    if name in _served:
        port = _served[name].port
        _served[name].close()
    _served[name] = ReceiverServer(handler, bind=bind, host=host, port=port)
    return _served[name]


def leave(name: str) -> None:
    """Close the server of that name, if there is one. The next one gets a new URL."""
    if name in _served:
        _served.pop(name).close()


def _require_handler(handler: object) -> None:
    if not (isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler)):
        raise InvalidInput("handler", f"{handler!r} is not a handler class.", "Pass a subclass of http.server.BaseHTTPRequestHandler.")


class _Server(socketserver.ThreadingTCPServer):
    """A threading TCP server. Unlike those of http.server, it does not look up the machine's name before it listens."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _AT_ONCE

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Also close connections that senders opened in advance, without a request yet. Requests already received are still answered."""
        super().server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors. The handler's errors are already recorded, and others mean that the sender disconnected before the answer."""


class _RecordingHandler(BaseHTTPRequestHandler):
    """A mixin that precedes the notebook's handler class. It records each answer and prints nothing."""

    answer_log: list[Answer]
    _started = 0.0
    _answered = False

    def parse_request(self) -> bool:
        self._started = time.monotonic()
        return super().parse_request()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except Exception as error:
            self.close_connection = True
            if not (self._answered and isinstance(error, ConnectionError)):  # the sender disconnected during the answer
                self._record(None, f"{type(error).__name__}: {error}")

    def send_response(self, code: int, message: str | None = None) -> None:
        self._answered = self.close_connection = True
        self._record(code, "")
        super().send_response(code, message)
        self.send_header("Connection", "close")

    def log_message(self, *_: Any) -> None:
        pass

    def _record(self, status: int | None, error: str) -> None:
        self.answer_log.append(Answer(datetime.now(UTC), status, time.monotonic() - self._started, error))
