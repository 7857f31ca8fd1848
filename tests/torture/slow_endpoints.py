"""Slow endpoints: one answers after two seconds, one a byte a second; the others do not notice, and both get everything in order."""

from __future__ import annotations

import random

from tests.torture.judge import Sink
from tests.torture.lab import Outcome, Watch, lab, milliseconds
from tests.torture.load import Writer
from tests.torture.receiver import Behaviour

USERS = 6
MEMORY_BOUND = 250_000_000


def slow_endpoints(*, rate: float, seconds: float, seed: int) -> Outcome:
    """Write `rate` changes a second for six users, two of them with slow endpoints, for `seconds`."""
    luck = random.Random(seed)
    sinks = [Sink(n, user=n) for n in range(1, USERS + 1)]
    late, drip, quick = sinks[0], sinks[1], sinks[2:]
    with lab(users=USERS, seed=seed) as one:
        for sink in sinks:
            one.sink(sink, port=one.receiver.ports[sink not in quick])
        one.receiver.behave([late.number], Behaviour(delay=2.0))
        one.receiver.behave([drip.number], Behaviour(drip=True))
        writer = Writer(one.url, range(1, USERS + 1), rate=rate, every=0.02, seed=luck.randrange(1 << 30))
        with Watch(one) as watch:
            committed = writer.write_for(seconds)
            one.await_all(committed, within=30, sinks=quick)
            latencies = milliseconds(one.latencies(quick))
            still = {sink.number: one.owed(committed, [sink]) - one.receiver.distinct([sink.number]) for sink in (late, drip)}
            one.receiver.behave([late.number, drip.number], Behaviour())
            caught_up = one.await_all(committed, within=90)
        verdict = one.judge(committed)
    figures = verdict.figures() | {
        "quick users meanwhile": latencies,
        "still owed at the end of the load": f"2 s late {still[late.number]:,}, drip {still[drip.number]:,}",
        "caught up in": f"{caught_up:.1f} s",
        **watch.figures(),
    }
    faults = verdict.faults()
    if watch.memory >= MEMORY_BOUND:
        faults.append(f"the engine took {watch.memory / 1e6:.0f} MB of memory, {MEMORY_BOUND / 1e6:.0f} MB at most")
    return Outcome("slow endpoints", seed, figures, faults)
