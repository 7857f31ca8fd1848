"""Slow endpoints: one takes two seconds, one sends a byte per second. The others must not be delayed; both must get everything."""

from __future__ import annotations

import random

from tests.torture.judge import Sink
from tests.torture.lab import Outcome, Watch, lab, milliseconds
from tests.torture.load import Writer
from tests.torture.receiver import Behaviour

USERS = 6
MEMORY_BOUND = 250_000_000


def slow_endpoints(*, rate: float, seconds: float, seed: int) -> Outcome:
    """Write `rate` changes per second for six users, two of them with slow endpoints, for `seconds`."""
    rng = random.Random(seed)
    sinks = [Sink(n, user=n) for n in range(1, USERS + 1)]
    late, drip, fast = sinks[0], sinks[1], sinks[2:]
    with lab(users=USERS, seed=seed) as run:
        for sink in sinks:
            run.sink(sink, port=run.receiver.ports[sink not in fast])
        run.receiver.behave([late.number], Behaviour(delay=2.0))
        run.receiver.behave([drip.number], Behaviour(drip=True))
        writer = Writer(run.url, range(1, USERS + 1), rate=rate, every=0.02, seed=rng.randrange(1 << 30))
        with Watch(run) as watch:
            committed = writer.write_for(seconds)
            run.await_all(committed, within=30, sinks=fast)
            latencies = milliseconds(run.latencies(fast))
            pending = {sink.number: run.owed(committed, [sink]) - run.receiver.distinct([sink.number]) for sink in (late, drip)}
            run.receiver.behave([late.number, drip.number], Behaviour())
            caught_up = run.await_all(committed, within=90)
        verdict = run.judge(committed)
    figures = verdict.figures() | {
        "fast users under load": latencies,
        "pending at the end of the load": f"2 s late {pending[late.number]:,}, drip {pending[drip.number]:,}",
        "caught up in": f"{caught_up:.1f} s",
        **watch.figures(),
    }
    faults = verdict.faults()
    if watch.memory >= MEMORY_BOUND:
        faults.append(f"the engine used {watch.memory / 1e6:.0f} MB of memory, at most {MEMORY_BOUND / 1e6:.0f} MB is allowed")
    return Outcome("slow endpoints", seed, figures, faults)
