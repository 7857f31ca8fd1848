"""A request that offers an upgrade reaches the application complete, however its bytes are split."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from userhooks.shared.http1_protocol import Http1Protocol

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
WEBSOCKET = b"connection: keep-alive, upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n"
LENGTH = b"Content-Length: 9\r\n\r\nthe body!"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n4\r\nthe \r\n5;x=y\r\nbody!\r\n0\r\n\r\n"
PLAIN = b"POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nnext"


class Wire(asyncio.Transport):
    """A transport that keeps the written bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


Seen = tuple[str, str, list[tuple[bytes, bytes]], bytes]


async def read(pieces: list[bytes]) -> tuple[list[Seen], bytes]:
    """Feed these chunks to the protocol in turn; return what the application receives and what is sent back."""
    seen: list[Seen] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        seen.append((scope["method"], scope["path"], scope["headers"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(application, lifespan="off", log_config=None, ws="none", server_header=False, date_header=False)
    config.load()
    state, wire = ServerState(), Wire()
    protocol = Http1Protocol(config, state, {})
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
    if wire.closed:
        protocol.connection_lost(None)
    async with asyncio.timeout(10):
        while state.tasks:
            await asyncio.gather(*state.tasks)
            await asyncio.sleep(0)  # uvicorn removes finished tasks in callbacks; in Python 3.14, gather does not yield for finished tasks
    if not wire.closed:
        protocol.connection_lost(None)
    return seen, wire.sent


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_a_body_behind_an_offered_upgrade_arrives_wherever_the_bytes_are_split(offer: bytes, framing: bytes) -> None:
    request = b"POST /hook?x=1 HTTP/1.1\r\nHost: a\r\n" + offer + framing
    stream = request + request + PLAIN
    for at in range(len(request) + 1):
        seen, answer = asyncio.run(read([stream[:at], stream[at:]]))
        assert [(method, path, body) for method, path, _, body in seen] == [
            ("POST", "/hook", b"the body!"),
            ("POST", "/hook", b"the body!"),
            ("POST", "/next", b"next"),
        ], at
        assert answer.count(b"HTTP/1.1 200 OK") == 3
    seen, _ = asyncio.run(read([stream[n : n + 1] for n in range(len(stream))]))
    assert [body for *_, body in seen] == [b"the body!", b"the body!", b"next"]


def test_the_headers_of_an_offer_are_seen_as_they_were_sent() -> None:
    (seen, *_), _ = asyncio.run(read([b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n" + H2C + b"x: 2\r\nUpgrade: foo/2\r\n\r\n"]))
    settings = (b"http2-settings", b"AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA")
    assert seen[2] == [
        (b"host", b"a"),
        (b"x", b"1"),
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        settings,
        (b"x", b"2"),
        (b"upgrade", b"foo/2"),
    ]


def test_requests_without_a_body_may_follow_each_other_behind_an_offer() -> None:
    request = b"GET /a HTTP/1.1\r\nHost: a\r\n" + WEBSOCKET + b"\r\n"
    seen, answer = asyncio.run(read([PLAIN + 2000 * request + PLAIN]))
    assert [path for _, path, *_ in seen] == ["/next", *2000 * ["/a"], "/next"]
    assert answer.count(b"HTTP/1.1 200 OK") == 2002


def test_an_expectation_beside_an_offer_is_met() -> None:
    _, answer = asyncio.run(read([b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + H2C + LENGTH]))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_connection_that_is_to_close_closes_though_an_upgrade_is_offered() -> None:
    for version, connection in ((b"1.1", b"Connection: close\r\n"), (b"1.0", b"")):
        head = b"POST / HTTP/%b\r\nHost: a\r\n%b" % (version, connection)
        seen, answer = asyncio.run(read([head + H2C + LENGTH]))
        assert [body for *_, body in seen] == [b"the body!"]
        assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("rest", [b"Content-Length: x\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"\x00: 1\r\n\r\n"])
def test_a_malformed_request_that_offers_an_upgrade_is_answered_with_400(rest: bytes) -> None:
    _, answer = asyncio.run(read([b"POST / HTTP/1.1\r\nHost: a\r\n" + H2C + rest]))
    assert answer.startswith(b"HTTP/1.1 400")
