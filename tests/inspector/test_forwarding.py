"""`userhooks listen` forwards what an inbox receives to a web server on this machine, byte for byte, and only there."""

from __future__ import annotations

import socket
import threading

import httpx
import pytest

from tests.inspector.program import Program
from tests.ports import free_port
from tests.receiving_server import receiving
from userhooks.errors import InvalidInput
from userhooks.inspector.client import Inbox
from userhooks.inspector.forwarding import forward, parse_target, send_once


def test_a_request_arrives_with_its_method_path_query_headers_and_bytes(inbox: Inbox) -> None:
    with receiving() as server:
        target = parse_target(f"{server.url}/hooks/?tenant=7")
        httpx.request(
            "PATCH", f"{inbox.url}/a%20b/c?x=1&y='", content=b"\x00\xff\r\n", trust_env=False,
            headers=[
                ("x-twice", "1"), ("X-Twice", "2"), ("authorization", "Bearer s"),
                ("connection", "x-drop"), ("x-drop", "1"), ("te", "gzip"),
            ],
        )  # fmt: skip
        (received,) = inbox.received()
        assert send_once(received, target) == "200"
        got = server.got[0]
        assert (got.method, got.target, got.body) == ("PATCH", "/hooks/a%20b/c?tenant=7&x=1&y='", b"\x00\xff\r\n")
        headers = [(name.lower(), value) for name, value in got.headers]
        assert [header for header in headers if header[0] == "x-twice"] == [("x-twice", "1"), ("x-twice", "2")]
        assert dict(headers)["authorization"] == "Bearer s"
        assert dict(headers)["host"] == f"127.0.0.1:{server.server_port}"
        assert dict(headers)["content-length"] == "4"
        assert not {"x-drop", "te", "transfer-encoding"} & dict(headers).keys()


def test_the_target_is_this_machine_or_it_is_refused() -> None:
    for url in ("http://localhost:3000/hooks", "http://127.0.0.1:3000", "http://127.8.9.1/", "http://[::1]:3000/x?y=1", "http://127.1:80/"):
        assert parse_target(url).addresses
    for url, problem in (
        ("http://192.0.2.1/hooks", "not on this machine's loopback interface"),
        ("http://10.0.0.1:3000/", "not on this machine's loopback interface"),
        ("http://0.0.0.0:3000/", "not on this machine's loopback interface"),
        ("http://[::ffff:192.0.2.1]/", "not on this machine's loopback interface"),
        ("https://localhost:3000/", "not an http:// URL"),
        ("localhost:3000/hooks", "not an http:// URL"),
        ("http://", "not an http:// URL"),
        ("http://localhost:99999/", "no valid host and port"),
        ("http://me:pw@localhost/", "user name or password"),
        ("http://localhost/a b", "spaces"),
        ("http://nowhere.invalid/", "is not known"),
    ):
        with pytest.raises(InvalidInput, match=problem) as caught:
            parse_target(url)
        assert caught.value.remedy


def test_the_inbox_itself_is_refused_as_a_target(inspector: Program, inbox: Inbox) -> None:
    with pytest.raises(InvalidInput, match="the inbox itself"):
        forward(inbox, parse_target(f"http://localhost:{inspector.port}/in/{inbox.id}/deep"), print)


def test_a_server_that_misbehaves_is_described_in_words(inbox: Inbox) -> None:
    httpx.post(inbox.url, content=b"x", trust_env=False)
    (received,) = inbox.received()
    assert send_once(received, parse_target(f"http://localhost:{free_port()}/")) == "connection refused"
    for answer, words in ((b"", "connection closed without an answer"), (b"hello\r\n\r\n", "an answer that is not HTTP")):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer_once(server: socket.socket = server, answer: bytes = answer) -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

            thread = threading.Thread(target=answer_once)
            thread.start()
            assert send_once(received, parse_target(f"http://127.0.0.1:{server.getsockname()[1]}/")) == words
            thread.join()
