"""A webhook receiver for high loads: a separate process that records every message it answered with 2xx, and misbehaves by path.

Run as a program (`python -m tests.torture.receiver ARRIVALS SEED PORTS`), it listens on that many free ports, each of which is a separate
origin to the engine. It prints them as a line of JSON, and answers one-line JSON commands on stdin. A request to `/7` belongs to sink 7.
`ReceiverProgram` is its client, and `judge.py` evaluates the arrivals.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import uvloop

from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
_RECORD = struct.Struct("<ddIqqQQI")
_DRIP_SECONDS = 1.0


@dataclass(frozen=True)
class Behaviour:
    """How one sink's requests are answered: with `status`, after `delay` seconds.

    `fail` is the probability of a 500 instead, and `hang` that of no response. With `drip`, the response is sent one byte per second.
    """

    status: int = 200
    delay: float = 0.0
    fail: float = 0.0
    hang: float = 0.0
    drip: bool = False


class Arrival(NamedTuple):
    """A message that was answered with 2xx.

    `at` is in seconds of the monotonic clock, which all processes share, and `latency` in seconds since the commit. `user` is -1 for null,
    `version` is as in `load.py`, and `lsn` and `idx` are from the idempotency key.
    """

    at: float
    latency: float
    sink: int
    row: int
    user: int
    version: int
    lsn: int
    idx: int


class ReceiverProgram:
    """Client of a running receiver; `ports` are its origins."""

    def __init__(self, folder: Path, *, seed: int, origins: int = 2) -> None:
        self._arrivals = folder / "arrivals"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.receiver", str(self._arrivals), str(seed), str(origins)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports: list[int] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def behave(self, sinks: Sequence[int], behaviour: Behaviour) -> None:
        """Answer requests of these sinks like this from now on; connections that hang or drip are closed."""
        self._ask(sinks=list(sinks), behaviour=asdict(behaviour))

    def distinct(self, sinks: Sequence[int] | None = None) -> int:
        """Return how many distinct messages of these sinks (all by default) have been answered with 2xx."""
        return int(self._ask(distinct=None if sinks is None else list(sinks)))

    def settle(self) -> None:
        """Wait until everything that a killed sender sent has been read and recorded, and its connections are closed.

        Connections are accepted in order, though with a delay, so those opened here come after all of the sender's.
        """
        connections = [socket.create_connection(("127.0.0.1", port)) for port in self.ports]
        try:
            own_ports = sorted(connection.getsockname()[1] for connection in connections)
            eventually(
                lambda: self._ask(peers=True) == own_ports, within=60, every=0.001, what="the killed sender's connections to be closed"
            )
        finally:
            for connection in connections:
                connection.close()

    def arrivals(self, start: int = 0) -> Iterator[Arrival]:
        """Yield the messages that were answered with 2xx, in order, without the first `start`."""
        self._ask(flush=True)
        with self._arrivals.open("rb") as file:
            file.seek(start * _RECORD.size)
            while chunk := file.read(_RECORD.size * 10_000):
                yield from map(Arrival._make, _RECORD.iter_unpack(chunk))

    def close(self) -> None:
        """Stop the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


# --- the program ---------------------------------------------------------------------------------------------------------


class _Records:
    """State that the receiver's connections share."""

    def __init__(self, path: Path, seed: int) -> None:
        self.file = path.open("wb", buffering=1 << 20)
        self.rng = random.Random(seed)
        self.behaviours: dict[int, Behaviour] = defaultdict(Behaviour)
        self.seen: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.stuck: dict[int, set[_Connection]] = defaultdict(set)
        self.peers: set[int] = set()
        """Client ports of the open connections."""

    def take(self, sink: int, body: bytes) -> None:
        """Record the messages of an answered request."""
        now, wall = time.monotonic(), time.time()
        document = orjson.loads(body)
        seen = self.seen[sink]
        for message in document.get("data", [document]):
            record, metadata = message["record"], message["metadata"]
            lsn, index = (int(part) for part in base64.b64decode(metadata["idempotency_key"]).split(b":"))
            committed = datetime.fromisoformat(metadata["commit_timestamp"]).timestamp()
            user = record["user_id"]
            version = 2 * int(record["message"]) + (message["action"] == "delete")
            row = _RECORD.pack(now, wall - committed, sink, record["id"], -1 if user is None else user, version, lsn, index)
            self.file.write(row)
            seen.add((lsn, index))

    def command(self, command: dict[str, Any]) -> Any:
        """Run a command of the client, and return the response."""
        if "behaviour" in command:
            for sink in command["sinks"]:
                self.behaviours[sink] = Behaviour(**command["behaviour"])
                for connection in list(self.stuck[sink]):
                    connection.hang_up()
        elif "distinct" in command:
            sinks = command["distinct"]
            return sum(len(self.seen[sink]) for sink in (list(self.seen) if sinks is None else sinks))
        elif "peers" in command:
            return sorted(self.peers)
        elif "flush" in command:
            self.file.flush()
        return None


class _Connection(asyncio.Protocol):
    """A connection with one request at a time, with a Content-Length, as the engine sends them."""

    def __init__(self, records: _Records) -> None:
        self.records = records
        self.buffer = b""
        self.sink = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.peer: int = transport.get_extra_info("peername")[1]
        self.records.peers.add(self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.records.peers.discard(self.peer)
        self.records.stuck[self.sink].discard(self)

    def hang_up(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            start = self.buffer.index(b"content-length: ") + 16
            stop = end + 4 + int(self.buffer[start : self.buffer.index(b"\r", start)])
            if len(self.buffer) < stop:
                return
            self.sink = int(self.buffer[self.buffer.index(b"/") + 1 : self.buffer.index(b" HTTP/1.1")])
            body, self.buffer = self.buffer[end + 4 : stop], self.buffer[stop:]
            self._request(body)

    def _request(self, body: bytes) -> None:
        records = self.records
        behaviour = records.behaviours[self.sink]
        if behaviour.hang and records.rng.random() < behaviour.hang:
            records.stuck[self.sink].add(self)
        elif behaviour.drip:
            records.stuck[self.sink].add(self)
            self._drip(body, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        else:
            status = 500 if behaviour.fail and records.rng.random() < behaviour.fail else behaviour.status
            if behaviour.delay:
                asyncio.get_running_loop().call_later(behaviour.delay, self._finish, status, body)
            else:
                self._finish(status, body)

    def _drip(self, body: bytes, remaining: bytes) -> None:
        if self.transport.is_closing():
            return
        if len(remaining) == 1:
            self.records.take(self.sink, body)
        self.transport.write(remaining[:1])
        if len(remaining) > 1:
            asyncio.get_running_loop().call_later(_DRIP_SECONDS, self._drip, body, remaining[1:])

    def _finish(self, status: int, body: bytes) -> None:
        if self.transport.is_closing():
            return
        if status == 200:
            self.records.take(self.sink, body)
        self.transport.write(b"HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n" % status)


async def _main(path: str, seed: str, origins: str) -> None:
    loop = asyncio.get_running_loop()
    records = _Records(Path(path), int(seed))
    servers = [await loop.create_server(lambda: _Connection(records), "127.0.0.1", 0, backlog=1024) for _ in range(int(origins))]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(records.command(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
