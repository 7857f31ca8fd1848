"""Full disk: the store may not grow while a receiver is down. The engine says so, loses nothing, has Postgres keep the WAL, and goes on."""

from __future__ import annotations

import random
from contextlib import suppress

from tests.torture.judge import Sink
from tests.torture.lab import Lab, Outcome, Watch, lab
from tests.torture.load import Writer
from tests.torture.receiver import Behaviour
from tests.waiting import eventually

_HEALTHY, _DOWN = Sink(1, user=1), Sink(2, user=2)


def full_disk(*, rows: int, pages: int, seed: int) -> Outcome:
    """Write about `rows` changes, half of them for an endpoint that is down, with a store of at most `pages` pages of 4 kB."""
    luck = random.Random(seed)
    with lab(users=2, seed=seed, store_max_pages=pages) as one:
        one.sink(_HEALTHY)
        one.sink(_DOWN, port=one.receiver.ports[1], batch_size=100)
        one.receiver.behave([_DOWN.number], Behaviour(status=503))
        writer = Writer(one.url, [1, 2], rate=rows / 4, every=0.1, seed=luck.randrange(1 << 30))
        with Watch(one) as watch:
            committed = writer.write_for(4)
            said = ""
            with suppress(AssertionError):
                said = eventually(lambda: _complaint(one), within=15)
            confirmed = _confirmed(one)
            one.receiver.behave([_DOWN.number], Behaviour())
            caught_up = one.await_all(committed, within=60)
        moved = False
        with suppress(AssertionError):
            moved = eventually(lambda: _confirmed(one) > confirmed and not _complaint(one), within=15)
        verdict = one.judge(committed)
    figures = verdict.figures() | {"said": said or "nothing", "caught up in": f"{caught_up:.1f} s", **watch.figures()}
    faults = verdict.faults()
    if not said:
        faults.append("no sink's health says that the store is full")
    if not moved:
        faults.append("the slot's position did not move on, or the health still complains, after everything was delivered")
    return Outcome("full disk", seed, figures, faults)


def _complaint(one: Lab) -> str:
    """What the healths say of a full store."""
    found = [check.get("error", "") for sink in one.engine.ask("GET", "/api/sinks")["data"] for check in sink["health"]["checks"]]
    return next((error for error in found if "full" in error), "")


def _confirmed(one: Lab) -> int:
    return int(one.sql("select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots")[0][0])
