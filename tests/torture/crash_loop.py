"""Crash loop: under load the engine, Postgres or both die at random moments; nothing is lost, order is kept, repeats are few."""

from __future__ import annotations

import random

from tests.torture.judge import Sink
from tests.torture.lab import Lab, Outcome, lab
from tests.torture.load import Writer
from tests.torture.receiver import Behaviour
from tests.waiting import eventually

USERS = 6
RATE = 600.0


def crash_loop(*, cycles: int, seed: int) -> Outcome:
    """Run `cycles` crashes; every fourth is one of Postgres, every seventh one of both."""
    luck = random.Random(seed)
    with lab(users=USERS, seed=seed) as one:
        _sinks(one)
        writer = Writer(one.url, range(1, USERS + 1), rate=RATE, every=0.02, seed=luck.randrange(1 << 30)).start()
        crashes = {"engine": 0, "Postgres": 0, "both": 0}
        try:
            for cycle in range(1, cycles + 1):
                _await_progress(one, luck.choice((luck.randrange(1, 300), luck.randrange(300, 3000))))
                kind = "both" if cycle % 7 == 0 else "Postgres" if cycle % 4 == 0 else "engine"
                crashes[kind] += 1
                if kind != "Postgres":
                    one.kill_engine()
                if kind != "engine":
                    one.server.kill()
                    one.server.start()
                if kind != "Postgres":
                    one.engine.start()
            _await_progress(one, 200)
        finally:
            committed = writer.stop()
        one.receiver.behave([4], Behaviour())  # hangs up, so that the end does not wait for the time limit of what hangs
        waited = one.await_all(committed, within=120)
        verdict = one.judge(committed)
    figures = {"crashes": ", ".join(f"{kind} {count}" for kind, count in crashes.items()), **verdict.figures()}
    return Outcome("crash loop", seed, figures | {"waited for the last": f"{waited:.1f} s"}, verdict.faults())


def _sinks(one: Lab) -> None:
    """One sink for each user, each with a failing of its own, and one for all rows."""
    one.sink(Sink(1, user=1))
    one.sink(Sink(2, user=2))
    one.sink(Sink(3, user=3), batch_size=10)
    one.sink(Sink(4, user=4))
    one.sink(Sink(5, user=5, group="user"), batch_size=10)
    one.sink(Sink(6, user=6, group="user"))
    one.sink(Sink(7, user=None), batch_size=100)
    one.receiver.behave([2, 3, 5, 6], Behaviour(fail=0.05))
    one.receiver.behave([4], Behaviour(fail=0.01, hang=0.002))


def _await_progress(one: Lab, messages: int) -> None:
    """Wait until so many more messages have come."""
    goal = one.receiver.distinct() + messages
    eventually(lambda: one.receiver.distinct() >= goal, within=60, every=0.003, what=f"{messages} more messages")
