"""Benchmark of the inspector: webhooks per second while it stores them, response times, and the time to read them back. A script.

The yardstick, in the same run with the same sender, is a bare ASGI app on the same server that reads the body, answers, and stores nothing.
`python -m benchmarks.inspector [--seconds 5] [--connections 64]`
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httpx
import uvloop

from tests.inspector.program import TOKEN, running, with_token
from tests.ports import free_port
from tests.waiting import eventually
from userhooks.inspector.client import InspectorClient

BODY = (
    b'{"data":[{"record":{"created_at":"2026-11-23T17:45:03.606092Z","id":10,"message":"bench","user_id":1},"metadata":{"consumer":'
    b'{"id":"dae14c53-a03c-4067-b1fd-df7dc8e4d4f9","name":"user-1-notifications","annotations":{"user_id":1}},"database":{"id":'
    b'"b08b1ff1-6ac3-4d63-8580-18475785ba97","name":"postgres","hostname":"127.0.0.1","database":"postgres","annotations":{}},"table_name":'
    b'"notifications","commit_idx":0,"commit_lsn":47691256,"commit_timestamp":"2026-11-23T17:45:03.606834Z","idempotency_key":"NDc2OTEyNTY6MA==",'
    b'"table_schema":"public","transaction_annotations":null,"record_pks":["10"],"enrichment":null,"database_name":"postgres"},"action":"insert",'
    b'"changes":null}]}'
)

BARE = """
import sys, uvicorn
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
quiet = dict(log_config=None, access_log=False, server_header=False)
uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", **quiet)
"""


class Sender(asyncio.Protocol):
    """A persistent connection with one request in flight, like that of a sink's worker; `took` collects the seconds per response."""

    def __init__(self, request: bytes, took: list[float], pause: float) -> None:
        self.request, self.took, self.pause = request, took, pause

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass
        self.send()

    def send(self) -> None:
        if self.transport.is_closing():
            return
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"The inspector answered {data!r}")
        now = time.perf_counter()
        self.took.append(now - self.sent)
        if self.pause:
            asyncio.get_running_loop().call_later(self.pause, self.send)
        else:
            self.send()


async def load(url: str, seconds: float, connections: int, pause: float = 0.0) -> tuple[float, list[float]]:
    """Send requests for `seconds`; return the responses per second, and the seconds that each response took."""
    parts = httpx.URL(url)
    request = (
        b"POST %b HTTP/1.1\r\ncontent-length: %d\r\nhost: %b\r\naccept: application/json\r\n"
        b"accept-encoding: gzip\r\ncontent-type: application/json\r\nuser-agent: req/0.5.15\r\n"
        b"authorization: Bearer 0123456789012345678901234567890123456789012\r\n\r\n" % (parts.raw_path, len(BODY), parts.netloc)
    ) + BODY
    loop = asyncio.get_running_loop()
    took: list[float] = []
    transports = []
    start = time.perf_counter()
    for _ in range(connections):
        transport, _protocol = await loop.create_connection(lambda: Sender(request, took, pause), parts.host, parts.port or 80)
        transports.append(transport)
    await asyncio.sleep(seconds)
    rate = len(took) / (time.perf_counter() - start)
    for transport in transports:
        transport.close()
    return rate, took


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def milliseconds(took: list[float]) -> str:
    cuts = statistics.quantiles(took, n=100)
    return f"p50 {cuts[49] * 1000:.2f} ms, p99 {cuts[98] * 1000:.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    port = free_port()
    bare = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        eventually(lambda: _answers(port), what="the bare server answers")
        yardstick, _ = uvloop.run(load(f"http://127.0.0.1:{port}/", options.seconds, options.connections))
        _, slow_bare = uvloop.run(load(f"http://127.0.0.1:{port}/", options.seconds, 1, pause=0.01))
    finally:
        bare.kill()
        bare.wait()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as program:
        inbox = httpx.post(f"{program.url}/api/inboxes", json={}, auth=with_token, trust_env=False).json()
        rate, took = uvloop.run(load(inbox["url"], options.seconds, options.connections))
        kept = httpx.get(f"{program.url}/api/inboxes/{inbox['id']}", auth=with_token, trust_env=False).json()["last_seq"]
        _, slow = uvloop.run(load(inbox["url"], options.seconds, 1, pause=0.01))
        with InspectorClient(program.url, TOKEN) as client:
            stored = client.inbox(inbox["name"])
            first = seconds(stored.messages)
            again = seconds(stored.messages)
            requests = seconds(stored.requests)
            newest = seconds(lambda: client.call("GET", f"/api/inboxes/{stored.id}/requests?after={stored.count() - 100}"))
            read = stored.count()
    print(f"bare ASGI app          {yardstick:8.0f} webhooks/s")
    print(f"inspector, storing     {rate:8.0f} webhooks/s ({rate / yardstick:.2f} of bare), {milliseconds(took)}")
    print(f"answered {len(took)}, stored {kept}")
    print(f"reading {read}          messages() {first:.2f} s, again {again:.2f} s, requests() {requests:.2f} s")
    print(f"the newest 100         {newest * 1000:.1f} ms")
    print(f"one at a time, 100/s   {milliseconds(slow)} (bare: {milliseconds(slow_bare)})")


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
