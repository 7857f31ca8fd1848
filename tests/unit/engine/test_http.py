"""The HTTP client that delivers webhooks, tested with well-behaved and misbehaving receivers on real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from userhooks.engine.delivery.http_client import MAX_ANSWER, Connection, HttpClient

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Requests:
    """A sender with a list of requests that records their outcomes."""

    def __init__(self, count: int = 1, body: bytes = b"hi", *, may_repeat: bool = True) -> None:
        self.left = count
        self.outcomes: list[tuple[int | None, str, float | None]] = []
        self.total = count
        self.done = asyncio.Event()
        self.on_probation = False
        self.body = body
        self.is_repeatable = may_repeat
        self.repeated = 0

    def slow(self) -> None:
        self.on_probation = True

    def may_repeat(self) -> bool:
        self.repeated += self.is_repeatable
        return self.is_repeatable

    def next_request(self) -> tuple[bytes, Requests] | None:
        if not self.left:
            return None
        self.left -= 1
        return b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(self.body), self.body), self

    def has_more(self) -> bool:
        return self.left > 0

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        self.outcomes.append((status, error, retry_after))
        if len(self.outcomes) == self.total:
            self.done.set()


@asynccontextmanager
async def server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)


def answering(*parts: bytes, close: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()
            if close:
                return

    return handler


async def outcomes(
    handler: Handler,
    count: int = 1,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109  # the client's own deadline
    scheme: str = "http",
    host: str = "127.0.0.1",
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
    allow_private: bool = True,
) -> list[tuple[int | None, str, float | None]]:
    async with server(handler, server_tls) as port:
        client = HttpClient(allow_private=allow_private, timeout=timeout, tls=client_tls)
        requests = Requests(count)
        try:
            client.origin((scheme, host, port)).offer(requests)
            async with asyncio.timeout(10):
                await requests.done.wait()
        finally:
            client.close()
    return requests.outcomes


def test_a_plain_answer_is_the_status() -> None:
    assert asyncio.run(outcomes(answering(OK))) == [(200, "", None)]


def test_many_requests_share_few_connections() -> None:
    connections = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answering(OK)(reader, writer)

    assert asyncio.run(outcomes(handler, 500)) == [(200, "", None)] * 500
    assert 1 <= len(connections) <= 100


def test_an_answer_in_single_bytes_is_read_to_its_end() -> None:
    assert asyncio.run(outcomes(answering(*[bytes([b]) for b in OK]))) == [(200, "", None)]


def test_chunked_answers_and_interim_answers_are_understood() -> None:
    chunked = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert asyncio.run(outcomes(answering(chunked), 3)) == [(202, "", None)] * 3


class Wire:
    """A connection's transport that ignores what is written to it."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        """Ignore the data."""

    def abort(self) -> None:
        self.closed = True


BEHIND = [b"", b"!", b"\r\n", b"\n", b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 2", b"\x00\xff"]
"""Bytes after a complete response, which do not change it."""
ANSWERS: list[tuple[bytes, int | None, float | None, bool]] = [
    (OK, 200, None, False),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None, False),
    (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204, None, False),
    (b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 17\r\n\r\n", 304, None, False),
    (b"HTTP/1.1 429 Slow\r\nretry-after: 3\r\ncontent-length: 4\r\n\r\nlate", 429, 3.0, False),
    (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", 200, None, True),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, None, True),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, None, False),
    (
        b"HTTP/1.1 103 Early Hints\r\nretry-after: 9\r\n\r\nHTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        503,
        None,
        False,
    ),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nretry-after: 3\r\nx: y\r\n\r\n", 200, None, False),
    (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 101, None, True),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, None, True),
]
"""Responses that specify their end: bytes, status, Retry-After in seconds, and whether the connection must be closed."""
ANSWERS_TO_THE_END: list[tuple[bytes, int | None]] = [
    (b"HTTP/1.1 200 OK\r\n\r\n", 200),
    (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n", 200),
    (b"HTTP/1.0 500 Oh\r\ncontent-type: text/plain\r\n\r\nsome", 500),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok", 200),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok", 200),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", None),
    (b"HTTP/1.1 100 Continue\r\n\r\n", None),
    (b"HTTP/1.1 200 OK\r\ncontent-type: text/pl", None),
    (b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok", None),
]
"""Responses that end when the receiver closes the connection, each with its status."""


@contextmanager
def connection() -> Iterator[tuple[Connection, Wire]]:
    """Yield a connection and the transport that the test controls."""
    loop = asyncio.new_event_loop()
    wire = Wire()

    async def made() -> tuple[HttpClient, Connection]:
        client = HttpClient(allow_private=True, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # faster to create than the default context
        made = Connection(client.origin(("http", "127.0.0.1", 1)))
        made.connection_made(wire)
        return client, made

    client, one = loop.run_until_complete(made())
    try:
        yield one, wire
    finally:
        client.close()
        loop.close()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % len(data) for place in places)})
    return [data[a:b] for a, b in pairwise(at)]


def outcome_of(parts: list[bytes], *, end: bool) -> tuple[list[tuple[int | None, float | None]], bool]:
    """Return the outcome of one request as (status, Retry-After), and whether the connection was closed."""
    with connection() as (one, wire):
        request = Requests()
        one.send(b"", request, 0.0)
        for part in parts:
            if not wire.closed:
                one.data_received(part)
        if end and not wire.closed:
            one.connection_lost(None)
        return [(status, wait) for status, _, wait in request.outcomes], wire.closed


@given(answer=st.sampled_from(ANSWERS), behind=st.sampled_from(BEHIND), places=st.sets(st.integers(0, 400)))
def test_a_complete_answer_is_what_it_is_however_it_is_cut_and_whatever_follows(
    answer: tuple[bytes, int | None, float | None, bool], behind: bytes, places: set[int]
) -> None:
    data, status, wait, closes = answer
    assert outcome_of(cut(data + behind, places), end=False) == ([(status, wait)], closes or bool(behind))


@given(answer=st.sampled_from(ANSWERS_TO_THE_END), places=st.sets(st.integers(0, 400)))
def test_an_answer_that_ends_with_its_connection_is_what_it_is_however_it_is_cut(
    answer: tuple[bytes, int | None], places: set[int]
) -> None:
    data, status = answer
    [(outcome, _)], _ = outcome_of(cut(data, places), end=True)
    assert outcome == status


def test_no_single_cut_changes_an_answer() -> None:
    for data, status, wait, closes in ANSWERS:
        for behind in BEHIND:
            for place in range(len(data + behind)):
                parts = cut(data + behind, [place])
                assert outcome_of(parts, end=False) == ([(status, wait)], closes or bool(behind)), parts


@given(places=st.sets(st.integers(0, 2 * MAX_ANSWER), max_size=20))
def test_the_longest_answer_is_read_and_no_longer_one_however_they_are_cut(places: set[int]) -> None:
    padding = MAX_ANSWER - len(LONG_HEAD % b"")
    assert outcome_of(cut(LONG_HEAD % (b"x" * (padding - 1)) + b"more", places), end=False) == ([(200, None)], True)
    assert outcome_of(cut(LONG_HEAD % (b"x" * (padding + 1)), places), end=False) == ([(None, None)], True)


LONG_HEAD = b"HTTP/1.1 200 OK\r\nx: %b\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("seed", range(20))
def test_each_answer_counts_for_itself_whatever_came_before(seed: int) -> None:
    """A response identical to the last one is not parsed; one that only resembles or contains it must be parsed."""
    rng = random.Random(seed)
    known = [
        (OK, 200, None),
        (OK, 200, None),
        (OK[:-2] + b"OK", 200, None),
        (OK.replace(b"200", b"503"), 503, None),
        (b"HTTP/1.1 429 Slow\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n", 429, 3.0),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, 200, None),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: %d\r\n\r\n" % len(OK) + OK, 500, None),
    ]

    async def run() -> None:
        client = HttpClient(allow_private=True)
        connection = Connection(client.origin(("http", "127.0.0.1", 1)))
        connection.connection_made(Wire())
        for _ in range(300):
            request = Requests()
            connection.send(b"", request, 0.0)
            data, status, wait = rng.choice(known)
            at = rng.choice([0, 0, rng.randrange(len(data)), len(data) - len(OK)])
            for part in (data[:at], data[at:]):
                if part:
                    assert not request.outcomes
                    connection.data_received(part)
            assert request.outcomes == [(status, "", wait)]
        client.close()

    asyncio.run(run())


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    assert asyncio.run(outcomes(answering(b"HTTP/1.1 200 OK\r\n\r\nsome", close=True))) == [(200, "", None)]


def test_an_answer_cut_short_is_a_failure_and_is_not_repeated() -> None:
    seen = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok")
        await writer.drain()

    [(status, error, _)] = asyncio.run(outcomes(handler))
    assert status is None
    assert "closed before the response was complete" in error
    assert len(seen) == 1


def test_a_redirect_is_not_followed() -> None:
    assert asyncio.run(outcomes(answering(b"HTTP/1.1 307 Go\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"))) == [(307, "", None)]


def test_retry_after_is_reported_in_seconds_and_a_date_in_seconds_from_now() -> None:
    busy = b"HTTP/1.1 429 Busy\r\nretry-after: %b\r\ncontent-length: 0\r\n\r\n"
    assert asyncio.run(outcomes(answering(busy % b" 7 \t"))) == [(429, "", 7.0)]
    assert asyncio.run(outcomes(answering(busy % b"86400000"))) == [(429, "", 86_400_000.0)]
    [(status, _, wait)] = asyncio.run(outcomes(answering(busy % formatdate(time.time() + 300, usegmt=True).encode())))
    assert status == 429
    assert wait is not None
    assert 200 < wait <= 300


def test_an_oversized_answer_counts_by_its_status_and_is_not_read_to_the_end() -> None:
    big = b"x" * (MAX_ANSWER * 4)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n"
    assert asyncio.run(outcomes(answering(head, big))) == [(200, "", None)]


@pytest.mark.parametrize(
    ("beginning", "endless"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 ", b"O"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=", b"y"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1;x=yyyyyyyyyyyyy\r\n.\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
    ],
)
def test_an_endless_answer_that_is_hardly_body_fails_with_a_reason_and_is_read_no_further(beginning: bytes, endless: bytes) -> None:
    written = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(beginning)
        piece = endless * (16_384 // len(endless))
        while True:
            writer.write(piece)
            await writer.drain()
            written += len(piece)

    [(status, error, _)] = asyncio.run(outcomes(handler, timeout=2.0))
    assert status is None
    assert error == "the response is longer than 65536 bytes, most of which are not its body"
    assert written < 20_000_000  # no more than fits into the buffers of two sockets


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH\r\n", b"\x00" * 50, b"HTTP/1.1 2x0 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"]
)
def test_an_answer_that_is_not_http_is_a_failure(garbage: bytes) -> None:
    [(status, error, _)] = asyncio.run(outcomes(answering(garbage)))
    assert status is None
    assert error


def test_a_receiver_that_hangs_or_drips_fails_at_the_one_deadline() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    [(status, error, _)] = asyncio.run(outcomes(drip, timeout=0.3))
    assert (status, error) == (None, "no complete response within the time limit")


def test_bytes_after_an_answer_are_never_taken_for_the_next_answer() -> None:
    connections = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answering(OK + b"HTTP/1.1 204 No Content\r\n\r\n")(reader, writer)

    assert asyncio.run(outcomes(handler, 3)) == [(200, "", None)] * 3
    assert len(connections) == 3


def ending(how: str, after: float = 0.0) -> tuple[Handler, list[bytes]]:
    """Return a receiver that answers the first request of each connection and closes it at the second, and the bodies it receives."""
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if number and how == "unread":
                writer.transport.abort()
                return
            seen.append(await reader.readexactly(length))
            if not number:
                writer.write(OK)
        await asyncio.sleep(after)
        if how == "first byte":
            writer.write(b"H")
            await writer.drain()
        elif how == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    return handler, seen


async def two_requests(port: int, requests: Requests, timeout: float) -> float:  # noqa: ASYNC109  # the client's own deadline
    """Send a second request after the response to the first; return the seconds that the second took."""
    client = HttpClient(allow_private=True, timeout=timeout)
    loop = asyncio.get_running_loop()
    try:
        for count in (1, 2):
            requests.left, requests.total = 1, count
            requests.done.clear()
            began = loop.time()
            client.origin(("http", "127.0.0.1", port)).offer(requests)
            async with asyncio.timeout(10):
                await requests.done.wait()
            assert client.connections == (requests.outcomes[-1][0] is not None)
        return loop.time() - began
    finally:
        client.close()


def two_requests_to(handler: Handler, requests: Requests, timeout: float = 5.0) -> float:
    async def life() -> float:
        async with server(handler) as port:
            return await two_requests(port, requests, timeout)

    return asyncio.run(life())


@pytest.mark.parametrize("how", ["end", "reset", "unread"])
@pytest.mark.parametrize("body", [b"hi", b"x" * 5_000_000], ids=["small", "large"])
def test_a_request_whose_reused_connection_ends_unanswered_is_sent_again_at_once(how: str, body: bytes) -> None:
    handler, seen = ending(how)
    requests = Requests(body=body)
    two_requests_to(handler, requests)
    assert requests.outcomes == [(200, "", None)] * 2
    assert requests.repeated == 1
    assert set(seen) == {body}
    assert len(seen) == (2 if how == "unread" else 3)


def test_a_repeated_request_is_not_repeated_again() -> None:
    seen = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        if len(seen) == 1:
            writer.write(OK)
            seen.append(await read_request(reader))

    requests = Requests()
    two_requests_to(handler, requests)
    assert requests.outcomes == [(200, "", None), (None, "the connection was closed before the response was complete", None)]
    assert len(seen) == 3


def test_a_request_is_not_repeated_once_a_byte_of_its_answer_has_come() -> None:
    handler, seen = ending("first byte")
    requests = Requests()
    two_requests_to(handler, requests)
    assert [status for status, _, _ in requests.outcomes] == [200, None]
    assert (len(seen), requests.repeated) == (2, 0)


def test_a_request_is_not_repeated_when_its_sender_does_not_want_it_any_more() -> None:
    handler, seen = ending("end")
    requests = Requests(may_repeat=False)
    two_requests_to(handler, requests)
    assert [status for status, _, _ in requests.outcomes] == [200, None]
    assert len(seen) == 2


def test_a_repeated_request_keeps_its_deadline() -> None:
    ends, seen = ending("end", after=0.9)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(seen) < 2:
            await ends(reader, writer)
        else:
            await reader.read()  # and send no response

    requests = Requests()
    took = two_requests_to(handler, requests, timeout=1.0)
    assert requests.outcomes == [(200, "", None), (None, "no complete response within the time limit", None)]
    assert requests.repeated == 1
    assert took < 1.8


def test_a_repeated_request_to_a_receiver_that_is_gone_fails_with_the_reason() -> None:
    async def life(requests: Requests) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await read_request(reader)
            listener.close()
            writer.close()

        listener = await asyncio.start_server(handle, "127.0.0.1", 0)
        await two_requests(listener.sockets[0].getsockname()[1], requests, 5.0)

    requests = Requests()
    asyncio.run(life(requests))
    assert requests.outcomes == [(200, "", None), (None, "the connection was refused", None)]
    assert requests.repeated == 1


def test_a_closed_port_is_a_failure_for_everything_that_waits() -> None:
    async def run() -> list[tuple[int | None, str, float | None]]:
        async with server(answering(OK)) as port:
            pass
        client = HttpClient(allow_private=True)
        requests = Requests(3)
        client.origin(("http", "127.0.0.1", port)).offer(requests)
        async with asyncio.timeout(5):
            await requests.done.wait()
        client.close()
        return requests.outcomes

    assert asyncio.run(run()) == [(None, "the connection was refused", None)] * 3


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_address_is_refused_after_name_resolution_without_naming_it(host: str) -> None:
    [(status, error, _)] = asyncio.run(outcomes(answering(OK), host=host, allow_private=False))
    assert (status, error) == (None, "the webhook URL points to a forbidden address")


def test_senders_on_probation_share_a_quarter_of_all_connections() -> None:
    hanging: list[bytes] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.append(await read_request(reader))
        await asyncio.sleep(60)

    async def life() -> None:
        async with AsyncExitStack() as servers:
            silent = [await servers.enter_async_context(server(hang)) for _ in range(6)]
            quick = await servers.enter_async_context(server(answering(OK)))
            client = HttpClient(allow_private=True, timeout=2.0, places=8)
            try:
                lost = [Requests() for _ in silent]
                for port, requests in zip(silent, lost, strict=True):
                    requests.on_probation = True
                    client.origin(("http", "127.0.0.1", port)).offer(requests)
                known = Requests(200)
                client.origin(("http", "127.0.0.1", quick)).offer(known)
                async with asyncio.timeout(1.5):
                    await known.done.wait()
                assert len(hanging) == 2
                async with asyncio.timeout(15):
                    await asyncio.gather(*(requests.done.wait() for requests in lost))
                assert len(hanging) == 6  # each sender had a turn
            finally:
                client.close()

    asyncio.run(life())


@pytest.mark.parametrize(("soft", "hard", "places"), [(64, 1000, 744), (64, 100, 1)])
def test_the_file_limit_is_raised_to_the_hard_one_and_the_connections_fit_under_it(soft: int, hard: int, places: int) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from userhooks.engine.delivery.http_client import raise_file_limit
print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == [str(places), str(hard), str(hard)]


def test_names_that_are_not_answered_do_not_hold_up_a_host_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    ask = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **more: Any) -> Any:
        if host.startswith("lost-") and not more.get("flags"):
            answered.wait(20)
            raise socket.gaierror("no answer")
        return ask("127.0.0.1" if host == "known.test" and not more.get("flags") else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def life() -> None:
        closing = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        async with server(answering(closing, close=True)) as port:
            client = HttpClient(allow_private=True)
            try:
                for lost in (0, 300):
                    for n in range(lost):
                        client.origin(("http", f"lost-{n}.test", 80)).offer(Requests())
                    await asyncio.sleep(0)
                    requests = Requests(3)
                    client.origin(("http", "known.test", port)).offer(requests)
                    async with asyncio.timeout(5):
                        await requests.done.wait()
                    assert [status for status, _, _ in requests.outcomes] == [200] * 3
            finally:
                client.close()
                answered.set()

    asyncio.run(life())


def test_tls_is_verified_against_the_host_name() -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    good = outcomes(answering(OK), scheme="https", host="localhost", server_tls=serving, client_tls=trusting)
    assert asyncio.run(good) == [(200, "", None)]
    for tls, host in ((trusting, "127.0.0.1"), (None, "localhost")):
        [(status, error, _)] = asyncio.run(outcomes(answering(OK), scheme="https", host=host, server_tls=serving, client_tls=tls))
        assert status is None
        assert "certificate verification failed" in error
