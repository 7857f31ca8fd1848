"""Send a test event to a receiver, in one HTTP request with a time limit.

Webhooks themselves are sent by Sequin. `subscriptions.py` decides which receiver is called, and `web/addresses.py` which addresses are
allowed.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from userhooks import __version__
from userhooks.web.addresses import forbidden

TEST_HEADER = "userhooks-test-event"
"""Header that only test events have. Its value is the id that the body contains as well."""

TEST_EVENT_SECONDS = 10.0
"""Default limit for the whole call. Sequin itself waits 30 seconds, but nobody wants to watch a button for so long."""

BODY_BYTES = 1000
"""Number of bytes to read of the answer's body."""


@dataclass(frozen=True, slots=True)
class ReceiverAnswer:
    """A receiver's answer to one request.

    `status` is None if there was none, and then `problem` is a sentence that says why. `latency_ms` is the time from the start of the call
    to the answer's headers, or to the failure. `body` contains at most BODY_BYTES.
    """

    status: int | None
    latency_ms: float
    body: bytes = b""
    problem: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the answer was 2xx. A webhook that is answered in any other way is sent again."""
        return self.status is not None and 200 <= self.status < 300


def send_test_event(
    url: str, secret: str, *, sink_name: str, user_id: int, allow_private: bool, timeout: float = TEST_EVENT_SECONDS
) -> ReceiverAnswer:
    """Send a test event to `url`, and return the answer; the call ends after `timeout` seconds.

    The body is a batch without messages, `{"data": [], "test_event": {…}}`, so no receiver can take it for a row. The Authorization header
    is that of the subscription's webhooks. Redirects are not followed, and proxies in the environment are not used. The request is not sent
    if the host has a forbidden address.
    """
    ident = str(uuid.uuid4())
    event = {
        "id": ident,
        "sink": sink_name,
        "user_id": user_id,
        "sent_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "text": "This is a test event from userhooks. It contains no rows.",
    }
    headers = {
        "Accept": "application/json",
        "Authorization": f"Bearer {secret}",
        "Content-Type": "application/json",
        "User-Agent": f"userhooks/{__version__}",
        TEST_HEADER: ident,
    }
    call = _Call(url, headers, json.dumps({"data": [], "test_event": event}).encode(), allow_private=allow_private)
    return call.answer_within(timeout)


class _NotCalled(Exception):
    """The receiver must not or cannot be called; the message is a sentence for the user."""


class _Call:
    """One POST, made by a thread that is abandoned at the time limit: neither a lookup nor a slow answer can be interrupted otherwise."""

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes, *, allow_private: bool) -> None:
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Host": parts.netloc, **headers}
        self._body = body
        self._allow_private = allow_private
        self._answer: ReceiverAnswer | None = None
        self._socket: socket.socket | None = None
        self._deadline = 0.0
        self._started = 0.0

    def answer_within(self, timeout: float) -> ReceiverAnswer:
        """Make the call, and return the answer."""
        self._started = time.monotonic()
        self._deadline = self._started + timeout
        thread = threading.Thread(target=self._run, name="userhooks test event", daemon=True)
        thread.start()
        try:
            thread.join(timeout)
            return self._answer or self._failed(f"The receiver did not answer completely within {timeout:g} s.")
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        """End the connection that the thread may still be reading from. SSLSocket.shutdown is meant for the thread itself."""
        if self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _failed(self, problem: str) -> ReceiverAnswer:
        return ReceiverAnswer(None, self._milliseconds(), problem=problem)

    def _milliseconds(self) -> float:
        return (time.monotonic() - self._started) * 1000

    def _run(self) -> None:
        try:
            with self._connect(self._addresses()) as self._socket:
                self._answer = self._exchange(self._socket)
        except TimeoutError:
            pass  # The caller reports it.
        except (_NotCalled, OSError, http.client.HTTPException) as error:
            self._answer = self._failed(_sentence(error))

    def _addresses(self) -> list[str]:
        """Look up the host, and check all its addresses. The call uses these, so that a second lookup cannot lead elsewhere."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise _NotCalled(f"The host name {self._host} does not resolve.") from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if any(forbidden(address, allow_private=self._allow_private) for address in addresses):
            raise _NotCalled("The webhook URL points to a forbidden address, so nothing was sent.")
        return addresses

    def _connect(self, addresses: list[str]) -> socket.socket:
        last: OSError = OSError("no address")
        for address in addresses:
            try:
                connection = socket.create_connection((address, self._port), timeout=self._remaining())
            except OSError as error:
                last = error
            else:
                return self._secured(connection) if self._tls else connection
        raise last

    def _secured(self, connection: socket.socket) -> socket.socket:
        context = ssl.create_default_context()
        secured = self._socket = context.wrap_socket(connection, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured

    def _exchange(self, connection: socket.socket) -> ReceiverAnswer:
        connection.settimeout(self._remaining())
        client = http.client.HTTPConnection(self._host, self._port)
        client.sock = connection
        client.request("POST", self._target, body=self._body, headers=self._headers)
        with client.getresponse() as response:
            latency = self._milliseconds()
            body = response.read(BODY_BYTES)
            if response.length and len(body) < BODY_BYTES:
                raise http.client.IncompleteRead(body)
            return ReceiverAnswer(response.status, latency, body)

    def _remaining(self) -> float:
        return max(0.001, self._deadline - time.monotonic())


def _sentence(error: Exception) -> str:
    match error:
        case _NotCalled():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"The receiver's TLS certificate cannot be verified: {error.verify_message}."
        case ssl.SSLError():
            return "The TLS handshake with the receiver failed."
        case ConnectionRefusedError():
            return "The connection was refused. No server listens at this address."
        case ConnectionError() | http.client.IncompleteRead():
            return "The receiver closed the connection before its answer was complete."
        case http.client.HTTPException():
            return "The receiver's answer is not valid HTTP."
        case _:
            return "The receiver cannot be reached."
