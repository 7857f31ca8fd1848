"""Soak: a steady load for minutes while some receivers keep failing; they recover at the end, and everything must arrive."""

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
    """Write `rate` changes per second for `users`; the receivers of the first `failing` users answer 500 or hang until the end."""
    rng = random.Random(seed)
    with lab(users=users, seed=seed, retry_base=1.0) as run:
        sinks = [Sink(n, user=n) for n in range(1, users + 1)]
        failing_sinks, healthy = sinks[:failing], sinks[failing:]
        for sink in sinks:
            run.sink(sink, port=run.receiver.ports[sink in failing_sinks])
        numbers = [sink.number for sink in failing_sinks]
        run.receiver.behave(numbers[::2], Behaviour(status=500))
        run.receiver.behave(numbers[1::2], Behaviour(hang=1.0))
        writer = Writer(run.url, range(1, users + 1), rate=rate, every=0.02, seed=rng.randrange(1 << 30))
        with Watch(run) as watch:
            writer.start()
            _report(run, writer, watch, healthy, seconds)
            committed = writer.stop()
            run.await_all(committed, within=60, sinks=healthy)
            latencies = milliseconds(run.latencies(healthy))
            cpu = watch.cpu
            at_recovery = store_size(run)
            run.receiver.behave(numbers, Behaviour())
            for sink in failing_sinks:  # as an owner does who does not want to wait for the next attempt
                run.engine.ask("PATCH", f"/api/destinations/http_endpoints/sink-{sink.number}", {"name": f"sink-{sink.number}"})
            caught_up = run.await_all(committed, within=120)
        verdict = run.judge(committed)
        after = store_size(run)
    figures = verdict.figures() | {"healthy users": latencies, "engine CPU": f"{cpu:.0%} of one core", **watch.figures()}
    figures["store at recovery, at the end"] = f"{at_recovery / 1e6:.1f} MB / {after / 1e6:.1f} MB"
    figures["failing receivers caught up in"] = f"{caught_up:.1f} s"
    faults = verdict.faults()
    if watch.wal >= WAL_BOUND:
        faults.append(f"the slot kept {watch.wal / 1e6:.1f} MB of WAL, at most {WAL_BOUND / 1e6:.0f} MB is allowed")
    if watch.memory >= MEMORY_BOUND:
        faults.append(f"the engine used {watch.memory / 1e6:.0f} MB of memory, at most {MEMORY_BOUND / 1e6:.0f} MB is allowed")
    return Outcome("soak", seed, figures, faults)


def _report(run: Lab, writer: Writer, watch: Watch, healthy: list[Sink], seconds: float) -> None:
    """Print a line every 30 seconds until `seconds` have passed."""
    started = time.monotonic()
    seen = 0
    while (now := time.monotonic() - started) < seconds:
        writer.wait(min(REPORT_SECONDS, seconds - now))
        lines = [
            f"{time.monotonic() - started:5.0f} s: {len(writer.committed):,} committed, {run.receiver.distinct():,} delivered",
            f"CPU {watch.cpu:.0%}",
            milliseconds(run.latencies(healthy, seen)),
            *(f"{name} {value}" for name, value in watch.figures().items()),
        ]
        seen = sum(1 for _ in run.receiver.arrivals(seen)) + seen
        print("; ".join(lines), flush=True)
