"""Cost of each guarantee: the engine with all of them, without one, and without any; one message per request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.engine_without import WITHOUT
from benchmarks.figures import Figure
from benchmarks.lab import Size, bench_stack
from tests.waiting import eventually
from userhooks import Stack
from userhooks.capacity import LoadUsers, Throughput, throughput
from userhooks.capacity.measure import settle
from userhooks.stack.home import Home

ROOT = Path(__file__).parents[1]
ROWS = 20_000
_NAMES = {"durability": "durability", "order": "order and retries per row", "metrics": "latency metrics", "guard": "address guard"}


class _LoadUsers(LoadUsers):
    """Load users whose engine was not started by the supervisor."""

    pid: int | None = None

    @property
    def engine_pid(self) -> int | None:
        return self.pid


def run(size: Size) -> Iterator[Figure]:
    """Measure every step.

    The runs of the steps alternate, so that a slow moment of the machine affects all of them. The run with the least CPU time counts.
    """
    steps: dict[str, tuple[str, ...]] = {"": (), **{name: (name,) for name in WITHOUT}, "any guarantee": tuple(WITHOUT)}
    best: dict[str, Throughput] = {}
    with bench_stack() as stack:
        load_users = _LoadUsers(stack)
        try:
            load_users.grow(10)
            stack.kill("sequin")
            for _ in range(size.pick(1, 3)):
                for name, without in steps.items():
                    runs = [*_runs(load_users, without, times=size.pick(2, 4)), *([best[name]] if name in best else [])]
                    best[name] = min(runs, key=lambda run: run.engine_us or 0.0)
        finally:
            load_users.counter.close()
    complete = best.pop("")
    yield Figure("ladder: all guarantees", f"{complete.engine_us:.1f} µs per message", f"{complete.per_second:,.0f} webhooks/s")
    for name, fastest in best.items():
        yield _step(f"ladder: without {_NAMES.get(name, name)}", fastest, complete)


def _step(what: str, reduced: Throughput, complete: Throughput) -> Figure:
    assert reduced.engine_us is not None
    assert complete.engine_us is not None
    comparison = f"{reduced.per_second:,.0f} webhooks/s; costs {complete.engine_us - reduced.engine_us:+.1f} µs"
    return Figure(what, f"{reduced.engine_us:.1f} µs per message", comparison)


def _runs(load_users: _LoadUsers, without: Sequence[str], times: int) -> list[Throughput]:
    with _engine(load_users.stack, without) as pid:
        load_users.pid = pid
        settle(load_users)
        return [throughput(load_users, ROWS) for _ in range(times)]


@contextmanager
def _engine(stack: Stack, without: Sequence[str]) -> Iterator[int]:
    """Run an engine in place of the stack's, which is stopped."""
    home, sequin = Home(stack.settings.home), stack.status().sequin
    config = {
        "port": int(sequin.url.rpartition(":")[2]),
        "metrics_port": int(str(sequin.metrics_url).rpartition(":")[2].partition("/")[0]),
        "api_token": sequin.api_token,
        "database_url": stack.database_url,
        "slot": home.slot,
        "publication": home.publication,
        "store": str(home.engine_store),
        "allow_private": True,
    }
    command = [sys.executable, "-m", "benchmarks.engine_without", *without]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(json.dumps(config).encode() + b"\n")
    process.stdin.flush()

    def answers() -> bool:
        try:
            return httpx.get(f"{sequin.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers, within=20, what="the engine to answer")
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(20)
