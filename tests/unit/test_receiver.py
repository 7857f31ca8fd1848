"""A receiver in a thread of the notebook: it answers, prints nothing, is replaced on the same port, and reports errors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

import httpx
import pytest

from userhooks.errors import ConfigurationError, DeliveriesMissing, InvalidInput
from userhooks.lessons import own_receiver
from userhooks.lessons.own_receiver import ReceiverServer

PLACE = "a lesson"


class Echo(BaseHTTPRequestHandler):
    """Answer the status in the body; raise if the body is not a number."""

    def do_POST(self) -> None:
        self.send_response(int(self.rfile.read(int(self.headers["Content-Length"]))))
        self.end_headers()


class Teapot(Echo):
    def do_POST(self) -> None:
        self.send_response(418)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[ReceiverServer]:
    with ReceiverServer(Echo) as one:
        yield one


@pytest.fixture
def place() -> Iterator[str]:
    yield PLACE
    own_receiver.leave(PLACE)


def post(server: ReceiverServer, body: str) -> int:
    return httpx.post(server.url, content=body, trust_env=False).status_code


def test_it_answers_what_the_handler_says_and_remembers_it(server: ReceiverServer) -> None:
    assert [post(server, body) for body in ("200", "401", "200")] == [200, 401, 200]
    answers = server.answers()
    assert answers["status"].tolist() == [200, 401, 200]
    assert set(answers["error"]) == {""}
    assert answers["seconds"].between(0, 10).all()
    assert answers["received_at"].is_monotonic_increasing
    assert server.wait_for(2) == 2
    assert server.wait_for(1, status=401) == 1


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - only during this test
def test_this_machine_reaches_it_whatever_name_the_sender_knows_it_by(bind: str) -> None:
    with ReceiverServer(Echo, bind=bind, host="only-the-sender-knows.invalid") as server:
        assert server.url == f"http://only-the-sender-knows.invalid:{server.port}/"
        assert httpx.post(server.local_url, content="200", trust_env=False).status_code == 200


def test_an_empty_one_has_the_same_columns(server: ReceiverServer) -> None:
    kinds = {name: str(kind) for name, kind in server.answers().dtypes.items()}
    assert kinds == {"received_at": "datetime64[us, UTC]", "status": "Int64", "seconds": "float64", "error": "str"}
    assert not len(server.answers())


def test_a_handler_that_raises_sends_no_answer_and_says_why(server: ReceiverServer) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, "not a number")
    assert server.answers()["status"].isna().tolist() == [True]
    assert server.answers()["error"][0].startswith("ValueError: invalid literal")
    with pytest.raises(DeliveriesMissing, match=r"(?s)0 of 1 requests were answered 200.*Outcomes so far: 1 × ValueError"):
        server.wait_for(1, timeout=0)


def test_nothing_is_printed(server: ReceiverServer, capfd: pytest.CaptureFixture[str]) -> None:
    post(server, "200")
    httpx.get(server.url, trust_env=False)  # the handler has no do_GET
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, "")
    with socket.create_connection(("127.0.0.1", server.port)) as sender:
        sender.sendall(b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n20")  # and disconnects before the body ends
    server.close()
    assert capfd.readouterr() == ("", "")


def test_waiting_for_what_never_came_names_the_cause(server: ReceiverServer) -> None:
    with pytest.raises(DeliveriesMissing, match="No request arrived"):
        server.wait_for(1, timeout=0)


def test_many_at_once_are_all_answered(server: ReceiverServer) -> None:
    threads = [threading.Thread(target=post, args=(server, "200")) for _ in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert server.wait_for(50) == 50


def test_a_closed_one_answers_nothing_and_can_be_closed_again() -> None:
    server = ReceiverServer(Echo)
    with httpx.Client(trust_env=False) as sender:  # keeps connections alive
        assert sender.post(server.url, content="200").status_code == 200
        server.close()
        server.close()
        with pytest.raises(httpx.ConnectError):
            sender.post(server.url, content="200")


def test_a_connection_that_a_sender_opened_ahead_is_ended_with_its_server() -> None:
    server = ReceiverServer(Echo)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as ahead:
        post(server, "200")  # accepted later, so the earlier connection is accepted too
        server.close()
        assert ahead.recv(1) == b""


def test_what_has_come_when_a_server_is_closed_is_still_answered() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Patient(Echo):
        def do_POST(self) -> None:
            begun.set()
            goes_on.wait(10)
            super().do_POST()

    server = ReceiverServer(Patient)
    answers: list[int] = []
    sender = threading.Thread(target=lambda: answers.append(post(server, "200")))
    sender.start()
    assert begun.wait(10)
    server.close()
    goes_on.set()
    sender.join(10)
    assert answers == [200]


def test_a_second_one_takes_the_place_and_the_url_of_the_first(place: str) -> None:
    first = own_receiver.serve(place, Echo)
    second = own_receiver.serve(place, Teapot)
    assert second.url == first.url
    assert post(second, "200") == 418
    assert not len(first.answers())
    own_receiver.leave(place)
    own_receiver.leave(place)
    with pytest.raises(httpx.ConnectError):
        post(second, "200")


def test_what_is_no_handler_is_refused_and_the_one_that_serves_goes_on(place: str) -> None:
    first = own_receiver.serve(place, Echo)
    with pytest.raises(InvalidInput, match=r"http\.server\.BaseHTTPRequestHandler"):
        own_receiver.serve(place, cast("Any", post))
    assert post(first, "200") == 200


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            ReceiverServer(Echo, port=port)
