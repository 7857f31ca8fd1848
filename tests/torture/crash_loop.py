"""Crash loop: under load, the engine, Postgres, or both are killed at random. Nothing may be lost or out of order; repeats must be few."""

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
    """Run `cycles` crashes; every seventh is of both programs, every other fourth of Postgres, and the rest are of the engine."""
    rng = random.Random(seed)
    with lab(users=USERS, seed=seed) as run:
        _sinks(run)
        writer = Writer(run.url, range(1, USERS + 1), rate=RATE, every=0.02, seed=rng.randrange(1 << 30)).start()
        crashes = {"engine": 0, "Postgres": 0, "both": 0}
        try:
            for cycle in range(1, cycles + 1):
                _await_progress(run, rng.choice((rng.randrange(1, 300), rng.randrange(300, 3000))))
                kind = "both" if cycle % 7 == 0 else "Postgres" if cycle % 4 == 0 else "engine"
                crashes[kind] += 1
                if kind != "Postgres":
                    run.kill_engine()
                if kind != "engine":
                    run.server.kill()
                    run.server.start()
                if kind != "Postgres":
                    run.engine.start()
            _await_progress(run, 200)
        finally:
            committed = writer.stop()
        run.receiver.behave([4], Behaviour())  # closes hanging connections, so that nothing waits for their time limit
        waited = run.await_all(committed, within=120)
        verdict = run.judge(committed)
    figures = {"crashes": ", ".join(f"{kind} {count}" for kind, count in crashes.items()), **verdict.figures()}
    return Outcome("crash loop", seed, figures | {"waited for the last message": f"{waited:.1f} s"}, verdict.faults())


def _sinks(run: Lab) -> None:
    """Create a sink for each user, with different failures, and one for all rows."""
    run.sink(Sink(1, user=1))
    run.sink(Sink(2, user=2))
    run.sink(Sink(3, user=3), batch_size=10)
    run.sink(Sink(4, user=4))
    run.sink(Sink(5, user=5, group="user"), batch_size=10)
    run.sink(Sink(6, user=6, group="user"))
    run.sink(Sink(7, user=None), batch_size=100)
    run.receiver.behave([2, 3, 5, 6], Behaviour(fail=0.05))
    run.receiver.behave([4], Behaviour(fail=0.01, hang=0.002))


def _await_progress(run: Lab, messages: int) -> None:
    """Wait until this many more messages have arrived."""
    goal = run.receiver.distinct() + messages
    eventually(lambda: run.receiver.distinct() >= goal, within=60, every=0.003, what=f"{messages} more messages")
