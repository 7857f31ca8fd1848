"""Forward the requests of an inbox to a web server on this machine, as `userhooks listen` does.

The forwarding process reads the inbox through the inspector's API. It sends each request once, in order of arrival, and waits for the
answer before sending the next one. Senders get the inbox's answer, whatever the local server answers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

from userhooks.errors import InvalidInput, NotRunning
from userhooks.inspector.client import Inbox, Received
from userhooks.inspector.request_store import NOT_KEPT
from userhooks.inspector.send_again import request_head

ANSWER_SECONDS = 30.0
"""Seconds to wait for the local server's answer."""

_POLL = 0.1
_READ_BYTES = 1 << 20
_EXAMPLE = "Use a URL like http://localhost:3000/hooks"


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """A URL on this machine to forward to: its `Host` header, its loopback addresses, and its path and query."""

    url: str
    host: str
    addresses: tuple[tuple[str, int], ...]
    path: str
    query: str

    def path_for(self, received: Received) -> str:
        """Return the path and query to request: the target's, with the path and query that follow the inbox's URL appended."""
        suffix = "".join(f"/{part}" for part in received.path.split("/", 3)[3:])
        path = self.path.rstrip("/") + suffix if suffix else self.path
        query = "&".join(filter(None, [self.query, received.query]))
        return f"{path}?{query}" if query else path


def parse_target(url: str) -> LocalTarget:
    """Return the target that a URL names. Raises InvalidInput unless it is an `http://` URL of this machine's loopback interface."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise InvalidInput("forward_to", f"{url!r} has no valid host and port.", f"{_EXAMPLE}.") from None
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidInput("forward_to", f"{url!r} is not an http:// URL.", f"{_EXAMPLE}.")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("forward_to", f"{url!r} contains a user name or password.", "They would not be sent. Remove them.")
    if not (url.isascii() and url.isprintable() and " " not in url):
        raise InvalidInput("forward_to", f"{url!r} contains spaces or characters outside ASCII.", "Percent-encode them.")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput("forward_to", f"The host {parts.hostname!r} is not known: {error.strerror}.", f"{_EXAMPLE}.") from None
    addresses = tuple(dict.fromkeys((str(address[0]), port) for *_, address in found))
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address, _ in addresses):
        remedy = "Requests contain secrets, so they are forwarded only to localhost, 127.0.0.1, or [::1]."
        raise InvalidInput("forward_to", f"{parts.hostname!r} is not on this machine's loopback interface.", remedy)
    return LocalTarget(url, parts.netloc, addresses, parts.path or "/", parts.query)


def forward(inbox: Inbox, target: LocalTarget, say: Callable[[str], object]) -> None:
    """Forward every request that arrives from now on, until interrupted. `say` gets the lines to print, and a summary at the end.

    Raises InvalidInput if the target is the inbox itself, and NotFound if the inbox no longer exists.
    """
    own = urlsplit(inbox.page)
    if own.port in {port for _, port in target.addresses} and target.path.split("/")[1:3] == ["in", inbox.id]:
        raise InvalidInput(
            "forward_to", "This URL is the inbox itself.", "Each request would be forwarded again without end. Use another URL."
        )
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    try:
        for received in _arriving(inbox, say):
            size = f"{len(received.body):,} byte{'' if len(received.body) == 1 else 's'}"
            say(f"{_now()}  --> {received.method} {_printable(target.path_for(received))}, {size}")
            if received.note in NOT_KEPT:
                outcome, words = "not forwarded", f"not forwarded: {received.note}"
            else:
                began = time.monotonic()
                outcome = send_once(received, target)
                words = f"{outcome}, {(time.monotonic() - began) * 1000:,.0f} ms"
            outcomes[outcome] += 1
            say(f"{_now()}  <-- {words}")
    finally:
        total = sum(outcomes.values())
        details = ", ".join(f"{count:,} {_past(outcome)}" for outcome, count in outcomes.most_common())
        seconds = time.monotonic() - started
        say(f"Forwarded {total:,} request{'' if total == 1 else 's'} in {seconds:,.0f} s{': ' if details else ''}{details}.")


def _past(outcome: str) -> str:
    return f"answered {outcome}" if outcome.isdigit() else outcome


def _arriving(inbox: Inbox, say: Callable[[str], object]) -> Iterator[Received]:
    """Yield the requests that arrive from now on. While the inspector does not answer, wait until it does."""
    last = inbox.last_seq()
    is_reachable = True
    while True:
        before = last
        try:
            for received in inbox.received(after=last):
                last = received.seq
                yield received
            if not is_reachable:
                say(f"{_now()}  The inspector answers again.")
            is_reachable = True
        except NotRunning:
            if is_reachable:
                say(f"{_now()}  The inspector does not answer. Waiting until it does.")
            is_reachable = False
        if last == before:
            time.sleep(_POLL)


def send_once(received: Received, target: LocalTarget) -> str:
    """Send a request to the target, and return the status of the answer (`200`) or why there is none (`connection refused`)."""
    try:
        with _connected(target) as connection:
            connection.settimeout(ANSWER_SECONDS)
            head = request_head(received.method, target.path_for(received), received.headers, target.host, len(received.body))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a server may answer before it has read the whole body
                connection.sendall(head + received.body)
            with contextlib.closing(HTTPResponse(connection, method=received.method)) as response:
                response.begin()
                deadline = time.monotonic() + ANSWER_SECONDS
                read = 0
                while read < _READ_BYTES and time.monotonic() < deadline and (part := response.read1(1 << 16)):
                    read += len(part)
                return str(response.status)
    except ConnectionRefusedError:
        return "connection refused"
    except TimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    except ConnectionError:
        return "connection closed without an answer"
    except HTTPException:
        return "an answer that is not HTTP"
    except OSError as error:
        return f"not sent ({error.strerror or error})"


def _connected(target: LocalTarget) -> socket.socket:
    """Connect to the first of the target's addresses that accepts. Raises OSError."""
    refusal: OSError = ConnectionRefusedError()
    for address in target.addresses:
        try:
            return socket.create_connection(address, timeout=ANSWER_SECONDS)
        except OSError as error:
            refusal = error
    raise refusal


def _now() -> str:
    now = time.time()
    return f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now * 1000) % 1000:03}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
