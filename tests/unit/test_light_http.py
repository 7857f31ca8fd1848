"""The transport of the client of Sequin's API, against a real socket: what is kept, what is made anew, and how it fails."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.ports import free_port
from tests.waiting import eventually
from userhooks.light_http import LightTransport

Answers = Callable[[bytes, socket.socket], bool]
"""Answers one request on its connection; whether the connection stays open"""


class Server:
    """Reads requests with a `content-length`, or none, and lets `answers` answer; `requests` are those of each connection."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.requests: list[list[bytes]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            mine: list[bytes] = []
            self.requests.append(mine)
            self._threads.append(threading.Thread(target=self._serve, args=(one, mine)))
            self._threads[-1].start()

    def _serve(self, one: socket.socket, mine: list[bytes]) -> None:
        with one:
            while True:
                data = b""
                while b"\r\n\r\n" not in data or (data.endswith(b"\r\n\r\n") and b"content-length" in data.lower()):
                    some = one.recv(65536)
                    if not some:
                        return
                    data += some
                mine.append(data)
                if not self.answers(data, one):
                    return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()


def good(_: bytes, one: socket.socket) -> bool:
    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    return True


@contextmanager
def served(answers: Answers, timeout: float = 20) -> Iterator[tuple[httpx.Client, Server]]:
    server = Server(answers)
    try:
        with httpx.Client(base_url=server.url, transport=LightTransport(), timeout=timeout) as client:
            yield client, server
    finally:
        server.close()


def test_requests_are_sent_as_httpx_makes_them_and_one_connection_is_kept() -> None:
    with served(good) as (client, server):
        assert client.post("/a%2Fb?c=d", json={"e": "ü"}).json() == {}
        assert client.request("DELETE", "/x", headers={"Authorization": "Bearer t"}).status_code == 200
    [[first, second]] = server.requests
    assert first.startswith(b"POST /a%2Fb?c=d HTTP/1.1\r\n")
    assert first.endswith('\r\n\r\n{"e":"ü"}'.encode())
    assert first.lower().count(b"\r\nhost:") == first.lower().count(b"\r\naccept-encoding:") == 1
    assert b"Authorization: Bearer t\r\n" in second


def test_status_reason_headers_and_a_packed_body_are_read() -> None:
    packed = gzip.compress(b'{"summary": "no"}')

    def refuses(_: bytes, one: socket.socket) -> bool:
        one.sendall(b"HTTP/1.1 422 Not So\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
        return True

    with served(refuses) as (client, _):
        answer = client.get("/")
    assert (answer.status_code, answer.reason_phrase, answer.json()) == (422, "Not So", {"summary": "no"})


def test_calls_at_the_same_time_have_a_connection_each_and_later_ones_use_these() -> None:
    together = threading.Barrier(3)

    def waits_for_the_others(data: bytes, one: socket.socket) -> bool:
        together.wait(20)
        return good(data, one)

    with served(waits_for_the_others) as (client, server), ThreadPoolExecutor(3) as pool:
        assert [answer.status_code for answer in pool.map(client.get, ["/1", "/2", "/3"])] == [200] * 3
        assert [answer.status_code for answer in pool.map(client.get, ["/4", "/5", "/6"])] == [200] * 3
        assert [len(one) for one in server.requests] == [2, 2, 2]


def test_a_connection_that_the_server_has_closed_is_made_anew_also_for_a_post() -> None:
    def answers_and_goes(data: bytes, one: socket.socket) -> bool:
        good(data, one)
        return False

    with served(answers_and_goes) as (client, server):
        for number in (1, 2, 3):
            assert client.post("/", json=number).status_code == 200
            eventually(lambda number=number: len(server.requests) == number, within=20, what="the connection")
            eventually(lambda number=number: not server._threads[number].is_alive(), within=20, what="its end")
    assert [len(one) for one in server.requests] == [1, 1, 1]


def test_a_server_that_breaks_off_or_speaks_something_else_is_a_transport_error_and_the_next_call_is_made_anew() -> None:
    says = iter([b"", b"SMTP ready\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])

    def breaks(data: bytes, one: socket.socket) -> bool:
        wrong = next(says, None)
        if wrong is None:
            return good(data, one)
        one.sendall(wrong)
        return False

    with served(breaks) as (client, _):
        for _ in range(3):
            with pytest.raises(httpx.RemoteProtocolError):
                client.get("/")
        assert client.get("/").status_code == 200


def test_a_late_answer_is_a_read_timeout_and_never_taken_for_that_of_the_next_request() -> None:
    came = threading.Event()

    def is_late(data: bytes, one: socket.socket) -> bool:
        if data.startswith(b"GET /late"):
            came.wait(20)
            one.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"late"')
            return False
        return good(data, one)

    with served(is_late, timeout=0.2) as (client, _):
        with pytest.raises(httpx.ReadTimeout):
            client.get("/late")
        came.set()
        assert client.get("/", timeout=20).json() == {}


def test_nothing_listening_is_a_connect_error_and_another_scheme_an_unsupported_protocol() -> None:
    with httpx.Client(transport=LightTransport()) as client, pytest.raises(httpx.ConnectError, match="refused"):
        client.get(f"http://127.0.0.1:{free_port()}")
    with httpx.Client(transport=LightTransport()) as client, pytest.raises(httpx.UnsupportedProtocol):
        client.get("ftp://127.0.0.1")
