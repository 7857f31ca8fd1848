"""`userhooks listen` as a program: it forwards an inbox's new requests to a real web server and says what became of them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.ports import free_port
from tests.receiving_server import receiving
from tests.stack.conftest import Installation
from tests.waiting import eventually
from userhooks import Stack


class Listening:
    """A `userhooks listen` and the lines that it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        return re.findall(r"send to (\S+)", self.text)[0]

    def says(self, text: str) -> None:
        eventually(lambda: re.search(text, self.text), what=f"listen says {text}: {self.lines}")


@contextmanager
def listening(installation: Installation, url: str, *options: str) -> Iterator[Listening]:
    command = [sys.executable, "-m", "userhooks.cli", "listen", "--forward-to", url, *options]
    with subprocess.Popen(command, env=installation.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        listening = Listening(process)
        reader = threading.Thread(target=listening.read)
        reader.start()
        try:
            listening.says("Press Ctrl-C to stop")
            yield listening
        finally:
            process.kill()
            reader.join()


def test_new_requests_are_forwarded_and_ctrl_c_sums_up(running: Installation) -> None:
    with Stack.attach(running.settings) as stack:
        inbox = stack.inspector.inbox("shop")
    httpx.post(inbox.url, content=b"before", trust_env=False)
    with receiving() as server, listening(running, f"{server.url}/hooks", "--inbox", "shop") as listen:
        assert listen.url == inbox.url
        httpx.post(f"{inbox.url}/orders?id=7", content=b"\x00\xff", trust_env=False)
        listen.says(r"\d\d:\d\d:\d\d\.\d{3}  --> POST /hooks/orders\?id=7, 2 bytes\n")
        listen.says(r"<-- 200, \d+ ms")
        server.status = 500
        httpx.put(inbox.url, content=b"x", trust_env=False)
        listen.says(r"--> PUT /hooks, 1 byte\n.*<-- 500, \d+ ms")
        assert [(got.method, got.target, got.body) for got in server.got] == [
            ("POST", "/hooks/orders?id=7", b"\x00\xff"),
            ("PUT", "/hooks", b"x"),
        ]
        listen.process.send_signal(signal.SIGINT)
        assert listen.process.wait(20) == 130
        listen.says(r"Forwarded 2 requests in [\d,]+ s: 1 answered 200, 1 answered 500\.$")
        assert "Traceback" not in listen.text


def test_a_server_that_is_down_is_said_and_the_next_request_reaches_it(running: Installation) -> None:
    port = free_port()
    with listening(running, f"http://localhost:{port}/") as listen:
        httpx.post(listen.url, content=b"lost", trust_env=False)
        listen.says("<-- connection refused")
        with receiving(port) as server:
            httpx.post(listen.url, content=b"found", trust_env=False)
            listen.says(r"<-- 200, \d+ ms")
            assert [got.body for got in server.got] == [b"found"]
        listen.process.terminate()
        assert listen.process.wait(20) == 143
        listen.says(r"Forwarded 2 requests in [\d,]+ s: 1 connection refused, 1 answered 200\.$")


def test_an_inspector_that_restarts_is_waited_for(running: Installation) -> None:
    stack = Stack.attach(running.settings)
    with receiving() as server, listening(running, server.url) as listen:
        stack.kill("inspector")
        listen.says("The inspector does not answer")
        stack.restart("inspector")
        httpx.post(listen.url, content=b"after", trust_env=False)
        listen.says(r"<-- 200, \d+ ms")
        assert [got.body for got in server.got] == [b"after"]


def test_a_target_elsewhere_is_refused(running: Installation) -> None:
    assert "loopback interface" in running.fail("listen", "--forward-to", "http://192.0.2.1/hooks")
