"""The result of a ledger: entries, verdict, problems, and DataFrames. Pure; `rows.py` and `changes.py` compute it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from userhooks.ledger.arrivals import Receipt
from userhooks.shared.extras import lab_extra
from userhooks.shared.html_table import html_table
from userhooks.shared.percentiles import nearest_rank

if TYPE_CHECKING:
    import pandas as pd

State = Literal["received", "lost", "not yet arrived", "withheld", "not owed", "not checked"]

_OWED: tuple[State, ...] = ("received", "lost", "not yet arrived")


class Entry(NamedTuple):
    """One committed change and one sink: whether a message was expected, and whether it arrived.

    `backfill` is True for a row sent by a backfill, and False for a live change. `state` is one of

    - `received`: an inbox answered the message with 2xx,
    - `lost`: the message was expected, and did not arrive within the ledger's `wait` seconds,
    - `not yet arrived`: the message was expected and has not arrived, but `wait` seconds have not passed, or `wait` was 0,
    - `withheld`: no sink may receive the change; `reason` says why,
    - `not checked`: the message was expected at a receiver that is not an inbox,
    - `not owed`: the row's user had no subscription (`sink_name` is None), or subscribed only after the commit.

    `user_id` is None if the change does not contain it. `received_at` and `latency_ms` refer to the first delivery that was answered with
    2xx, and `times` counts all such deliveries. A backfill's entry has no latency, because a `read` does not say when its row was
    committed. `in_order` is False if the message arrived after a later change of the same row.
    """

    row: int
    user_id: int | None
    sink_name: str | None
    backfill: bool
    state: State
    committed_at: datetime
    received_at: datetime | None
    latency_ms: float | None
    action: str = "insert"
    times: int = 0
    in_order: bool = True
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Ledger:
    """A comparison of what was committed with what was received; `rows.reconcile` and `changes.reconcile` create it.

        ledger = lesson.ledger()
        ledger.verdict()
        ledger.lost(), ledger.slowest()

    Times in the DataFrames are UTC.
    """

    committed: int
    entries: Sequence[Entry]
    repeats: Sequence[Receipt]
    foreigners: Sequence[Receipt]
    out_of_order: Sequence[Receipt]
    unknown: Sequence[Receipt]
    unseen: int = 0
    """Number of subscriptions whose receiver is not an inbox."""
    filter_problem: str = ""
    """What is wrong with the filter function in Sequin and how to fix it; empty if it is unchanged."""

    @property
    def ok(self) -> bool:
        """Whether every expected message arrived once and in order, nothing else arrived, and the filter function is unchanged."""
        return self.complete and not (self.repeats or self.foreigners or self.out_of_order or self.unknown or self.filter_problem)

    @property
    def complete(self) -> bool:
        """Whether every expected message arrived, regardless of other problems."""
        return not any(entry.state in ("lost", "not yet arrived") for entry in self.entries)

    def awaiting(self, after: datetime) -> Ledger:
        """Return a copy in which lost changes committed after `after` (timezone-aware) are `not yet arrived`."""
        entries = [
            entry._replace(state="not yet arrived") if entry.state == "lost" and entry.committed_at > after else entry
            for entry in self.entries
        ]
        return replace(self, entries=entries)

    def verdict(self) -> str:
        """Return one line: `500 committed, 167 expected, 167 received, 0 lost, 0 duplicated, 0 foreign, order kept, p99 3 ms`.

        - committed: rows, or changes if the ledger reads the WAL.
        - expected: pairs of a row or change and a sink that should receive it.
        - received, lost: expected pairs that did or did not arrive in time.
        - duplicated: messages with a sink and idempotency key that were already answered with 2xx, or a second insert of the same row.
        - foreign: messages whose `record.user_id`, or a `user_id` in `changes`, is not the user of the inbox and the sink.
        - order: the order of the changes of one row at one sink.
        - p99: time from commit to receipt; left out if nothing arrived.

        The following counts are left out if they are zero. `not yet arrived` counts expected pairs that may still arrive, `withheld` pairs
        of a change and a sink that must not receive it, and `unknown` messages about changes that were never committed. `backfill` has the
        expected, received, and lost rows of backfills. `not checked` counts subscriptions whose receiver is not an inbox, and the pairs
        expected there. The line ends with `filter function changed` if somebody changed the function in Sequin.
        """
        counts = Counter((entry.backfill, entry.state) for entry in self.entries)
        parts = [
            f"{self.committed} committed",
            _counts(counts, backfill=False),
            f"{len(self.repeats)} duplicated",
            f"{len(self.foreigners)} foreign",
            f"{len(self.out_of_order)} out of order" if self.out_of_order else "order kept",
        ]
        if counts[False, "withheld"]:
            parts.append(f"{counts[False, 'withheld']} withheld")
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown")
        latency = self.percentile(99)
        if latency is not None:
            parts.append(f"p99 {latency:.0f} ms")
        text = ", ".join(parts)
        if any(backfill for backfill, _ in counts):
            text += f"; backfill: {_counts(counts, backfill=True)}"
        if self.unseen:
            many = self.unseen > 1
            whose = "subscriptions whose receivers are not inboxes" if many else "subscription whose receiver is not an inbox"
            text += f"; not checked: {self.unseen} {whose}, {counts[False, 'not checked']} expected"
        return f"{text}; filter function changed" if self.filter_problem else text

    def percentile(self, percent: float) -> float | None:
        """Return the nearest-rank percentile of the latencies of live changes in ms, or None if none arrived."""
        latencies = sorted(entry.latency_ms for entry in self.entries if entry.latency_ms is not None)
        return nearest_rank(latencies, percent) if latencies else None

    def problems(self, limit: int = 10) -> list[str]:
        """Return one line per problem, which names the row. After `limit` lines of one kind, one line says how many more there are."""
        lost = [f"lost: {_change_of(e)} never reached {e.sink_name}" for e in self.entries if e.state == "lost"]
        waiting = [f"not yet arrived: {_change_of(e)} has not reached {e.sink_name}" for e in self.entries if e.state == "not yet arrived"]
        duplicated = [f"duplicated: {_named(receipt)} arrived again at {receipt.message.sink_name}" for receipt in self.repeats]
        foreign = [
            f"foreign: {_named(receipt)} reached the inbox of user {receipt.owner} through {receipt.message.sink_name}"
            for receipt in self.foreigners
        ]
        order = [f"out of order: {_named(receipt)} arrived after a later change of its row" for receipt in self.out_of_order]
        unknown = [f"unknown: {_named(receipt)} was never committed" for receipt in self.unknown]
        changed = [f"filter function changed: {self.filter_problem}"] if self.filter_problem else []
        lines: list[str] = []
        for kind in (changed, lost, waiting, duplicated, foreign, order, unknown):
            lines += kind[:limit]
            if len(kind) > limit:
                lines.append(f"{kind[0].partition(':')[0]}: {len(kind) - limit} more")
        return lines

    def frame(self) -> pd.DataFrame:
        """Return every entry as a DataFrame, one row per committed row or change and sink, with the fields of `Entry` as columns.

        Types: `row`, `times` int64; `user_id` Int64; `committed_at`, `received_at` datetime64[us, UTC]; `latency_ms` float64; `backfill`,
        `in_order` bool; the others str.
        """
        return _frame(self.entries)

    def lost(self) -> pd.DataFrame:
        """Return the lost entries as a DataFrame, with the columns of `frame()`."""
        return _frame([entry for entry in self.entries if entry.state == "lost"])

    def slowest(self, count: int = 10) -> pd.DataFrame:
        """Return the `count` entries with the highest latency as a DataFrame, slowest first, with the columns of `frame()`."""
        timed = [entry for entry in self.entries if entry.latency_ms is not None]
        return _frame(sorted(timed, key=lambda entry: -(entry.latency_ms or 0.0))[:count])

    def duplicated(self) -> pd.DataFrame:
        """Return the repeated deliveries as a DataFrame: inbox, request, time, sink, action, row, user, and key."""
        return _receipts_frame(self.repeats)

    def foreign(self) -> pd.DataFrame:
        """Return the messages that reached another user's inbox as a DataFrame: `inbox_user_id` received it, `user_id` owns the row."""
        return _receipts_frame(self.foreigners)

    def __repr__(self) -> str:
        return f"Ledger({self.verdict()})"

    def _repr_html_(self) -> str:
        return html_table("Ledger", {"verdict": self.verdict(), **{f"problem {n}": line for n, line in enumerate(self.problems(), 1)}})


def _counts(counts: Counter[tuple[bool, State]], *, backfill: bool) -> str:
    received, lost, waiting = (counts[backfill, state] for state in _OWED)
    text = f"{received + lost + waiting} expected, {received} received, {lost} lost"
    return f"{text}, {waiting} not yet arrived" if waiting else text


def _change_of(entry: Entry) -> str:
    """Describe a change. An insert is described by its row alone, since a row is inserted only once."""
    row = f"row {entry.row} of user {entry.user_id}"
    return row if entry.action == "insert" else f"the {entry.action} of {row}"


def _named(receipt: Receipt) -> str:
    message = receipt.message
    return f"{message.action} of row {message.record.get('id')} of user {message.record.get('user_id')}"


_UTC = "datetime64[us, UTC]"


def _frame(entries: Sequence[Entry]) -> pd.DataFrame:
    types = {
        "row": "int64", "user_id": "Int64", "sink_name": "str", "backfill": "bool", "state": "str", "committed_at": _UTC,
        "received_at": _UTC, "latency_ms": "float64", "action": "str", "times": "int64", "in_order": "bool", "reason": "str",
    }  # fmt: skip
    return _table(types, entries)


def _receipts_frame(receipts: Sequence[Receipt]) -> pd.DataFrame:
    types = {
        "inbox_user_id": "int64", "seq": "int64", "received_at": _UTC, "sink_name": "str", "action": "str", "row": "object",
        "user_id": "object", "idempotency_key": "str",
    }  # fmt: skip
    rows = [
        (r.owner, r.seq, r.received_at, r.message.sink_name, r.message.action, r.message.record.get("id"),
         r.message.record.get("user_id"), r.message.idempotency_key)
        for r in receipts
    ]  # fmt: skip
    return _table(types, rows)


def _table(types: dict[str, str], rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    with lab_extra():
        import pandas as pd

    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return pd.DataFrame({name: pd.Series(list(values), dtype=dtype) for (name, dtype), values in zip(types.items(), columns, strict=True)})
