"""What was delivered, held against what was committed. Pure: no process, no socket, no clock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tests.torture.load import Change
from tests.torture.receiver import Arrival

FLUSH_SECONDS = 0.1
"""How often the engine writes down what was acknowledged."""
COMMIT_SECONDS = 0.2
"""How long the last two flushes may take to be written on a busy machine: messages are acknowledged meanwhile."""


class Kill(NamedTuple):
    """A kill of the engine, in seconds on the clock of the arrivals; what is answered until it is started again was in flight."""

    at: float
    restarted: float


@dataclass(frozen=True)
class Sink:
    """A sink as the judge sees it: whose rows it is owed (None: all), and what keeps its order."""

    number: int
    user: int | None
    group: Literal["row", "user"] = "row"


@dataclass
class Cycle:
    """One kill of the engine: messages delivered before it and again afterwards, and how many that may be."""

    repeated: int = 0
    bound: int = 0
    oldest: float = 0.0
    """seconds between the delivery of the oldest message that was repeated, and the kill"""


@dataclass
class Verdict:
    """The figures; `faults` says in words which of them may not be."""

    committed: int = 0
    expected: int = 0
    delivered: int = 0
    repeated: int = 0
    lost: int = 0
    out_of_order: int = 0
    foreign: int = 0
    never_committed: int = 0
    other_key: int = 0
    repeated_without_cause: int = 0
    cycles: list[Cycle] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def worst(self) -> Cycle:
        """The cycle with the most repeats."""
        return max(self.cycles, key=lambda cycle: cycle.repeated, default=Cycle())

    def faults(self) -> list[str]:
        """Say what must not be."""
        counts = {
            "lost": self.lost,
            "out of order": self.out_of_order,
            "of another user": self.foreign,
            "never committed": self.never_committed,
            "repeated with another idempotency key": self.other_key,
            "repeated though the engine was not killed in between": self.repeated_without_cause,
        }
        found = [f"{count} messages {what}" for what, count in counts.items() if count]
        found += [
            f"kill {n}: {cycle.repeated} messages repeated, {cycle.bound} at most"
            for n, cycle in enumerate(self.cycles, 1)
            if cycle.repeated > cycle.bound
        ]
        return found + (self.examples[:10] if found else [])

    def figures(self) -> dict[str, str]:
        """Return the figures as a table shows them."""
        shown = {
            name: f"{getattr(self, name):,}"
            for name in ("committed", "expected", "delivered", "repeated", "lost", "out_of_order", "foreign", "never_committed")
        }
        if self.cycles:
            worst = self.worst
            shown["most repeated after one kill"] = (
                f"{worst.repeated:,} (bound there {worst.bound:,}; the oldest {worst.oldest * 1000:.0f} ms)"
            )
        return shown


def judge(committed: Sequence[Change], sinks: Sequence[Sink], arrivals: Iterable[Arrival], kills: Sequence[Kill] = ()) -> Verdict:
    """Compare what was committed with what came.

    After a kill a message may come again that was answered since the flush before the last one began, or that was in flight.
    """
    verdict = Verdict(committed=len(committed), cycles=[Cycle() for _ in kills])
    wanted = {sink.user for sink in sinks}
    owed: dict[int | None, dict[tuple[int, int], int]] = {user: {} for user in wanted}
    for change in committed:
        for user in wanted & {change.user, None}:
            owed[user][change.row, change.version] = change.statement
    states = {sink.number: _SinkState(sink, owed[sink.user]) for sink in sinks}
    verdict.expected = sum(len(state.owed) for state in states.values())
    times: list[float] = []
    for arrival in arrivals:
        times.append(arrival.at)
        verdict.delivered += 1
        _take(verdict, states[arrival.sink], arrival, kills)
    for kill, cycle in zip(kills, verdict.cycles, strict=True):
        cycle.bound = bisect_right(times, kill.restarted) - bisect_left(times, kill.at - FLUSH_SECONDS - COMMIT_SECONDS)
    for number, state in states.items():
        missing = [key for key in state.owed if key not in state.came]
        verdict.lost += len(missing)
        verdict.examples += [f"sink {number}: row {row} version {version} is lost" for row, version in missing[:3]]
    return verdict


class _SinkState:
    """What a sink is owed and what has come."""

    def __init__(self, sink: Sink, owed: dict[tuple[int, int], int]) -> None:
        self.sink = sink
        self.owed = owed
        """(row, version) -> statement"""
        self.came: dict[tuple[int, int], tuple[float, int, int]] = {}
        """(row, version) -> when it came last, and with which key"""
        self.latest: dict[int, int] = {}
        """group -> the latest statement of it that has come"""


def _take(verdict: Verdict, state: _SinkState, arrival: Arrival, kills: Sequence[Kill]) -> None:
    sink = state.sink
    key = (arrival.row, arrival.version)
    verdict.foreign += sink.user is not None and arrival.user != sink.user
    statement = state.owed.get(key)
    if statement is None:
        verdict.never_committed += 1
        verdict.examples.append(f"{arrival} was not owed")
        return
    before = state.came.get(key)
    state.came[key] = (arrival.at, arrival.lsn, arrival.idx)
    if before is not None:
        _repeat(verdict, before, arrival, kills)
        return
    group = arrival.row if sink.group == "row" else arrival.user
    latest = state.latest.get(group, 0)
    if statement < latest:
        verdict.out_of_order += 1
        verdict.examples.append(f"{arrival} of statement {statement} came after statement {latest}")
    else:
        state.latest[group] = statement


def _repeat(verdict: Verdict, before: tuple[float, int, int], arrival: Arrival, kills: Sequence[Kill]) -> None:
    """Put a repeat down to the kill in whose flight the delivery before was, or to the first one after it."""
    verdict.repeated += 1
    verdict.other_key += before[1:] != (arrival.lsn, arrival.idx)
    cause = next((n for n, kill in enumerate(kills) if before[0] <= kill.restarted), None)
    if cause is None or kills[cause].at > arrival.at:
        verdict.repeated_without_cause += 1
        verdict.examples.append(f"{arrival} came before at {before[0]}, and the engine was not killed in between")
        return
    cycle = verdict.cycles[cause]
    cycle.repeated += 1
    cycle.oldest = max(cycle.oldest, kills[cause].at - before[0])
