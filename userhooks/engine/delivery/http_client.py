"""The HTTP client that delivers webhooks to receivers that may be slow, broken, or hostile.

`sink_delivery.py` decides what to send, and handles the outcome. The client

- follows no redirects, ignores proxy variables, verifies TLS, and never decompresses;
- reads at most `MAX_ANSWER` bytes of a response;
- applies one deadline to everything from the first byte of the request to the last byte of the response;
- connects only to addresses that `userhooks.web.addresses` allows, checked after name resolution for each new connection.

A connection carries one request at a time and is reused. The client repeats a request, at most once, only if a reused connection closes
before the first byte of the response. In this case the receiver closed an idle connection while the request was on its way (RFC 9110,
9.2.2, and RFC 9112, 9.3.1).

This module is long because connection, origin, and client call each other for every request.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

import httptools

from userhooks.engine.delivery.dns import Lookups
from userhooks.engine.delivery.retry import retry_after_seconds
from userhooks.web.addresses import forbidden

MAX_ANSWER = 64 * 1024
"""Maximum number of bytes to read of a response, including interim responses, head, and chunk framing.

The connection of a longer response is closed. Its status still counts if more than half of the bytes read belong to its body; otherwise,
the request fails.
"""
USUAL_BYTES = 1024
"""Size in bytes below which a complete 200 response is remembered, and not parsed when an identical one arrives.

This saves 3 of the 27 µs that a request takes.
"""
IDLE_SECONDS = 4.0
"""Seconds after which an idle connection is closed.

Common receivers (uvicorn, Node) close theirs after 5 s; closing first avoids sending a request on a connection that is being closed.
"""
CONNECT_SECONDS = 10.0
CONNECTIONS_PER_ORIGIN = 100
SLOW_SECONDS = 1.0
PROBATION_SHARE = 4
"""Senders on probation may use one in this many connections, in total and per origin, so that hanging receivers do not slow down others."""
_MOST_CONNECTIONS = 8192
_IDLE_SEARCH_SECONDS = 0.05
_OTHER_FILES = 256
"""Open files reserved for the rest of the program."""
_CLOSED = "the connection was closed before the response was complete"
_TOO_LATE = "no complete response within the time limit"

OriginKey = tuple[str, str, int]
"""(scheme, host, port); all sinks that send to an origin share its connections."""


class Delivery(Protocol):
    """A request in flight; `answered` is called exactly once."""

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        """Handle the outcome: an HTTP status, or None and an error that may be shown to the subscriber."""

    def slow(self) -> None:
        """Called when there is no response after `SLOW_SECONDS`."""

    def may_repeat(self) -> bool:
        """Return whether the request may be repeated after its reused connection closed before the first byte of the response."""


class Sender(Protocol):
    """A source of requests for an origin, which takes turns with other senders.

    A sender is on probation if its receiver fails, is slow, or is unknown.
    """

    @property
    def on_probation(self) -> bool:
        """Whether the sender is limited to the connections reserved for probation."""

    def next_request(self) -> tuple[bytes, Delivery] | None:
        """Return the bytes of the next request and its delivery, or None if there is nothing to send now."""

    def has_more(self) -> bool:
        """Return whether there is another request to send now."""


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection to an origin."""

    __slots__ = (
        "_bodiless",
        "_body_size",
        "_complete",
        "_delivery",
        "_framed",
        "_parser",
        "_read",
        "_repeatable",
        "_retry_after",
        "_reusable",
        "_reused",
        "_status",
        "_transport",
        "deadline",
        "idle_since",
        "on_probation",
        "origin",
    )

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.deadline = 0.0
        self.idle_since = 0.0
        self.on_probation = False
        self._transport: Any = None
        self._bodiless = False
        self._delivery: Delivery | None = None
        self._reused = False
        self._repeatable: bytes | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._prepare()

    def _prepare(self) -> None:
        self._read = 0
        self._body_size = 0
        self._complete = False
        self._reusable = False
        self._prepare_head()

    def _prepare_head(self) -> None:
        self._status: int | None = None
        self._framed = False
        self._retry_after: float | None = None

    # --- asyncio -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._delivery is None:
            self.close()  # data without a request: this receiver's next response could not be trusted
            return
        is_first = not self._read
        if is_first and data == self.origin.usual_answer:
            self._finish(200)
            return
        end = min(len(data), MAX_ANSWER - self._read)
        self._read += end
        is_followed = end < len(data)
        try:
            self._parser.feed_data(data[: end - 1])
            if self._complete:
                is_followed = True
            else:
                self._parser.feed_data(data[end - 1 : end])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._complete:
                self._fail("the response is not HTTP/1.1")
                return
            is_followed = True  # bytes after a complete response do not change it
        if self._complete:
            if is_followed or not self._reusable:
                self.close()  # extra bytes must not be taken for the response to another sink's request
            elif is_first and self._status == 200 and len(data) < USUAL_BYTES:
                self.origin.usual_answer = data
            self._finish(self._status)
        elif self._read == MAX_ANSWER:
            self._too_long()

    def _too_long(self) -> None:
        if 2 * self._body_size > MAX_ANSWER:
            self.close()
            self._finish(self._status)
        else:
            self._fail(f"the response is longer than {MAX_ANSWER} bytes, most of which are not its body")

    def connection_lost(self, exc: Exception | None) -> None:
        delivery, request = self._delivery, self._repeatable
        if delivery is not None and request is not None and not self._read and delivery.may_repeat():
            self._delivery = None
            self.origin.send_again(self, request, delivery)
            return
        self.origin.lost(self)
        if delivery is None:
            return
        if exc is None and self._status is not None and self._status >= 200 and not self._framed:
            self._finish(self._status)  # a response without a length ends with the connection (RFC 9112, 6.3)
        else:
            self._fail(_CLOSED)

    # --- httptools -----------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status is not None:
            return  # a trailer
        size = len(name)
        if size == 14:
            self._framed = self._framed or name.lower() == b"content-length"
        elif size == 17 and name.lower() == b"transfer-encoding":
            self._framed = value.rpartition(b",")[2].strip().lower() == b"chunked"
        elif size == 11 and name.lower() == b"retry-after":
            self._retry_after = retry_after_seconds(value, time.time())

    def on_headers_complete(self) -> None:
        if not self._complete:
            self._status = self._parser.get_status_code()
            if self._bodiless and self._status >= 200:
                self._complete = True  # regardless of its content-length; the connection is closed, since the parser still expects a body

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._body_size += len(body)

    def on_message_complete(self) -> None:
        if self._complete:
            return
        if self._status is not None and self._status < 200 and self._status != 101:
            self._prepare_head()  # an interim response; the final one follows
            return
        self._complete = True
        self._reusable = self._status != 101 and self._parser.should_keep_alive()

    # --- requests ------------------------------------------------------------------------------------------------------

    def send(self, request: bytes, delivery: Delivery, deadline: float) -> None:
        """Send a request; `delivery` gets the outcome by `deadline` (loop time) at the latest."""
        if self._read:
            self._prepare()
        self._bodiless = request.startswith(b"HEAD ")
        self._delivery = delivery
        self._repeatable = request if self._reused else None
        self._reused = True
        self.deadline = deadline
        self._transport.write(request)

    def expire(self) -> None:
        """Fail the request because its deadline has passed."""
        self._fail(_TOO_LATE)

    def slow(self) -> None:
        """Put the connection on probation because there is no response yet."""
        self.origin.put_on_probation(self, True)
        if self._delivery is not None:
            self._delivery.slow()

    def close(self) -> None:
        """Close at once; an unfinished request fails through `connection_lost`."""
        self._repeatable = None
        self.origin.lost(self)
        self._transport.abort()

    def _finish(self, status: int | None) -> None:
        delivery, self._delivery = self._delivery, None
        self._repeatable = None
        retry_after = self._retry_after
        if self.on_probation:
            self.origin.put_on_probation(self, False)
        self.origin.finished(self)
        if delivery is not None:
            delivery.answered(status, "", retry_after)
        self.origin.pump()

    def _fail(self, error: str) -> None:
        delivery, self._delivery = self._delivery, None
        self.close()
        if delivery is not None:
            delivery.answered(None, error, None)
        self.origin.pump()


class Origin:
    """The connections to one (scheme, host, port), and the senders that take turns using them."""

    def __init__(self, key: OriginKey, client: HttpClient) -> None:
        self.key = key
        self.usual_answer: bytes | None = None
        self._client = client
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting = 0
        self._on_probation = 0
        self._turns: deque[Sender] = deque()
        self._waiting: set[int] = set()
        self._pumping = False

    def offer(self, sender: Sender) -> None:
        """Queue a sender, unless it is queued already. Queued senders take turns as connections become free."""
        if id(sender) not in self._waiting:
            self._waiting.add(id(sender))
            self._turns.append(sender)
            self.pump()

    def withdraw(self, sender: Sender) -> None:
        """Remove a sender, because its requests go to another origin from now on."""
        self._client.stop_deferring(sender)
        if id(sender) in self._waiting:
            self._waiting.discard(id(sender))
            self._turns.remove(sender)

    def pump(self) -> None:
        """Give free connections to the senders in turn, and open more connections if needed."""
        turns, idle = self._turns, self._idle
        if self._pumping or not turns:
            return
        if not idle:
            self._connect_more()
            return
        self._pumping = True
        try:
            deadline = self._client.loop.time() + self._client.timeout
            while turns:
                if not idle:
                    self._connect_more()
                    return
                sender = turns[0]
                on_probation = sender.on_probation
                if on_probation and not self._client.has_room_for_on_probation(self._on_probation):
                    self._client.defer(self, sender)
                    self._end_turn(sender)
                    continue
                request = sender.next_request()
                if request is not None:
                    connection = idle.pop()
                    if on_probation:
                        self.put_on_probation(connection, True)
                    connection.send(request[0], request[1], deadline)
                    if sender.has_more():
                        turns.rotate(-1)
                        continue
                self._end_turn(sender)
        finally:
            self._pumping = False

    def _end_turn(self, sender: Sender) -> None:
        self._turns.popleft()
        self._waiting.discard(id(sender))

    def _connect_more(self) -> None:
        """Open more connections, at most doubling them: a fast receiver needs few, and a distant one gets many within a few round trips.

        Connections on probation do not count toward the origin's limit, so that they cannot use it up.
        """
        opened = len(self._open)
        room = CONNECTIONS_PER_ORIGIN + self._on_probation - opened - self._connecting
        if room <= 0:
            return  # the usual case when a thousand sinks share one receiver
        count = min(max(1, opened) - self._connecting, len(self._turns) + 1, room)
        for _ in range(count):
            if not self._client.take_place(self):
                return
            self._connecting += 1
            self._client.spawn(self._connect())

    async def _connect(self) -> None:
        error = ""
        try:
            connection = await self._client.connect(self)
        except ConnectError as exc:
            error = str(exc)
        finally:
            self._connecting -= 1
        if not error:
            self._open.add(connection)
            self.free(connection)
            self.pump()
            return
        self._client.release_place()
        if not self._open and not self._connecting:
            self._fail_waiting(error)

    def send_again(self, lost: Connection, request: bytes, delivery: Delivery) -> None:
        """Repeat a request on a new connection, which takes the place of the lost one and keeps the deadline."""
        self._open.discard(lost)
        self._connecting += 1
        self._client.spawn(self._connect_again(request, delivery, lost.deadline, lost.on_probation))

    async def _connect_again(self, request: bytes, delivery: Delivery, deadline: float, on_probation: bool) -> None:
        error = _CLOSED
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._client.connect(self)
            error = ""
        except TimeoutError:
            error = _TOO_LATE
        except ConnectError as exc:
            error = str(exc)
        finally:
            self._connecting -= 1
            if error:
                if on_probation:
                    self._on_probation -= 1
                    self._client.probation_changed(-1)
                self._client.release_place()
                delivery.answered(None, error, None)
        if not error:
            connection.on_probation = on_probation
            self._open.add(connection)
            connection.send(request, delivery, deadline)
        self.pump()

    def _fail_waiting(self, error: str) -> None:
        """Fail all waiting requests because no connection could be opened."""
        turns, self._turns = self._turns, deque()
        self._waiting.clear()
        for sender in turns:
            while (request := sender.next_request()) is not None:
                request[1].answered(None, error, None)

    def put_on_probation(self, connection: Connection, on_probation: bool) -> None:
        """Set whether a connection counts as on probation."""
        if connection.on_probation != on_probation:
            connection.on_probation = on_probation
            self._on_probation += 1 if on_probation else -1
            self._client.probation_changed(1 if on_probation else -1)

    def free(self, connection: Connection) -> None:
        """Make a connection available for the next request."""
        if connection in self._open:
            connection.deadline = 0.0
            connection.idle_since = self._client.loop.time()
            self._idle.append(connection)

    def finished(self, connection: Connection) -> None:
        """Free a connection after a response, or close it if another origin is waiting for a place."""
        if self._client.waiting_origins:
            connection.close()
        else:
            self.free(connection)

    def lost(self, connection: Connection) -> None:
        """Remove a connection that was closed."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self.put_on_probation(connection, False)
        self._client.release_place()

    def close_idle(self) -> bool:
        """Close the connection that has been idle longest; return whether there was one."""
        if self._idle:
            self._idle[0].close()
            return True
        return False

    def sweep(self, now: float) -> None:
        """Fail requests past their deadline, put slow connections on probation, and close idle ones."""
        slow_before = now + self._client.timeout - SLOW_SECONDS
        for connection in list(self._open):
            if connection.deadline and now > connection.deadline:
                connection.expire()
            elif connection.deadline and not connection.on_probation and connection.deadline < slow_before:
                connection.slow()
        for connection in [c for c in self._idle if now - c.idle_since > IDLE_SECONDS]:
            connection.close()

    @property
    def unused(self) -> bool:
        """Whether the origin has no connections and no waiting senders."""
        return not self._open and not self._connecting and not self._turns


class ConnectError(Exception):
    """No connection could be opened. The message may be shown to the subscriber, so it contains no address."""


class HttpClient:
    """The connections to all origins.

    `timeout` is the time limit for a whole request in seconds, `tls` verifies certificates, and `places` is the maximum number of
    connections, each of which takes one place. `waiting_origins` contains the origins that wait for a place, in order.
    """

    def __init__(self, *, allow_private: bool, timeout: float = 30.0, tls: ssl.SSLContext | None = None, places: int = 1024) -> None:
        self.loop = asyncio.get_running_loop()
        self.timeout = timeout
        self._allow_private = allow_private
        self._tls = tls or ssl.create_default_context()
        self._origins: dict[OriginKey, Origin] = {}
        self._idle_searched_at = 0.0
        self._places = places
        self._taken = 0
        self._on_probation = 0
        self.waiting_origins: dict[Origin, None] = {}
        self._deferred: dict[int, tuple[Origin, Sender]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookups = Lookups()
        self._sweeper = self.loop.call_later(0.25, self._sweep)

    def origin(self, key: OriginKey) -> Origin:
        """Return the origin for a (scheme, host, port), creating it on first use."""
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(key, self)
        return origin

    # --- places --------------------------------------------------------------------------------------------------------

    def take_place(self, origin: Origin) -> bool:
        """Take a place for a connection, closing an idle one if necessary; without a place, queue the origin and return False."""
        if self._taken >= self._places:
            self._close_idle()
        if self._taken >= self._places:
            self.waiting_origins[origin] = None
            return False
        self._taken += 1
        return True

    def _close_idle(self) -> None:
        """Close an idle connection of any origin. After finding none, search again only after a pause, since there may be many origins."""
        now = self.loop.time()
        if now - self._idle_searched_at < _IDLE_SEARCH_SECONDS:
            return
        if not any(origin.close_idle() for origin in self._origins.values()):
            self._idle_searched_at = now

    def release_place(self) -> None:
        """Release the place of a closed connection, and let the origin that has waited longest take it."""
        self._taken -= 1
        if self.waiting_origins:
            origin = next(iter(self.waiting_origins))
            del self.waiting_origins[origin]
            self.loop.call_soon(origin.pump)

    @property
    def connections(self) -> int:
        """Number of connections that are open or being opened."""
        return self._taken

    def has_room_for_on_probation(self, of_origin: int) -> bool:
        """Return whether a sender on probation may use another connection to an origin that already has `of_origin` on probation."""
        return self._on_probation < max(1, self._places // PROBATION_SHARE) and of_origin < CONNECTIONS_PER_ORIGIN // PROBATION_SHARE

    def defer(self, origin: Origin, sender: Sender) -> None:
        """Make a sender on probation wait until another connection leaves probation."""
        self._deferred[id(sender)] = (origin, sender)

    def stop_deferring(self, sender: Sender) -> None:
        """Stop a sender on probation from waiting."""
        self._deferred.pop(id(sender), None)

    def probation_changed(self, change: int) -> None:
        """Update the number of connections on probation; if it falls, let waiting senders have a turn."""
        self._on_probation += change
        if change < 0 and self._deferred:
            self.loop.call_soon(self._resume_deferred)

    def _resume_deferred(self) -> None:
        """Give turns to the senders that have waited longest."""
        for key in list(islice(self._deferred, CONNECTIONS_PER_ORIGIN)):
            if key in self._deferred:  # an earlier turn may have removed it
                origin, sender = self._deferred.pop(key)
                self.origin(origin.key).offer(sender)  # by key, since the sweep may have dropped `origin` meanwhile
            if not self.has_room_for_on_probation(0):
                return

    # --- connecting ----------------------------------------------------------------------------------------------------

    async def connect(self, origin: Origin) -> Connection:
        """Open a connection to an allowed address; raises ConnectError with a message that may be shown to the subscriber."""
        scheme, host, port = origin.key
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                addresses = await self._lookups.addresses(host)
                if any(forbidden(address, allow_private=self._allow_private) for address in addresses):
                    raise ConnectError("the webhook URL points to a forbidden address")
                return await self._connect_any(addresses, port, origin, host if scheme == "https" else None)
        except TimeoutError:
            raise ConnectError("no connection could be made within the time limit") from None
        except ssl.SSLCertVerificationError as exc:
            raise ConnectError(f"TLS certificate verification failed: {exc.verify_message}") from None
        except ssl.SSLError:
            raise ConnectError("the TLS handshake failed") from None
        except ConnectionRefusedError:
            raise ConnectError("the connection was refused") from None
        except OSError as exc:
            raise ConnectError("the host name does not resolve" if isinstance(exc, socket.gaierror) else "the connection failed") from None
        except ValueError:  # UnicodeError, or a character that names cannot contain
            raise ConnectError("the host name does not resolve") from None

    async def _connect_any(self, addresses: list[str], port: int, origin: Origin, server_name: str | None) -> Connection:
        last: OSError | None = None
        for address in dict.fromkeys(addresses):
            try:
                _, connection = await self.loop.create_connection(
                    self._maker(origin), address, port, ssl=self._tls if server_name else None, server_hostname=server_name
                )
                return connection
            except ssl.SSLError:
                raise
            except OSError as exc:
                last = exc
        raise last or OSError("no address")

    @staticmethod
    def _maker(origin: Origin) -> Callable[[], Connection]:
        return lambda: Connection(origin)

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine as a task, keeping a reference so that it is not garbage-collected."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _sweep(self) -> None:
        now = self.loop.time()
        for key, origin in list(self._origins.items()):
            origin.sweep(now)
            if origin.unused:
                del self._origins[key]
        self._sweeper = self.loop.call_later(0.25, self._sweep)

    def close(self) -> None:
        """Close every connection; unfinished requests fail."""
        self._sweeper.cancel()
        self._lookups.close()
        for task in self._tasks:
            task.cancel()
        for origin in self._origins.values():
            for connection in list(origin._open):
                connection.close()


def raise_file_limit() -> int:
    """Raise the soft limit on open files; return the number of connections that fit within it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _MOST_CONNECTIONS + _OTHER_FILES  # not infinity: macOS has no hard limit but refuses more than the kernel allows
    soft = max(soft, needed) if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))
