"""A test event reaches a receiver in one request with the subscription's secret, and every way to fail has a sentence and an end."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trustme

from tests.ports import free_port
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks import __version__
from userhooks.inspector.judgement import messages_in
from userhooks.inspector.messages import parse_body
from userhooks.webhooks import receiver_call
from userhooks.webhooks.receiver_call import BODY_BYTES, TEST_HEADER, ReceiverAnswer, send_test_event

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    eventually(lambda: not any(thread.name == "userhooks test event" for thread in threading.enumerate()))


def send(url: str, *, allow_private: bool = True, timeout: float = 10) -> ReceiverAnswer:
    return send_test_event(url, "the-secret", sink_name="user-7-notifications", user_id=7, allow_private=allow_private, timeout=timeout)


def read_request(connection: socket.socket) -> None:
    """Read a whole request, because closing a connection with unread bytes would destroy the answer."""
    read = b""
    while not read.endswith(b"}}"):
        read += connection.recv(65536)
        assert read


@contextmanager
def answering(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection: read the request, then `talk`. Yield the URL."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                read_request(connection)
                talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_the_event_carries_the_secret_and_says_that_it_is_a_test(receiver: Receiver) -> None:
    answer = send(f"{receiver.url}/hooks/7?tenant=a")
    assert (answer.status, answer.accepted, answer.problem) == (200, True, "")
    assert 0 < answer.latency_ms < 10_000
    [request] = receiver.requests
    headers = dict(request.headers)
    assert request.line == "POST /hooks/7?tenant=a HTTP/1.1"
    assert headers["Authorization"] == "Bearer the-secret"
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == f"userhooks/{__version__}"
    assert headers["Host"] == receiver.url.removeprefix("http://")
    event = json.loads(request.body)["test_event"]
    assert event["id"] == headers[TEST_HEADER]
    assert (event["sink"], event["user_id"]) == ("user-7-notifications", 7)
    assert "test event" in event["text"]


def test_nobody_can_take_the_event_for_a_row(receiver: Receiver) -> None:
    send(receiver.url)
    body = receiver.requests[0].body
    assert json.loads(body)["data"] == []
    assert parse_body(body) == []
    assert messages_in(body) is None


def test_an_error_of_the_receiver_is_an_answer_that_is_not_accepted(receiver: Receiver) -> None:
    receiver.script = lambda path, messages: 500
    answer = send(receiver.url)
    assert (answer.status, answer.accepted, answer.problem) == (500, False, "")


def test_a_redirect_is_an_answer_and_is_not_followed(receiver: Receiver) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % receiver.url.encode()
    with answering(lambda connection: connection.sendall(redirect)) as url:
        answer = send(url)
    assert (answer.status, answer.accepted) == (302, False)
    assert receiver.arrived == 0


def test_only_the_first_bytes_of_the_body_are_read() -> None:
    body = b"x" * 1_000_000

    def talk(connection: socket.socket) -> None:
        with suppress(OSError):  # the sender closes the connection before it has read everything
            connection.sendall(OK + b"content-length: %d\r\n\r\n" % len(body) + body)

    with answering(talk) as url:
        assert send(url).body == body[:BODY_BYTES]


def test_a_refused_connection_is_said() -> None:
    answer = send(f"http://127.0.0.1:{free_port()}/")
    assert answer.status is None
    assert not answer.accepted
    assert "refused" in answer.problem


def drip(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            threading.Event().wait(0.02)


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nx: ", OK + b"content-length: 900\r\n\r\n"],
    ids=["nothing", "endless headers", "a slow body"],
)
def test_an_answer_that_takes_too_long_ends_at_the_limit(start: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        if start:
            drip(connection, b"x" * 900)
        else:
            connection.recv(1)  # until the sender hangs up

    with answering(talk) as url:
        started = time.monotonic()
        answer = send(url, timeout=0.3)
        assert time.monotonic() - started < 3
    assert answer.status is None
    assert "did not answer completely within 0.3 s" in answer.problem


def test_stop_ends_the_call_and_its_connection(receiver: Receiver) -> None:
    receiver.gate.clear()

    def stop() -> None:
        eventually(lambda: receiver.arrived == 1)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=stop)
    stopper.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        send(receiver.url)
    assert time.monotonic() - started < 5
    stopper.join()


def test_a_name_server_that_does_not_answer_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        released.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(receiver_call.socket, "getaddrinfo", look_up)
    answer = send("http://slow.example/", timeout=0.2)
    released.set()
    assert "within 0.2 s" in answer.problem


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "closed the connection"),
        (OK + b"content-length: 10\r\n\r\nabc", "closed the connection"),
        (b"SSH-2.0-x\r\n", "not valid HTTP"),
    ],
    ids=["nothing", "half a body", "another protocol"],
)
def test_a_broken_answer_is_said(sent: bytes, words: str) -> None:
    with answering(lambda connection: connection.sendall(sent)) as url:
        assert words in send(url).problem


def test_a_forbidden_address_is_never_called(receiver: Receiver) -> None:
    answer = send(receiver.url, allow_private=False)
    assert answer.status is None
    assert "forbidden address" in answer.problem
    assert receiver.arrived == 0


def test_a_name_that_leads_to_a_forbidden_address_is_never_called(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("93.184.216.34", "127.0.0.1")]

    monkeypatch.setattr(receiver_call.socket, "getaddrinfo", look_up)
    port = receiver.url.rpartition(":")[2]
    assert "forbidden address" in send(f"http://harmless.example:{port}/", allow_private=False).problem
    assert receiver.arrived == 0


def test_the_metadata_address_of_a_cloud_is_never_called_even_if_private_addresses_are_allowed() -> None:
    assert "forbidden address" in send("http://169.254.169.254/latest/meta-data/").problem


def test_a_name_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> list[object]:
        raise socket.gaierror

    monkeypatch.setattr(receiver_call.socket, "getaddrinfo", look_up)
    assert send("http://nowhere.example/").problem == "The host name nowhere.example does not resolve."


@contextmanager
def over_tls(authority: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def serve() -> None:
        with suppress(OSError):
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                read_request(connection)
                connection.sendall(OK + b"content-length: 2\r\n\r\nhi")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}/"
    thread.join(10)


def test_a_certificate_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    with over_tls(authority) as url:
        assert "certificate cannot be verified" in send(url).problem
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(receiver_call.ssl, "create_default_context", lambda: trusting)
    with over_tls(authority) as url:
        assert send(url).body == b"hi"


def test_plain_http_behind_an_https_url_is_said(receiver: Receiver) -> None:
    assert "TLS handshake" in send(receiver.url.replace("http:", "https:")).problem
