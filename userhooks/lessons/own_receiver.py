"""A reader's own receiver, served from a thread of the notebook that defines it; what it does with a webhook is the reader's code.

The inspector's inboxes are receivers of their own, in `inspector/`.
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
"""Seconds between two looks while waiting, and how soon a server that is closed has ended."""

ANYWHERE = "0.0.0.0"  # noqa: S104 - compared with, not listened on
"""The address that listens on every network of the machine and is itself no place to connect to."""

_AT_ONCE = 256
"""Connections that may wait to be accepted; with the five of socketserver, a sender's burst would be tried again only a second later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request was answered: `status` is None when the reader's code raised, and `error` then says what."""

    received_at: datetime
    status: int | None
    seconds: float
    error: str


class ReceiverServer:
    """Serve a `http.server.BaseHTTPRequestHandler` class at `url`, one thread for each request, until it is closed.

    `url` is for the sender. A container may know this machine by a name that the machine itself does not know: call `local_url` from here.

    Each request has a connection of its own, and a server that is closed answers what has come, and nothing more. Nothing is ever printed:
    `answers` says what was answered and what the handler raised. A handler that raises sends no answer.

    `bind` is the address listened on, `host` what the URL begins with, `port` 0 a free one. Raises InvalidInput for anything but a handler
    class, ConfigurationError when the port is taken.

        server = ReceiverServer(Receiver)
        server.url
        server.answers()
        server.close()
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], *, bind: str = "127.0.0.1", host: str = "127.0.0.1", port: int = 0) -> None:
        _require_handler(handler)
        self._answers: list[Answer] = []
        quiet = type(handler.__name__, (_Noted, handler), {"noted": self._answers})
        try:
            self._server = _Server((bind, port), quiet)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            what = f"Another program listens on port {port}, where the receiver should be."
            raise ConfigurationError(what, "Run the notebook again from its first cell: it then takes a free port.") from None
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}/"
        self.local_url = f"http://{'127.0.0.1' if bind == ANYWHERE else bind}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL,), name="userhooks receiver", daemon=True)
        self._thread.start()

    def answers(self) -> pd.DataFrame:
        """Every request answered so far, in that order.

        Columns: `received_at` (UTC), `status` (missing when the handler raised), `seconds` from the request to the answer, `error`.
        """
        with lab_extra():
            import pandas as pd

        rows = list(self._answers)
        columns = {
            "received_at": pd.Series([one.received_at for one in rows], dtype="datetime64[us, UTC]"),
            "status": pd.Series([one.status for one in rows], dtype="Int64"),
            "seconds": pd.Series([one.seconds for one in rows], dtype="float64"),
            "error": pd.Series([one.error for one in rows], dtype="str"),
        }
        return pd.DataFrame(columns)

    def wait_for(self, n: int, status: int = 200, timeout: float = 10.0) -> int:
        """Return how many requests were answered `status` once these are at least `n`; raises DeliveriesMissing after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (found := sum(one.status == status for one in self._answers)) < n:
            if time.monotonic() >= deadline:
                raise DeliveriesMissing(f"{found} of {n} requests were answered {status} within {timeout:g} s.", self._what_came_instead())
            time.sleep(POLL)
        return found

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return "ReceiverServer()"

    def _what_came_instead(self) -> str:
        if not self._answers:
            return "No request came at all: is this server's url subscribed, and was a row of that user written?"
        said = Counter(one.error or f"answered {one.status}" for one in list(self._answers))
        return f"What came: {', '.join(f'{count} × {what}' for what, count in said.items())}."


_served: dict[str, ReceiverServer] = {}


def serve(place: str, handler: type[BaseHTTPRequestHandler], *, bind: str = "127.0.0.1", host: str = "127.0.0.1") -> ReceiverServer:
    """Serve the handler at `place`; what is served there is closed, and the new one has its URL. Raises as `ReceiverServer` does."""
    _require_handler(handler)
    port = 0
    if place in _served:
        port = _served[place].port
        _served[place].close()
    _served[place] = ReceiverServer(handler, bind=bind, host=host, port=port)
    return _served[place]


def leave(place: str) -> None:
    """Close what is served at `place`, if anything is; the next one there has a new URL."""
    if place in _served:
        _served.pop(place).close()


def _require_handler(handler: object) -> None:
    if not (isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler)):
        raise InvalidInput("handler", f"The receiver is {handler!r}.", "Give a class made from http.server.BaseHTTPRequestHandler.")


class _Server(socketserver.ThreadingTCPServer):
    """http.server's own servers ask a name server for the machine's name before they listen."""

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
        """Besides, end the connections on which no request has come yet: senders open some ahead. What came already is still answered."""
        super().server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What the handler raised is noted; what is left is a sender that went away before its answer."""


class _Noted(BaseHTTPRequestHandler):
    """What stands before the reader's class: notes each answer, and keeps quiet."""

    noted: list[Answer]
    _began = 0.0
    _answered = False

    def parse_request(self) -> bool:
        self._began = time.monotonic()
        return super().parse_request()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except Exception as error:
            self.close_connection = True
            if not (self._answered and isinstance(error, ConnectionError)):  # a sender that went away during the answer
                self._note(None, f"{type(error).__name__}: {error}")

    def send_response(self, code: int, message: str | None = None) -> None:
        self._answered = self.close_connection = True
        self._note(code, "")
        super().send_response(code, message)
        self.send_header("Connection", "close")

    def log_message(self, *_: Any) -> None:
        pass

    def _note(self, status: int | None, error: str) -> None:
        self.noted.append(Answer(datetime.now(UTC), status, time.monotonic() - self._began, error))
