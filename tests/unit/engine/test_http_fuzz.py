"""The delivery client with receivers that send arbitrary bytes: every request gets one outcome in time, and later requests work."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.unit.engine.test_http import OK, Requests, read_request, server
from userhooks.engine.delivery.http_client import HttpClient

TIMEOUT = 0.4
VALID = [
    OK,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 429 Slow Down\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
]


def answer(rng: random.Random) -> list[bytes]:
    """Return a response in parts: complete, damaged, duplicated, truncated, endless, or not a response at all."""
    data = bytearray(rng.choice(VALID))
    match rng.randrange(8):
        case 0:
            data = bytearray(rng.randbytes(rng.randrange(1, 200)))
        case 1:
            data += rng.choice(VALID)
        case 2:
            del data[rng.randrange(len(data)) :]
        case 3:
            data = bytearray(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000)
        case 4:
            data = bytearray(b"HTTP/1.1 102 Processing\r\n\r\n" * 5_000)
        case 5:
            data = bytearray(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"ffff\r\n" + bytes(200_000))
        case 6:
            for _ in range(rng.randrange(1, 5)):
                data[rng.randrange(len(data))] = rng.randrange(256)
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
    return [bytes(data[a:b]) for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_every_request_has_one_outcome_whatever_is_answered(seed: int) -> None:
    rng = random.Random(seed)
    faults: list[dict[str, Any]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for part in answer(rng):
                writer.write(part)
                await writer.drain()
            if rng.random() < 0.3:
                return

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(OK)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with server(handler) as port, server(polite) as good_port:
            client = HttpClient(allow_private=True, timeout=TIMEOUT)
            requests, good = Requests(60), Requests(20)
            client.origin(("http", "127.0.0.1", port)).offer(requests)
            client.origin(("http", "127.0.0.1", good_port)).offer(good)
            await asyncio.wait_for(asyncio.gather(requests.done.wait(), good.done.wait()), 60 * (TIMEOUT + 1))
            assert len(requests.outcomes) == 60
            assert all(status is None or 100 <= status <= 999 for status, _, _ in requests.outcomes)
            assert [status for status, _, _ in good.outcomes] == [200] * 20
            client.close()

    asyncio.run(run())
    assert [fault for fault in faults if not isinstance(fault.get("exception"), ConnectionError)] == []
