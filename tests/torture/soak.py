"""Soak: a steady load for minutes while some receivers always fail; they come back at the end, and everything has arrived."""

from __future__ import annotations

import random
import time

from tests.torture.judge import Sink
from tests.torture.lab import Lab, Outcome, Watch, lab, milliseconds, store_size
from tests.torture.load import Writer
from tests.torture.receiver import Behaviour

REPORT_SECONDS = 30.0
WAL_BOUND = 64_000_000
MEMORY_BOUND = 250_000_000


def soak(*, seconds: float, rate: float, users: int, failing: int, seed: int) -> Outcome:
    """Write `rate` changes a second for `users`; the receivers of the first `failing` of them answer 500, or hang, until the end."""
    luck = random.Random(seed)
    with lab(users=users, seed=seed, retry_base=1.0) as one:
        sinks = [Sink(n, user=n) for n in range(1, users + 1)]
        bad, healthy = sinks[:failing], sinks[failing:]
        for sink in sinks:
            one.sink(sink, port=one.receiver.ports[sink in bad])
        numbers = [sink.number for sink in bad]
        one.receiver.behave(numbers[::2], Behaviour(status=500))
        one.receiver.behave(numbers[1::2], Behaviour(hang=1.0))
        writer = Writer(one.url, range(1, users + 1), rate=rate, every=0.02, seed=luck.randrange(1 << 30))
        with Watch(one) as watch:
            writer.start()
            _report(one, writer, watch, healthy, seconds)
            committed = writer.stop()
            one.await_all(committed, within=60, sinks=healthy)
            latencies = milliseconds(one.latencies(healthy))
            cpu = watch.cpu
            full = store_size(one)
            one.receiver.behave(numbers, Behaviour())
            for sink in bad:  # what an owner does who does not want to wait for the next attempt
                one.engine.ask("PATCH", f"/api/destinations/http_endpoints/sink-{sink.number}", {"name": f"sink-{sink.number}"})
            caught_up = one.await_all(committed, within=120)
        verdict = one.judge(committed)
        after = store_size(one)
    figures = verdict.figures() | {"healthy users": latencies, "engine CPU": f"{cpu:.0%} of one core", **watch.figures()}
    figures["store when back, at the end"] = f"{full / 1e6:.1f} MB / {after / 1e6:.1f} MB"
    figures["failing receivers caught up in"] = f"{caught_up:.1f} s"
    faults = verdict.faults()
    if watch.wal >= WAL_BOUND:
        faults.append(f"the slot kept {watch.wal / 1e6:.1f} MB of WAL, {WAL_BOUND / 1e6:.0f} MB at most")
    if watch.memory >= MEMORY_BOUND:
        faults.append(f"the engine took {watch.memory / 1e6:.0f} MB of memory, {MEMORY_BOUND / 1e6:.0f} MB at most")
    return Outcome("soak", seed, figures, faults)


def _report(one: Lab, writer: Writer, watch: Watch, healthy: list[Sink], seconds: float) -> None:
    """Print a line now and then until the time is over."""
    begun = time.monotonic()
    seen = 0
    while (now := time.monotonic() - begun) < seconds:
        writer.wait(min(REPORT_SECONDS, seconds - now))
        lines = [
            f"{time.monotonic() - begun:5.0f} s: {len(writer.committed):,} committed, {one.receiver.distinct():,} delivered",
            f"CPU {watch.cpu:.0%}",
            milliseconds(one.latencies(healthy, seen)),
            *(f"{name} {value}" for name, value in watch.figures().items()),
        ]
        seen = sum(1 for _ in one.receiver.arrivals(seen)) + seen
        print("; ".join(lines), flush=True)
