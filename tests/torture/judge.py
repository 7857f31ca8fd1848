"""Comparison of what was delivered with what was committed. Pure: no process, no socket, no clock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tests.torture.load import Change
from tests.torture.receiver import Arrival

FLUSH_SECONDS = 0.1
"""Seconds between the engine's flushes of acknowledgements."""
COMMIT_SECONDS = 0.2
"""Seconds that writing the last two flushes may take on a busy machine, while more messages are acknowledged."""


class Kill(NamedTuple):
    """A kill of the engine, in seconds on the clock of the arrivals.

    Messages that are answered between the kill and the restart were in flight.
    """

    at: float
    restarted: float


@dataclass(frozen=True)
class Sink:
    """A sink as the judge sees it: the user whose rows it gets (None for all), and the group that keeps its order."""

    number: int
    user: int | None
    group: Literal["row", "user"] = "row"


@dataclass
class Cycle:
    """Repeats after one kill of the engine: messages delivered both before and after it, and the maximum allowed."""

    repeated: int = 0
    bound: int = 0
    oldest: float = 0.0
    """Seconds between the delivery of the oldest repeated message and the kill."""


@dataclass
class Verdict:
    """Figures of a comparison; `faults` describes those that are wrong."""

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
        """Return the cycle with the most repeats."""
        return max(self.cycles, key=lambda cycle: cycle.repeated, default=Cycle())

    def faults(self) -> list[str]:
        """Describe everything that is wrong."""
        counts = {
            "lost": self.lost,
            "out of order": self.out_of_order,
            "of another user": self.foreign,
            "never committed": self.never_committed,
            "repeated with another idempotency key": self.other_key,
            "repeated without a kill of the engine in between": self.repeated_without_cause,
        }
        problems = [f"{count} messages {problem}" for problem, count in counts.items() if count]
        problems += [
            f"kill {n}: {cycle.repeated} messages repeated, at most {cycle.bound} allowed"
            for n, cycle in enumerate(self.cycles, 1)
            if cycle.repeated > cycle.bound
        ]
        return problems + (self.examples[:10] if problems else [])

    def figures(self) -> dict[str, str]:
        """Return the figures as text, by name."""
        texts = {
            name: f"{getattr(self, name):,}"
            for name in ("committed", "expected", "delivered", "repeated", "lost", "out_of_order", "foreign", "never_committed")
        }
        if self.cycles:
            worst = self.worst
            texts["most repeated after one kill"] = (
                f"{worst.repeated:,} (at most {worst.bound:,} allowed; the oldest delivered {worst.oldest * 1000:.0f} ms before it)"
            )
        return texts


def judge(committed: Sequence[Change], sinks: Sequence[Sink], arrivals: Iterable[Arrival], kills: Sequence[Kill] = ()) -> Verdict:
    """Compare what was committed with what arrived.

    After a kill, a message may be repeated if it was in flight, or was answered after the start of the second-to-last flush.
    """
    verdict = Verdict(committed=len(committed), cycles=[Cycle() for _ in kills])
    users = {sink.user for sink in sinks}
    expected: dict[int | None, dict[tuple[int, int], int]] = {user: {} for user in users}
    for change in committed:
        for user in users & {change.user, None}:
            expected[user][change.row, change.version] = change.statement
    states = {sink.number: _SinkState(sink, expected[sink.user]) for sink in sinks}
    verdict.expected = sum(len(state.expected) for state in states.values())
    times: list[float] = []
    for arrival in arrivals:
        times.append(arrival.at)
        verdict.delivered += 1
        _take(verdict, states[arrival.sink], arrival, kills)
    for kill, cycle in zip(kills, verdict.cycles, strict=True):
        cycle.bound = bisect_right(times, kill.restarted) - bisect_left(times, kill.at - FLUSH_SECONDS - COMMIT_SECONDS)
    for number, state in states.items():
        missing = [key for key in state.expected if key not in state.received]
        verdict.lost += len(missing)
        verdict.examples += [f"sink {number}: row {row} version {version} is lost" for row, version in missing[:3]]
    return verdict


class _SinkState:
    """State of one sink: the messages it must receive, and those it has received."""

    def __init__(self, sink: Sink, expected: dict[tuple[int, int], int]) -> None:
        self.sink = sink
        self.expected = expected
        """Statement by (row, version)."""
        self.received: dict[tuple[int, int], tuple[float, int, int]] = {}
        """Time of the last arrival and its idempotency key (LSN, index), by (row, version)."""
        self.latest: dict[int, int] = {}
        """Latest statement that has arrived, by group."""


def _take(verdict: Verdict, state: _SinkState, arrival: Arrival, kills: Sequence[Kill]) -> None:
    sink = state.sink
    key = (arrival.row, arrival.version)
    verdict.foreign += sink.user is not None and arrival.user != sink.user
    statement = state.expected.get(key)
    if statement is None:
        verdict.never_committed += 1
        verdict.examples.append(f"{arrival} was not expected")
        return
    earlier = state.received.get(key)
    state.received[key] = (arrival.at, arrival.lsn, arrival.idx)
    if earlier is not None:
        _repeat(verdict, earlier, arrival, kills)
        return
    group = arrival.row if sink.group == "row" else arrival.user
    latest = state.latest.get(group, 0)
    if statement < latest:
        verdict.out_of_order += 1
        verdict.examples.append(f"{arrival} of statement {statement} arrived after statement {latest}")
    else:
        state.latest[group] = statement


def _repeat(verdict: Verdict, earlier: tuple[float, int, int], arrival: Arrival, kills: Sequence[Kill]) -> None:
    """Attribute a repeat to the kill during which the earlier delivery was in flight, or to the first kill after it."""
    verdict.repeated += 1
    verdict.other_key += earlier[1:] != (arrival.lsn, arrival.idx)
    cause = next((n for n, kill in enumerate(kills) if earlier[0] <= kill.restarted), None)
    if cause is None or kills[cause].at > arrival.at:
        verdict.repeated_without_cause += 1
        verdict.examples.append(f"{arrival} had arrived at {earlier[0]}, and the engine was not killed in between")
        return
    cycle = verdict.cycles[cause]
    cycle.repeated += 1
    cycle.oldest = max(cycle.oldest, kills[cause].at - earlier[0])
