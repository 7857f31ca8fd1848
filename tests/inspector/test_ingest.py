"""Every request to an inbox is stored as it was sent, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.inspector.program import TOKEN, Program, running
from tests.waiting import eventually
from userhooks.inspector import protocol
from userhooks.inspector.client import Inbox, InspectorClient, Received
from userhooks.inspector.ingest import Ingest
from userhooks.inspector.protocol import BoundedProtocol
from userhooks.inspector.request_store import Recorded, RequestStore


def only(inbox: Inbox) -> Received:
    (received,) = inbox.received()
    return received


def raw(inspector: Program, request: bytes) -> bytes:
    """Send bytes, and return everything until the inspector closes the connection."""
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_webhook_is_kept_with_its_line_its_time_and_its_bytes(http: httpx.Client, inbox: Inbox) -> None:
    before = datetime.now(UTC)
    response = http.post(f"{inbox.url}/deeper/%C3%A4%2Fb?x=1&x=2", content=b'{"a": 1}')
    received = only(inbox)
    assert (response.status_code, response.content) == (200, b"")
    assert (received.seq, received.method, received.path) == (1, "POST", f"/in/{inbox.id}/deeper/%C3%A4%2Fb")
    assert (received.query, received.body, received.response_status) == ("x=1&x=2", b'{"a": 1}', 200)
    assert before <= received.received_at <= datetime.now(UTC)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"])
def test_any_method_is_recorded(http: httpx.Client, inbox: Inbox, method: str) -> None:
    assert http.request(method, inbox.url).status_code == 200
    assert only(inbox).method == method


def test_headers_keep_order_duplicates_and_bytes(inspector: Program, inbox: Inbox) -> None:
    raw(
        inspector,
        b"POST /in/%b HTTP/1.1\r\nX-B: 1\r\nHost: 127.0.0.1:%d\r\nx-a: two  words\r\nX-B: 3\r\nx-latin: caf\xe9\r\nX-Colon: a:b: c\r\n"
        b"x-empty:\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % (inbox.id.encode(), inspector.port),
    )
    assert only(inbox).headers == (
        ("x-b", "1"),
        ("host", f"127.0.0.1:{inspector.port}"),
        ("x-a", "two  words"),
        ("x-b", "3"),
        ("x-latin", "café"),
        ("x-colon", "a:b: c"),
        ("x-empty", ""),
        ("connection", "close"),
        ("content-length", "0"),
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\xff\xfe binary \x80", "é☃\ud7ff".encode(), b"not json", b"\r\n\x00", gzip.compress(b'{"a":1}'), bytes(range(256)) * 300],
    ids=["empty", "binary", "utf-8", "text", "control", "gzip", "77 kB binary"],
)
def test_bodies_keep_their_bytes(http: httpx.Client, inbox: Inbox, body: bytes) -> None:
    headers = {"content-encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    assert http.post(inbox.url, content=body, headers=headers).status_code == 200
    assert only(inbox).body == body


def test_a_chunked_upload_is_put_together(http: httpx.Client, inbox: Inbox) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"a":'
        yield b"x" * 100_000
        yield b"}"

    assert http.post(inbox.url, content=parts()).status_code == 200
    received = only(inbox)
    assert received.body == b'{"a":' + b"x" * 100_000 + b"}"
    assert ("transfer-encoding", "chunked") in received.headers


def test_the_time_of_receipt_is_when_the_body_was_complete_and_a_slow_sender_holds_up_nobody(
    inspector: Program, http: httpx.Client, inbox: Inbox
) -> None:
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as slow:
        slow.sendall(
            b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab"
            % (inbox.id.encode(), inspector.port)
        )
        assert http.post(inbox.url, content=b"quick").status_code == 200
        completed = datetime.now(UTC)
        slow.sendall(b"cd")
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
    quick, late = inbox.received()
    assert (quick.body, late.body) == (b"quick", b"abcd")
    assert quick.received_at < completed <= late.received_at


def test_a_sender_that_breaks_off_leaves_nothing(inspector: Program, http: httpx.Client, inbox: Inbox) -> None:
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as broken:
        broken.sendall(b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 400\r\n\r\nab" % (inbox.id.encode(), inspector.port))
    http.post(inbox.url, content=b"whole")
    assert only(inbox).body == b"whole"


def test_huge_headers_are_kept(http: httpx.Client, inbox: Inbox) -> None:
    assert http.post(inbox.url, headers={"x-huge": "h" * 200_000}).status_code == 200
    assert ("x-huge", "h" * 200_000) in only(inbox).headers


def test_a_body_of_64_mb_is_kept_and_a_larger_one_is_refused_and_shown(http: httpx.Client, inbox: Inbox) -> None:
    largest = b"x" * (64 << 20)
    assert http.post(inbox.url, content=largest, timeout=60).status_code == 200
    refused = http.post(inbox.url, content=iter([largest, b"y"]), timeout=60)
    kept, shown = inbox.received()
    assert zlib.crc32(kept.body) == zlib.crc32(largest)
    assert refused.status_code == 413
    assert "recorded without its body: the body was larger than 64 MB" in refused.json()["error"]
    assert (shown.response_status, shown.body, shown.note) == (413, b"", "the body was larger than 64 MB")
    assert http.post(inbox.url, content=b"after").status_code == 200


def test_an_unknown_inbox_says_what_to_do(http: httpx.Client) -> None:
    for path in ("/in/nobody", "/in/nobody/deeper", "/in/"):
        response = http.post(path, content=b"x" * 100_000)
        assert response.status_code == 404
        assert response.json()["error"].startswith("There is no inbox at this URL. Copy the URL")


def test_a_foreign_host_or_origin_is_not_recorded(http: httpx.Client, inbox: Inbox) -> None:
    for headers in ({"host": "evil.example"}, {"host": "127.0.0.1"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert http.post(inbox.url, headers=headers).status_code == 403
    assert inbox.count() == 0


def test_the_public_address_is_let_in_and_begins_the_urls(tmp_path: Path) -> None:
    with running(tmp_path, public_url="http://host.docker.internal:3334") as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        assert inbox.url == f"http://host.docker.internal:3334/in/{inbox.id}"
        assert inbox.page.startswith(f"{program.url}/inboxes/{inbox.id}?token=")
        headers = {"host": "host.docker.internal:3334"}
        assert httpx.post(f"{program.url}/in/{inbox.id}", headers=headers, trust_env=False).status_code == 200


def test_pipelined_requests_are_answered_and_kept_in_order(inspector: Program, inbox: Inbox) -> None:
    template = b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 1\r\n%b\r\n%d"
    requests = [template % (inbox.id.encode(), inspector.port, b"Connection: close\r\n" if n == 4 else b"", n) for n in range(5)]
    assert raw(inspector, b"".join(requests)).count(b"HTTP/1.1 200") == 5
    assert [received.body for received in inbox.received()] == [b"0", b"1", b"2", b"3", b"4"]


def test_many_senders_at_once_get_one_number_each(inspector: Program, inbox: Inbox) -> None:
    request = b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % (inbox.id.encode(), inspector.port)
    senders = [socket.create_connection(("127.0.0.1", inspector.port), timeout=10) for _ in range(50)]
    for sender in senders:
        sender.sendall(request * 20)
    eventually(lambda: inbox.count() == 1000)
    for sender in senders:
        sender.close()
    assert [received.seq for received in inbox.received()] == list(range(1, 1001))


def test_a_body_in_many_small_chunks_is_counted_and_refused(inspector: Program, inbox: Inbox) -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=30) as sender:
        sender.sendall(
            b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTransfer-Encoding: chunked\r\n\r\n" % (inbox.id.encode(), inspector.port)
        )
        for _ in range(66):
            sender.sendall(chunk)
        assert sender.recv(1000).startswith(b"HTTP/1.1 413")
    shown = only(inbox)
    assert (shown.response_status, shown.response, shown.body) == (413, "413", b"")


def test_a_body_that_does_not_arrive_is_refused_and_shown(tmp_path: Path) -> None:
    async def run() -> tuple[list[Any], list[Recorded]]:
        store = RequestStore(tmp_path / "i.db")
        await store.open()
        inbox, _ = await store.create("ada")
        ingest = Ingest(nowhere, store, clock=lambda: 0, body_seconds=0.01)
        scope = {"type": "http", "method": "POST", "path": f"/in/{inbox.id}", "raw_path": b"/", "query_string": b"", "headers": []}
        sent: list[Any] = []
        pieces = iter([{"type": "http.request", "body": b"x", "more_body": True}])

        async def receive() -> Any:
            return next(pieces, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await ingest(scope, receive, send)
        kept = store.read(inbox, 0, 10, 1000)
        assert ingest.in_flight == 0
        await store.close()
        return sent, kept

    (start, body), (shown,) = asyncio.run(run())
    assert (start["status"], (b"connection", b"close") in start["headers"]) == (408, True)
    assert b"did not arrive within a minute" in body["body"]
    assert (shown.status, shown.response, shown.note) == (408, "408", "the body did not arrive within a minute")


async def nowhere(*_: Any) -> None:
    raise AssertionError("not for the app behind")


def test_a_head_larger_than_a_megabyte_is_refused(inspector: Program, http: httpx.Client, inbox: Inbox) -> None:
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as sender:
        sender.sendall(b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % (inbox.id.encode(), inspector.port))
        with contextlib.suppress(ConnectionError):
            for n in range(40):
                sender.sendall(b"x-%d: %b\r\n" % (n, b"h" * 65_000))
        answer = sender.recv(1000)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"larger than 1 MB" in answer
    assert http.post(inbox.url).status_code == 200
    assert inbox.count() == 1


def test_trailers_are_not_taken_for_headers(inspector: Program, inbox: Inbox) -> None:
    raw(
        inspector,
        b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"1\r\na\r\n0\r\nauthorization: Bearer late\r\n\r\n" % (inbox.id.encode(), inspector.port),
    )
    assert (only(inbox).body, [name for name, _ in only(inbox).headers]) == (b"a", ["host", "transfer-encoding", "connection"])


def test_a_head_that_does_not_arrive_and_a_connection_without_a_request_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)

    async def run() -> tuple[bytes, bytes, bytes]:
        config = uvicorn.Config(answers, http=BoundedProtocol, lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        listening = await asyncio.get_running_loop().create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0)
        address = listening.sockets[0].getsockname()

        async def sent(*pieces: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(*address)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.02)
            answer = await reader.read()
            writer.close()
            return answer

        async with listening:
            request = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
            return await sent(b"POST / HTTP/1.1\r\nx: ", b"y"), await sent(), await sent(request[:9], request[9:])

    slow, silent, prompt = asyncio.run(run())
    assert slow.startswith(b"HTTP/1.1 408")
    assert b"The headers did not arrive within 0.2 s." in slow
    assert silent == b""
    assert prompt.startswith(b"HTTP/1.1 200")


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELLO\r\n\r\n", b"POST  HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_answered_with_400(inspector: Program, http: httpx.Client, inbox: Inbox, garbage: bytes) -> None:
    assert raw(inspector, garbage).startswith(b"HTTP/1.1 400")
    assert http.post(inbox.url).status_code == 200


def test_a_large_body_is_not_held_while_its_answer_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # return freed memory immediately; otherwise glibc keeps varying amounts
    with running(tmp_path) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        inbox.respond([{"effect": "hang"}])
        assert program.process is not None
        inspector = psutil.Process(program.process.pid)
        before = inspector.memory_info().rss
        senders = []
        for n in range(8):
            senders.append(socket.create_connection(("127.0.0.1", program.port), timeout=60))
            size = 16 << 20
            senders[-1].sendall(
                b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n\r\n" % (inbox.id.encode(), program.port, size)
            )
            senders[-1].sendall(b"x" * size)
            eventually(lambda n=n: inbox.count() == n + 1, within=60)  # type: ignore[misc]
        eventually(lambda: inspector.memory_info().rss - before < 80 << 20, what="eight bodies of 16 MB let go")
        for sender in senders:
            sender.close()
