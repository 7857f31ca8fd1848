"""Outage: an endpoint is down while very many rows are written for it; then it comes back and must get them all, in order."""

from __future__ import annotations

import random
import time
from contextlib import suppress

from tests.torture.judge import Sink
from tests.torture.lab import Outcome, Watch, lab, milliseconds, store_size
from tests.torture.load import Writer
from tests.torture.receiver import Behaviour
from tests.waiting import eventually

WAL_BOUND = 64_000_000
MEMORY_BOUND = 250_000_000
STORE_SLACK = 8_000_000
"""Bytes by which the store may have grown afterward, since SQLite keeps its write-ahead log."""
_HEALTHY, _DOWN = Sink(1, user=1), Sink(2, user=2)


def outage(*, rows: int, rate: float, seed: int, retry_base: float = 1.0) -> Outcome:
    """Write `rows` changes at `rate` per second, nine in ten of them for the endpoint that is down, the rest for a healthy one."""
    rng = random.Random(seed)
    with lab(users=2, seed=seed, retry_base=retry_base) as run:
        run.sink(_HEALTHY)
        run.sink(_DOWN, port=run.receiver.ports[1], batch_size=100)
        users = [2] * 9 + [1]
        writer = Writer(run.url, users, rate=rate, every=0.05, seed=rng.randrange(1 << 30))
        before = store_size(run)
        run.receiver.behave([2], Behaviour(status=503))
        with Watch(run) as watch:
            writer.start()
            eventually(lambda: len(writer.committed) >= rows, within=60 + 2 * rows / rate, every=0.1)
            committed = writer.stop()
            run.await_all(committed, within=60, sinks=[_HEALTHY])
            during = milliseconds(run.latencies([_HEALTHY]))
            at_recovery = store_size(run)
            recovered = time.monotonic()
            run.receiver.behave([2], Behaviour())
            run.await_all(committed, within=120 + rows / 2000)
            arrivals = [arrival.at for arrival in run.receiver.arrivals() if arrival.sink == _DOWN.number]
        with suppress(AssertionError):
            eventually(lambda: store_size(run) <= before + STORE_SLACK, within=30)
        after = store_size(run)
        verdict = run.judge(committed)
    figures = verdict.figures() | {"healthy user during the outage": during, **watch.figures()}
    figures["store before, at recovery, after"] = " / ".join(f"{size / 1e6:.1f} MB" for size in (before, at_recovery, after))
    if arrivals:
        elapsed = arrivals[-1] - arrivals[0]
        figures["recovery noticed after"] = f"{arrivals[0] - recovered:.1f} s"
        figures["caught up in"] = f"{elapsed:.1f} s ({len(arrivals) / max(elapsed, 0.001):,.0f} messages/s)"
    faults = verdict.faults()
    if watch.wal >= WAL_BOUND:
        faults.append(f"the slot kept {watch.wal / 1e6:.1f} MB of WAL, at most {WAL_BOUND / 1e6:.0f} MB is allowed")
    if watch.memory >= MEMORY_BOUND:
        faults.append(f"the engine used {watch.memory / 1e6:.0f} MB of memory, at most {MEMORY_BOUND / 1e6:.0f} MB is allowed")
    if after > before + STORE_SLACK:
        faults.append(f"the store did not shrink: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB afterward")
    return Outcome("outage", seed, figures, faults)
