"""Outage: one endpoint is down for as long as it takes to write very many rows for it; then it comes back and gets them all, in order."""

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
"""Bytes that the store may be larger afterwards: SQLite keeps its write-ahead file"""
_HEALTHY, _DOWN = Sink(1, user=1), Sink(2, user=2)


def outage(*, rows: int, rate: float, seed: int, retry_base: float = 1.0) -> Outcome:
    """Write `rows` changes at `rate` a second, nine in ten of them for the endpoint that is down, the others for a healthy one."""
    luck = random.Random(seed)
    with lab(users=2, seed=seed, retry_base=retry_base) as one:
        one.sink(_HEALTHY)
        one.sink(_DOWN, port=one.receiver.ports[1], batch_size=100)
        users = [2] * 9 + [1]
        writer = Writer(one.url, users, rate=rate, every=0.05, seed=luck.randrange(1 << 30))
        before = store_size(one)
        one.receiver.behave([2], Behaviour(status=503))
        with Watch(one) as watch:
            writer.start()
            eventually(lambda: len(writer.committed) >= rows, within=60 + 2 * rows / rate, every=0.1)
            committed = writer.stop()
            one.await_all(committed, within=60, sinks=[_HEALTHY])
            during = milliseconds(one.latencies([_HEALTHY]))
            full = store_size(one)
            back = time.monotonic()
            one.receiver.behave([2], Behaviour())
            one.await_all(committed, within=120 + rows / 2000)
            arrivals = [arrival.at for arrival in one.receiver.arrivals() if arrival.sink == _DOWN.number]
        with suppress(AssertionError):
            eventually(lambda: store_size(one) <= before + STORE_SLACK, within=30)
        after = store_size(one)
        verdict = one.judge(committed)
    figures = verdict.figures() | {"healthy user meanwhile": during, **watch.figures()}
    figures["store before, when back, after"] = " / ".join(f"{size / 1e6:.1f} MB" for size in (before, full, after))
    if arrivals:
        took = arrivals[-1] - arrivals[0]
        figures["noticed after"] = f"{arrivals[0] - back:.1f} s"
        figures["caught up in"] = f"{took:.1f} s ({len(arrivals) / max(took, 0.001):,.0f} messages/s)"
    faults = verdict.faults()
    if watch.wal >= WAL_BOUND:
        faults.append(f"the slot kept {watch.wal / 1e6:.1f} MB of WAL, {WAL_BOUND / 1e6:.0f} MB at most")
    if watch.memory >= MEMORY_BOUND:
        faults.append(f"the engine took {watch.memory / 1e6:.0f} MB of memory, {MEMORY_BOUND / 1e6:.0f} MB at most")
    if after > before + STORE_SLACK:
        faults.append(f"the store did not shrink: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB afterwards")
    return Outcome("outage", seed, figures, faults)
