"""Full disk: the store cannot grow while a receiver is down. The engine must report it, lose nothing, and recover."""

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
    """Write about `rows` changes, half of them for an endpoint that is down, with a store limited to `pages` pages of 4 kB."""
    rng = random.Random(seed)
    with lab(users=2, seed=seed, store_max_pages=pages) as run:
        run.sink(_HEALTHY)
        run.sink(_DOWN, port=run.receiver.ports[1], batch_size=100)
        run.receiver.behave([_DOWN.number], Behaviour(status=503))
        writer = Writer(run.url, [1, 2], rate=rows / 4, every=0.1, seed=rng.randrange(1 << 30))
        with Watch(run) as watch:
            committed = writer.write_for(4)
            complaint = ""
            with suppress(AssertionError):
                complaint = eventually(lambda: _complaint(run), within=15)
            confirmed = _confirmed(run)
            run.receiver.behave([_DOWN.number], Behaviour())
            caught_up = run.await_all(committed, within=60)
        recovered = False
        with suppress(AssertionError):
            recovered = eventually(lambda: _confirmed(run) > confirmed and not _complaint(run), within=15)
        verdict = run.judge(committed)
    figures = verdict.figures() | {"reported": complaint or "nothing", "caught up in": f"{caught_up:.1f} s", **watch.figures()}
    faults = verdict.faults()
    if not complaint:
        faults.append("no sink's health reports that the store is full")
    if not recovered:
        faults.append("after everything was delivered, the slot did not advance or a sink's health still reports a full store")
    return Outcome("full disk", seed, figures, faults)


def _complaint(run: Lab) -> str:
    """Return the error about a full store in the sinks' health; empty if there is none."""
    errors = [check.get("error", "") for sink in run.engine.ask("GET", "/api/sinks")["data"] for check in sink["health"]["checks"]]
    return next((error for error in errors if "full" in error), "")


def _confirmed(run: Lab) -> int:
    return int(run.sql("select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots")[0][0])
