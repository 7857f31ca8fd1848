"""The main benchmark: webhooks per second, messages per second in batches, latency at a low rate, each beside a yardstick of the same run.

    python -m tests.bench.run

The yardsticks: the engine's own HTTP client in a bare loop of POSTs to the same receiver, and `pg_recvlogical` reading the same changes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import uvloop

from userhooks.database import Database
from userhooks.engine.http import HttpClient
from userhooks.postgres import PostgresServer, find_binaries

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Program:
    """A child process that answers on stdout line by line, and what the operating system says it used."""

    process: subprocess.Popen[str]

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def cpu(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def megabytes(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Setup:
    """Postgres, engine and receiver of one run."""

    url: str
    api: str
    token: str
    receiver: Program
    receiver_port: int
    engine: Program
    server: PostgresServer
    folder: Path
    sinks: list[str] = field(default_factory=list)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(self.api + path, json=body, headers={"Authorization": f"Bearer {self.token}"}, timeout=30)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result

    def sink(self, name: str, **more: Any) -> None:
        self.post("/api/destinations/http_endpoints", {"name": name, "url": f"http://127.0.0.1:{self.receiver_port}/in/{name}"})
        destination = {"type": "webhook", "http_endpoint": name}
        source = {"include_tables": ["public.notifications"]}
        self.post("/api/sinks", {"name": name, "database": "postgres", "source": source, "destination": destination, **more})
        self.sinks.append(name)

    def remove_sinks(self) -> None:
        for name in self.sinks:
            httpx.delete(f"{self.api}/api/sinks/{name}", headers={"Authorization": f"Bearer {self.token}"}, timeout=30).raise_for_status()
        self.sinks.clear()

    def until(self, messages: int, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            count = self.receiver.ask("count")
            if count["messages"] >= messages:
                return count
            if time.monotonic() > deadline:
                raise SystemExit(f"only {count['messages']} of {messages} messages came within {seconds} s")
            time.sleep(0.02)


@contextmanager
def setup() -> Iterator[Setup]:
    folder = Path(tempfile.mkdtemp(prefix="userhooks-bench-"))
    server = PostgresServer(folder, port=free_port(), password=secrets.token_hex(8), log=folder / "postgres.log")
    programs: list[Program] = []
    try:
        server.start()
        url = server.url()
        Database(url).set_up("bench_pub")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into users (name) select 'user ' || n from generate_series(1, 100) n")
        receiver = Program(_spawn("tests.bench.receiver"))
        programs.append(receiver)
        assert receiver.process.stdout
        receiver_port = int(receiver.process.stdout.readline())
        port, token = free_port(), secrets.token_hex(8)
        engine = Program(_spawn("userhooks.engine", (folder / "engine.log").open("w")))
        programs.append(engine)
        config = {
            "port": port,
            "metrics_port": free_port(),
            "api_token": token,
            "database_url": url,
            "store": str(folder / "engine.db"),
            "slot": "bench",
            "publication": "bench_pub",
            "allow_private": True,
        }
        assert engine.process.stdin
        engine.process.stdin.write(json.dumps(config) + "\n")
        engine.process.stdin.flush()
        api = f"http://127.0.0.1:{port}"
        _until_healthy(api)
        yield Setup(url, api, token, receiver, receiver_port, engine, server, folder)
    finally:
        for program in reversed(programs):
            program.end()
        server.remove()
        shutil.rmtree(folder)


def _spawn(module: str, log: Any = None) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)


def _until_healthy(api: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if httpx.get(api + "/health").status_code == 200:
                return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def insert(url: str, rows: int, per_transaction: int = 1000) -> float:
    """Insert rows over the users and return the time at which the first transaction began."""
    with psycopg.connect(url, autocommit=True) as connection:
        began = time.time()
        for start in range(0, rows, per_transaction):
            connection.execute(
                "insert into notifications (user_id, message)"
                " select 1 + n %% 100, 'Notification ' || n from generate_series(%s::int, %s::int) n",
                (start + 1, min(rows, start + per_transaction)),
            )
    return began


def throughput(s: Setup, name: str, rows: int, **sink: Any) -> float:
    s.sink(name, **sink)
    s.receiver.ask("reset")
    before = s.engine.cpu()
    began = insert(s.url, rows)
    count = s.until(rows)
    rate = rows / (count["last"] - began)
    cpu = (s.engine.cpu() - before) / rows * 1e6
    print(
        f"{name:24} {rate:10,.0f} messages/s  {count['requests']:,} requests, engine {cpu:.1f} us CPU each, {s.engine.megabytes():.0f} MB"
    )
    s.remove_sinks()
    return rate


def latency(s: Setup, rate: int, seconds: float) -> None:
    s.sink("latency")
    s.receiver.ask("reset latencies")
    with psycopg.connect(s.url, autocommit=True) as connection:
        began = time.monotonic()
        for n in range(int(rate * seconds)):
            time.sleep(max(0.0, began + n / rate - time.monotonic()))
            connection.execute("insert into notifications (user_id, message) values (%s, 'hello')", (1 + n % 100,))
    s.until(int(rate * seconds))
    values = sorted(s.receiver.ask("latencies")["latencies"])
    p50, p99 = (values[int(len(values) * q)] * 1000 for q in (0.5, 0.99))
    worst = values[-1] * 1000
    print(f"{f'latency at {rate}/s':24} {p50:10.2f} ms p50, {p99:.2f} ms p99, {worst:.2f} ms max (commit to receipt, {len(values)} rows)")
    s.remove_sinks()


class _Posts:
    """A bare loop of one request for the engine's HTTP client."""

    def __init__(self, request: bytes, count: int) -> None:
        self.request, self.left, self.unanswered, self.done = request, count, count, asyncio.Event()

    suspect = False

    def slow(self) -> None:
        """A receiver on this machine that takes a second is noted by nobody."""

    def next_request(self) -> tuple[bytes, _Posts] | None:
        if not self.left:
            return None
        self.left -= 1
        return self.request, self

    def has_more(self) -> bool:
        return self.left > 0

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        assert status == 200, error
        self.unanswered -= 1
        if not self.unanswered:
            self.done.set()


def bare_posts(s: Setup, count: int, per_request: int) -> float:
    """The yardstick for delivery: requests of the same size from the same client, with nothing around them."""
    message = b'{"record":{},"metadata":{"commit_timestamp":"' + b"x" * 550 + b'"}}'
    body = b'{"data":[' + b",".join([message] * per_request) + b"]}"
    request = b"POST /in/bare HTTP/1.1\r\ncontent-length: %d\r\nhost: x\r\n\r\n%b" % (len(body), body)

    async def post() -> float:
        client = HttpClient(allow_private=True)
        posts = _Posts(request, count)
        began = time.perf_counter()
        client.origin(("http", "127.0.0.1", s.receiver_port)).offer(posts)
        await posts.done.wait()
        took = time.perf_counter() - began
        client.close()
        return count * per_request / took

    s.receiver.ask("reset")
    return uvloop.run(post())


def recvlogical(s: Setup, rows: int) -> float:
    """The yardstick for reading: pg_recvlogical over a slot with the same number of changes."""
    slot = "yardstick"
    with psycopg.connect(s.url, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        insert(s.url, rows)
        end = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        began = time.perf_counter()
        subprocess.run(
            [find_binaries().program("pg_recvlogical"), "-d", s.url, "-S", slot, "--start", "-f", "/dev/null"]
            + ["--endpos", end[0] if end else "", "-o", "proto_version=1", "-o", "publication_names=bench_pub"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        took = time.perf_counter() - began
        connection.execute("select pg_drop_replication_slot(%s)", (slot,))
    return rows / took


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=50_000)
    rows = arguments.parse_args().rows
    with setup() as s:
        with psycopg.connect(s.url) as connection:
            version = connection.info.server_version
        print(f"Python {platform.python_version()}, Postgres {version // 10000}.{version % 10000}, {os.cpu_count()} cores, fsync on")
        one = throughput(s, "one-per-request", rows)
        bare = bare_posts(s, rows, 1)
        print(f"{'  bare POST loop':24} {bare:10,.0f} messages/s  ratio {one / bare:.2f}")
        many = throughput(s, "hundred-per-request", rows * 2, batch_size=100)
        bare = bare_posts(s, rows // 50, 100)
        print(f"{'  bare POST loop':24} {bare:10,.0f} messages/s  ratio {many / bare:.2f}")
        read = recvlogical(s, rows * 2)
        print(f"{'  pg_recvlogical':24} {read:10,.0f} changes/s   ratio {many / read:.2f}")
        latency(s, 100, 10)


if __name__ == "__main__":
    main()
