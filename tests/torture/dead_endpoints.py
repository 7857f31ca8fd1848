"""Dead endpoints: sinks whose connections are refused or whose receivers never answer must not slow down the live ones."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.torture.judge import Sink
from tests.torture.lab import Lab, Outcome, lab, milliseconds
from tests.torture.load import Mix, Writer
from tests.torture.receiver import Behaviour
from userhooks.shared.percentiles import nearest_rank

RATIO_BOUND = 1.5
_ENOUGH = 1000
"""Minimum number of messages for a meaningful p99."""
_REFUSED_PORTS = 200


def dead_endpoints(*, sinks: int, dead: int, rate: float, seconds: float, seed: int) -> Outcome:
    """Compare the latency of live sinks without and with dead ones.

    There is one sink per user. The last `dead` of the `sinks` lead nowhere: half are refused, and half are never answered. `rate` rows per
    second for all users are written for `seconds`, first without the dead sinks, then with them.
    """
    rng = random.Random(seed)
    all_sinks = [Sink(n, user=n) for n in range(1, sinks + 1)]
    living, dead_sinks = all_sinks[: sinks - dead], all_sinks[sinks - dead :]
    with lab(users=sinks, seed=seed, retry_base=1.0) as run, _refused_ports(min(dead, _REFUSED_PORTS)) as refused:
        writer = Writer(run.url, range(1, sinks + 1), rate=rate, every=0.01, seed=rng.randrange(1 << 30), mix=Mix(1.0, 0.0, 0.0))
        created = _make(run, living, [run.receiver.ports[0]])
        run.await_all(writer.write_for(seconds), within=30, sinks=living)
        without_dead = run.latencies(living)
        start = sum(1 for _ in run.receiver.arrivals())
        run.receiver.behave([sink.number for sink in dead_sinks], Behaviour(hang=1.0))
        created += _make(run, dead_sinks, [*refused, *[run.receiver.ports[1]] * len(refused)])
        committed = writer.write_for(seconds)
        run.await_all(committed, within=30, sinks=living)
        with_dead = run.latencies(living, start)
        run.sinks = living
        verdict = run.judge(committed)
    ratio = nearest_rank(with_dead, 99) / nearest_rank(without_dead, 99)
    figures = verdict.figures() | {
        "sinks": f"{sinks:,}, {dead:,} of them dead; created in {created:.1f} s",
        "live sinks without dead ones": milliseconds(without_dead),
        "live sinks with dead ones": milliseconds(with_dead),
        "ratio of the p99s": f"{ratio:.2f} (bound {RATIO_BOUND})",
    }
    faults = verdict.faults()
    if ratio > RATIO_BOUND and min(len(without_dead), len(with_dead)) >= _ENOUGH:
        faults.append(f"the p99 of live sinks is {ratio:.2f} times that without dead ones, at most {RATIO_BOUND} is allowed")
    return Outcome("dead endpoints", seed, figures, faults)


def _make(run: Lab, sinks: list[Sink], ports: list[int]) -> float:
    """Create sinks at these ports in turn; returns the seconds that it took."""
    started = time.monotonic()
    for n, sink in enumerate(sinks):
        run.sink(sink, port=ports[n % len(ports)])
    return time.monotonic() - started


@contextmanager
def _refused_ports(count: int) -> Iterator[list[int]]:
    """Yield ports that refuse connections: bound, so that no other program listens there, but without a listener."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        yield [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()
