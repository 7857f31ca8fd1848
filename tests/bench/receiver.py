"""A receiver that does as little as possible: it answers 200 and counts, so that the sender is what is measured.

Run as a program it listens on a free port, prints it, and answers one-line commands on stdin with one line of JSON: `count` gives the
requests and messages so far with the time of the last; `latencies` the commit-to-receipt times in seconds since the last such command;
`reset` starts anew.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
STAMP = b'"commit_timestamp":"'


class Counts:
    """What has come so far."""

    def __init__(self) -> None:
        self.reset()
        self.keep_latencies = False

    def reset(self) -> None:
        self.requests = self.messages = 0
        self.first = self.last = 0.0
        self.latencies: list[float] = []


class Receiver(asyncio.Protocol):
    """Requests with a content-length, as the engine sends them."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.time()
        data = self.buffer + data if self.buffer else data
        counts = self.counts
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            start = data.index(b"content-length: ") + 16
            size = int(data[start : data.index(b"\r", start)])
            stop = end + 4 + size
            if len(data) < stop:
                break
            if not counts.requests:
                counts.first = now
            counts.requests += 1
            counts.messages += data.count(STAMP, end, stop)
            counts.last = now
            if counts.keep_latencies:
                at = data.index(STAMP, end) + len(STAMP)
                counts.latencies.append(now - datetime.fromisoformat(data[at : at + 27].decode()).timestamp())
            self.transport.write(ANSWER)
            data = data[stop:]
        self.buffer = data


async def main() -> None:
    loop = asyncio.get_running_loop()
    counts = Counts()
    server = await loop.create_server(lambda: Receiver(counts), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = line.strip().decode()
        answer: dict[str, Any] = {}
        if command == "count":
            answer = {"requests": counts.requests, "messages": counts.messages, "first": counts.first, "last": counts.last}
        elif command == "latencies":
            answer, counts.latencies = {"latencies": counts.latencies}, []
        elif command.startswith("reset"):
            counts.reset()
            counts.keep_latencies = command == "reset latencies"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
