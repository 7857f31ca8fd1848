"""Load of the metrics page and the console on the event loop, with 10,000 sinks that have had traffic: `python -m benchmarks.scrape`.

A task that is scheduled every millisecond records how late it runs, without requests and during ten of them. The client is a separate
process. The lateness is the time a delivery would have to wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from uvicorn import Config as ServerConfig
from uvicorn import Server

from tests.ports import free_port
from userhooks.engine.apps import management_app, metrics_app
from userhooks.engine.clock import utc_now
from userhooks.engine.engine import Engine
from userhooks.engine.resources import ApiKey, HttpEndpoint, SinkResource
from userhooks.engine.startup import Config
from userhooks.shared.percentiles import nearest_rank

SINKS = 10_000
REQUESTS = 10
CLIENT = """
import sys, time, urllib.request as u
print(flush=True)
time.sleep(0.3)
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    size = len(u.urlopen(u.Request(sys.argv[1], headers={"Authorization": "Bearer token"})).read())
    print(size, (time.perf_counter() - started) * 1000)
    time.sleep(0.2)
"""


async def lateness(until: asyncio.Future[object] | asyncio.Task[object]) -> list[float]:
    """Return the sorted delays, in milliseconds, of a task scheduled every millisecond until `until` is done."""
    late = []
    while not until.done():
        due = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - due) * 1000)
    return sorted(late)


def formatted(late: list[float]) -> str:
    """Format the median, p99, and maximum of sorted milliseconds."""
    return f"p50 {nearest_rank(late, 50):.2f} ms, p99 {nearest_rank(late, 99):.2f} ms, worst {late[-1]:.2f} ms (n={len(late)})"


async def main() -> None:
    """Fill an engine without Postgres with sinks and counters, then measure its metrics page and its console."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        engine = Engine(Config(port, port, "token", "postgresql://127.0.0.1:1/none", Path(home) / "engine.db"))
        await engine.keys.save(ApiKey("k", "Default", hashlib.sha256(b"token").hexdigest(), utc_now()))
        engine.catalog.endpoints["e"] = HttpEndpoint("e", "e", "http", "127.0.0.1", 1)
        template = SinkResource("", "", "e", status="disabled")
        for n in range(SINKS):
            sink = replace(template, id=f"00000000-0000-4000-8000-{n:012}", name=f"user-{n}-notifications")
            engine.catalog.sinks[sink.id] = sink
            engine.registry.put_in_force(sink, n, engine.catalog.endpoints["e"])
            engine.monitor.delivery(sink.id).attempted = engine.monitor.delivery(sink.id).delivered = n + 1
            latencies = engine.monitor.latencies.of(sink.id)
            for histogram in (latencies.succeeded, latencies.failed, latencies.internal):
                histogram.observe(random.randrange(10**6))
        print(f"{SINKS} sinks; lateness without requests: {formatted(await lateness(asyncio.create_task(asyncio.sleep(2))))}")
        await measure("metrics", metrics_app(engine), port, "/metrics")
        await measure("console", management_app(engine), port, "/")
        await engine.close()


async def measure(name: str, app: Any, port: int, path: str) -> None:
    """Serve an app, send it ten requests, and print the lateness meanwhile."""
    server = Server(ServerConfig(app, port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    command = ("-c", CLIENT, f"http://127.0.0.1:{port}{path}", str(REQUESTS))
    client = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    await client.stdout.readline()  # starting a process blocks the loop, too
    asking = asyncio.create_task(client.communicate())
    late = await lateness(asking)
    sizes, times = zip(*(line.split() for line in (await asking)[0].splitlines()), strict=True)
    print(
        f"{name}: {int(sizes[0]) / 1e3:,.0f} kB in {sorted(map(float, times))[REQUESTS // 2]:.0f} ms; lateness meanwhile: {formatted(late)}"
    )
    server.should_exit = True
    await serving


if __name__ == "__main__":
    uvloop.run(main())
