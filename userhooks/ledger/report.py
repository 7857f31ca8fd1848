"""What a ledger found, and how it is told: entries, verdict, problems, tables. Pure; how it is found is in `rows.py` and `changes.py`."""

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
    """One committed change and one sink: what was owed and what came.

    `backfill` is True for history, False for a live change. `state` is one of

    - `received`: an inbox answered it 2xx,
    - `lost`: it was owed, and did not come within the ledger's `wait` seconds,
    - `not yet arrived`: it was owed and did not come, but has not had `wait` seconds, or `wait` was 0,
    - `withheld`: no sink may have it; `reason` says why,
    - `not checked`: it is owed to a receiver that is not an inbox,
    - `not owed`: nobody subscribed to the row's user (`sink_name` is None), or only later.

    `user_id` is None when the change does not tell it.
    `received_at` and `latency_ms` belong to the first delivery that was answered 2xx, and `times` counts those; a backfill's line has no
    latency, as a `read` does not tell when its row was committed. `in_order` is False for what came after a later change of its row.
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
    """What a run committed, who was owed it and what came; `rows.reconcile` and `changes.reconcile` make it.

        ledger = lesson.ledger()
        ledger.verdict()
        ledger.lost(), ledger.slowest()

    The DataFrames' times are UTC.
    """

    committed: int
    entries: Sequence[Entry]
    repeats: Sequence[Receipt]
    foreigners: Sequence[Receipt]
    out_of_order: Sequence[Receipt]
    unknown: Sequence[Receipt]
    unseen: int = 0
    """Subscriptions whose receiver is not an inbox."""
    filter_problem: str = ""
    """What is wrong with the filter function in Sequin, and what to do; empty when it is the one that userhooks made."""

    @property
    def ok(self) -> bool:
        """Whether everything owed came, once, in order, and nothing else did, and the filter function in Sequin is ours."""
        return self.complete and not (self.repeats or self.foreigners or self.out_of_order or self.unknown or self.filter_problem)

    @property
    def complete(self) -> bool:
        """Whether everything owed came; what else may be wrong is left aside."""
        return not any(entry.state in ("lost", "not yet arrived") for entry in self.entries)

    def awaiting(self, after: datetime) -> Ledger:
        """Return this ledger with what is lost of the changes committed later than `after` (aware) as `not yet arrived`."""
        entries = [
            entry._replace(state="not yet arrived") if entry.state == "lost" and entry.committed_at > after else entry
            for entry in self.entries
        ]
        return replace(self, entries=entries)

    def verdict(self) -> str:
        """One line: `500 committed, 167 expected, 167 received, 0 lost, 0 duplicated, 0 foreign, order kept, p99 3 ms`.

        committed: rows, or changes where the ledger reads the WAL. expected: (row or change, sink) pairs that were owed. received: of
        these, how many came. lost: how many did not, in the time they were given. duplicated: the same sink and idempotency key, or the
        same row's insert, answered 2xx once more. foreign: `record.user_id`, or a `user_id` in `changes`, is another user's than the
        inbox's or the sink's. Order is that of the changes of one row at one sink. p99 is of commit to receipt; absent when nothing came.
        Only when there are any: `not yet arrived` counts pairs that are still waited for, `withheld` counts (change, sink) pairs, `unknown`
        counts messages of what was never committed, a backfill adds what it owed, and `not checked` counts the subscriptions whose receiver
        is not an inbox, with the pairs that they were owed. The last words say when the filter function in Sequin was changed.
        """
        counts = Counter((entry.backfill, entry.state) for entry in self.entries)
        parts = [
            f"{self.committed} committed",
            _came(counts, backfill=False),
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
            text += f"; backfill: {_came(counts, backfill=True)}"
        if self.unseen:
            many = self.unseen > 1
            whose = "subscriptions whose receivers are not inboxes" if many else "subscription whose receiver is not an inbox"
            text += f"; not checked: {self.unseen} {whose}, {counts[False, 'not checked']} expected"
        return f"{text}; filter function changed" if self.filter_problem else text

    def percentile(self, percent: float) -> float | None:
        """The latency in ms that `percent` % of the live inserts did not exceed (nearest rank); None when none came."""
        latencies = sorted(entry.latency_ms for entry in self.entries if entry.latency_ms is not None)
        return nearest_rank(latencies, percent) if latencies else None

    def problems(self, limit: int = 10) -> list[str]:
        """What is wrong, a line each, naming the rows; at most `limit` lines of a kind, then how many more."""
        lost = [f"lost: {_change_of(e)} never reached {e.sink_name}" for e in self.entries if e.state == "lost"]
        waiting = [f"not yet arrived: {_change_of(e)} has not reached {e.sink_name}" for e in self.entries if e.state == "not yet arrived"]
        duplicated = [f"duplicated: {_named(receipt)} came once more to {receipt.message.sink_name}" for receipt in self.repeats]
        foreign = [
            f"foreign: {_named(receipt)} reached the inbox of user {receipt.owner} through {receipt.message.sink_name}"
            for receipt in self.foreigners
        ]
        order = [f"out of order: {_named(receipt)} came after a later change of its row" for receipt in self.out_of_order]
        unknown = [f"unknown: {_named(receipt)} was never committed" for receipt in self.unknown]
        changed = [f"filter function changed: {self.filter_problem}"] if self.filter_problem else []
        lines: list[str] = []
        for kind in (changed, lost, waiting, duplicated, foreign, order, unknown):
            lines += kind[:limit]
            if len(kind) > limit:
                lines.append(f"{kind[0].partition(':')[0]}: {len(kind) - limit} more")
        return lines

    def frame(self) -> pd.DataFrame:
        """Every committed row or change with every sink that it concerns: the fields of `Entry`, a line each.

        Types: `row`, `times` int64; `user_id` Int64; `committed_at`, `received_at` datetime64[us, UTC]; `latency_ms` float64; `backfill`,
        `in_order` bool; the others str.
        """
        return _frame(self.entries)

    def lost(self) -> pd.DataFrame:
        """The lines of `frame()` that were owed and did not come in the time they were given."""
        return _frame([entry for entry in self.entries if entry.state == "lost"])

    def slowest(self, count: int = 10) -> pd.DataFrame:
        """The `count` lines of `frame()` with the longest way from commit to receipt, longest first."""
        timed = [entry for entry in self.entries if entry.latency_ms is not None]
        return _frame(sorted(timed, key=lambda entry: -(entry.latency_ms or 0.0))[:count])

    def duplicated(self) -> pd.DataFrame:
        """Every delivery that came once more: inbox, request, sink, action, row and key."""
        return _receipts_frame(self.repeats)

    def foreign(self) -> pd.DataFrame:
        """Every message that reached somebody else's inbox: `inbox_user_id` is who got it, `user_id` whose row it is."""
        return _receipts_frame(self.foreigners)

    def __repr__(self) -> str:
        return f"Ledger({self.verdict()})"

    def _repr_html_(self) -> str:
        return html_table("Ledger", {"verdict": self.verdict(), **{f"problem {n}": line for n, line in enumerate(self.problems(), 1)}})


def _came(counts: Counter[tuple[bool, State]], *, backfill: bool) -> str:
    received, lost, waiting = (counts[backfill, state] for state in _OWED)
    text = f"{received + lost + waiting} expected, {received} received, {lost} lost"
    return f"{text}, {waiting} not yet arrived" if waiting else text


def _change_of(entry: Entry) -> str:
    """The change in words; an insert, of which there is only one, is called by its row."""
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
