"""Dead endpoints: sinks whose ports are refused or whose receivers never answer make no difference to the live ones."""

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
"""Messages without which a p99 says nothing"""
_REFUSED_PORTS = 200


def dead_endpoints(*, sinks: int, dead: int, rate: float, seconds: float, seed: int) -> Outcome:
    """Of so many `sinks`, one for each user, the last `dead` lead nowhere: half are refused, half are never answered.

    `rate` rows a second over all users, for `seconds`, first without the dead sinks, then with them.
    """
    luck = random.Random(seed)
    every = [Sink(n, user=n) for n in range(1, sinks + 1)]
    living, gone = every[: sinks - dead], every[sinks - dead :]
    with lab(users=sinks, seed=seed, retry_base=1.0) as one, _refused_ports(min(dead, _REFUSED_PORTS)) as refused:
        writer = Writer(one.url, range(1, sinks + 1), rate=rate, every=0.01, seed=luck.randrange(1 << 30), mix=Mix(1.0, 0.0, 0.0))
        made = _make(one, living, [one.receiver.ports[0]])
        one.await_all(writer.write_for(seconds), within=30, sinks=living)
        without = one.latencies(living)
        start = sum(1 for _ in one.receiver.arrivals())
        one.receiver.behave([sink.number for sink in gone], Behaviour(hang=1.0))
        made += _make(one, gone, [*refused, *[one.receiver.ports[1]] * len(refused)])
        committed = writer.write_for(seconds)
        one.await_all(committed, within=30, sinks=living)
        beside = one.latencies(living, start)
        one.sinks = living
        verdict = one.judge(committed)
    ratio = nearest_rank(beside, 99) / nearest_rank(without, 99)
    figures = verdict.figures() | {
        "sinks": f"{sinks:,}, {dead:,} of them dead; made in {made:.1f} s",
        "live ones without the dead": milliseconds(without),
        "live ones beside the dead": milliseconds(beside),
        "ratio of the p99": f"{ratio:.2f} (bound {RATIO_BOUND})",
    }
    faults = verdict.faults()
    if ratio > RATIO_BOUND and min(len(without), len(beside)) >= _ENOUGH:
        faults.append(f"p99 of the live ones is {ratio:.2f} times that without the dead, {RATIO_BOUND} at most")
    return Outcome("dead endpoints", seed, figures, faults)


def _make(one: Lab, sinks: list[Sink], ports: list[int]) -> float:
    """Create sinks at these ports in turn; return how long it took."""
    begun = time.monotonic()
    for n, sink in enumerate(sinks):
        one.sink(sink, port=ports[n % len(ports)])
    return time.monotonic() - begun


@contextmanager
def _refused_ports(count: int) -> Iterator[list[int]]:
    """Ports at which connections are refused: taken, so that nobody else listens there, but not listened on."""
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()
