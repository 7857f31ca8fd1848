"""A minimal receiver, run as a separate program. It only answers 200 and counts, so that the sender is what limits a measurement.

Its argument is the number of ports. It listens on that many free ports, prints them as JSON, and answers each command, a line on stdin,
with a line of JSON:

- `count`: the number of requests and messages, the times of the first and the last, and the current and maximum number of connections.
- `latencies`: for each request since the last such command, the seconds from commit to receipt and the number at the end of its path.
- `reset`: restart counting from 0, without recording latencies; `reset latencies` also records them.

It exits when stdin is closed. `counting_receiver.py` starts it and sends the commands.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from datetime import datetime
from typing import Any

FILES = 20_000
"""Maximum number of open files, if the system allows it: enough for thousands of ports and connections."""
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
STAMP = b'"commit_timestamp":"'


class Counts:
    """Counters of the requests received so far."""

    def __init__(self) -> None:
        self.open = self.most_open = 0
        self.keep_latencies = False
        self.reset()

    def reset(self) -> None:
        self.requests = self.messages = 0
        self.first = self.last = 0.0
        self.most_open = self.open
        self.paths: list[int] = []
        self.latencies: list[float] = []

    def note(self, data: bytes, end: int, now: float) -> None:
        """Record the latency of a request's first message, and the number in the request's path."""
        target = data[5 : data.index(b" ", 5)]
        position = data.index(STAMP, end) + len(STAMP)
        self.paths.append(int(target.rpartition(b"/")[2]))
        self.latencies.append(now - datetime.fromisoformat(data[position : position + 27].decode()).timestamp())


class Receiver(asyncio.Protocol):
    """HTTP server for requests with a Content-Length, as the engine sends them."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.counts.open += 1
        self.counts.most_open = max(self.counts.most_open, self.counts.open)

    def connection_lost(self, exc: Exception | None) -> None:
        self.counts.open -= 1

    def data_received(self, data: bytes) -> None:
        now = time.time()
        data = self.buffer + data if self.buffer else data
        counts = self.counts
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            start = data.index(b"content-length: ") + 16
            stop = end + 4 + int(data[start : data.index(b"\r", start)])
            if len(data) < stop:
                break
            if not counts.requests:
                counts.first = now
            counts.requests += 1
            counts.messages += data.count(STAMP, end, stop)
            counts.last = now
            if counts.keep_latencies:
                counts.note(data, end, now)
            self.transport.write(ANSWER)
            data = data[stop:]
        self.buffer = data


async def main(ports: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    loop = asyncio.get_running_loop()
    counts = Counts()
    servers = [await loop.create_server(lambda: Receiver(counts), "127.0.0.1", 0, backlog=1024) for _ in range(ports)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = line.strip().decode()
        answer: dict[str, Any] = {}
        if command == "count":
            answer = {name: getattr(counts, name) for name in ("requests", "messages", "first", "last", "open", "most_open")}
        elif command == "latencies":
            answer = {"paths": counts.paths, "latencies": counts.latencies}
            counts.paths, counts.latencies = [], []
        elif command.startswith("reset"):
            counts.reset()
            counts.keep_latencies = command == "reset latencies"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
