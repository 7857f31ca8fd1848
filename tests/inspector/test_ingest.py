"""Whatever is sent to an inbox is kept as it was sent, and answered."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.inspector.program import Program, running
from tests.waiting import eventually
from userhooks.inspector.client import Inbox, InspectorClient, Received


def only(inbox: Inbox) -> Received:
    (received,) = inbox.received()
    return received


def raw(inspector: Program, request: bytes) -> bytes:
    """Send bytes as they are and read until the inspector closes."""
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
    assert (refused.status_code, refused.json()["error"]) == (413, "The body is larger than 64 MB, which is the limit of the inspector.")
    assert (shown.response_status, shown.body, shown.note) == (413, b"", "the body was larger than 64 MB and was not kept")
    assert http.post(inbox.url, content=b"after").status_code == 200


def test_an_unknown_inbox_says_what_to_do(http: httpx.Client) -> None:
    for path in ("/in/nobody", "/in/nobody/deeper", "/in/"):
        response = http.post(path, content=b"x" * 100_000)
        assert response.status_code == 404
        assert response.json() == {
            "error": "There is no such inbox. Copy its URL again from the inspector's page, or create one: POST /api/inboxes."
        }


def test_a_foreign_host_or_origin_is_not_recorded(http: httpx.Client, inbox: Inbox) -> None:
    for headers in ({"host": "evil.example"}, {"host": "127.0.0.1"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert http.post(inbox.url, headers=headers).status_code == 403
    assert inbox.count() == 0


def test_the_public_address_is_let_in_and_begins_the_urls(tmp_path: Path) -> None:
    with running(tmp_path, public_url="http://host.docker.internal:3334") as program, InspectorClient(program.url) as client:
        inbox = client.inbox("ada")
        assert inbox.url == f"http://host.docker.internal:3334/in/{inbox.id}"
        assert inbox.page == f"{program.url}/inboxes/{inbox.id}"
        headers = {"host": "host.docker.internal:3334"}
        assert httpx.post(f"{program.url}/in/{inbox.id}", headers=headers, trust_env=False).status_code == 200


def test_pipelined_requests_are_answered_and_kept_in_order(inspector: Program, inbox: Inbox) -> None:
    one = b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 1\r\n%b\r\n%d"
    requests = [one % (inbox.id.encode(), inspector.port, b"Connection: close\r\n" if n == 4 else b"", n) for n in range(5)]
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
