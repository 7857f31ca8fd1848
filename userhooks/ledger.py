"""The ledger: what was committed, held against what was received. Pure; lesson.py reads both sides from the database and the inboxes."""

from __future__ import annotations

import base64
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from userhooks.messages import Message

if TYPE_CHECKING:
    import pandas as pd

State = Literal["received", "lost", "not owed"]


class Row(NamedTuple):
    """A committed row of `notifications`; `committed_at` is its `created_at`, the start of its transaction (aware)."""

    id: int
    user_id: int
    committed_at: datetime


class Receipt(NamedTuple):
    """One message in an inbox: whose inbox (`owner`, a user id), which request of it (`seq`), when, and whether it was answered 2xx."""

    owner: int
    seq: int
    received_at: datetime
    accepted: bool
    message: Message


class Owed(NamedTuple):
    """A sink that owes a user's inbox every row of the user that is committed at or after `since` (aware)."""

    user_id: int
    sink_id: str
    sink_name: str
    since: datetime


class Replay(NamedTuple):
    """A backfill of a sink: it owes, as `read`, every row of the sink's user that was committed before `started_at` (aware)."""

    sink_id: str
    backfill_id: str
    started_at: datetime


class Entry(NamedTuple):
    """One committed row and one sink: what was owed and what came.

    `backfill` is True for history, False for the live insert. `state` is `received`, `lost` or `not owed`; `sink_name` is None when nobody
    subscribed to the row's user. `received_at` and `latency_ms` belong to the first delivery that was answered 2xx; a backfill's line has
    no latency, as a `read` does not tell when its row was committed.
    """

    row: int
    user_id: int
    sink_name: str | None
    backfill: bool
    state: State
    committed_at: datetime
    received_at: datetime | None
    latency_ms: float | None


@dataclass(frozen=True, repr=False)
class Ledger:
    """What a run committed, who was owed it and what came; `reconcile` makes it.

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

    @property
    def ok(self) -> bool:
        """Whether everything owed came, once, in order, and nothing else did."""
        return self.complete and not (self.repeats or self.foreigners or self.out_of_order or self.unknown)

    @property
    def complete(self) -> bool:
        """Whether everything owed came; what else may be wrong is left aside."""
        return not any(entry.state == "lost" for entry in self.entries)

    def verdict(self) -> str:
        """One line: `500 committed, 167 expected, 167 received, 0 lost, 0 duplicated, 0 foreign, order kept, p99 3 ms`.

        expected: (row, sink) pairs that were owed. received: of these, how many came. duplicated: the same sink and idempotency key, or the
        same row's insert, answered 2xx once more. foreign: `record.user_id`, or a `user_id` in `changes`, is another user's than the
        inbox's or the sink's. Order is that of the changes of one row at one sink. p99 is of commit to receipt; absent when nothing came.
        Only when there are any: `unknown` counts messages of rows that are not in the table, and a backfill adds what it owed.
        """
        counts = Counter((entry.backfill, entry.state) for entry in self.entries)
        parts = [
            f"{self.committed} committed",
            f"{counts[False, 'received'] + counts[False, 'lost']} expected",
            f"{counts[False, 'received']} received",
            f"{counts[False, 'lost']} lost",
            f"{len(self.repeats)} duplicated",
            f"{len(self.foreigners)} foreign",
            f"{len(self.out_of_order)} out of order" if self.out_of_order else "order kept",
        ]
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown")
        latency = self.percentile(99)
        if latency is not None:
            parts.append(f"p99 {latency:.0f} ms")
        text = ", ".join(parts)
        came, lost = counts[True, "received"], counts[True, "lost"]
        return f"{text}; backfill: {came + lost} expected, {came} received, {lost} lost" if came + lost else text

    def percentile(self, percent: float) -> float | None:
        """The latency in ms that `percent` % of the live inserts did not exceed (nearest rank); None when none came."""
        latencies = sorted(entry.latency_ms for entry in self.entries if entry.latency_ms is not None)
        return latencies[max(0, math.ceil(percent / 100 * len(latencies)) - 1)] if latencies else None

    def problems(self, limit: int = 10) -> list[str]:
        """What is wrong, a line each, naming the rows; at most `limit` lines of a kind, then how many more."""
        lost = [
            f"lost: row {e.row} of user {e.user_id} never reached {e.sink_name}{' by its backfill' if e.backfill else ''}"
            for e in self.entries
            if e.state == "lost"
        ]
        duplicated = [f"duplicated: {_named(receipt)} came once more to {receipt.message.sink_name}" for receipt in self.repeats]
        foreign = [
            f"foreign: {_named(receipt)} reached the inbox of user {receipt.owner} through {receipt.message.sink_name}"
            for receipt in self.foreigners
        ]
        order = [f"out of order: {_named(receipt)} came after a later change of its row" for receipt in self.out_of_order]
        unknown = [f"unknown: {_named(receipt)} is not in the table" for receipt in self.unknown]
        lines: list[str] = []
        for kind in (lost, duplicated, foreign, order, unknown):
            lines += kind[:limit]
            if len(kind) > limit:
                lines.append(f"{kind[0].partition(':')[0]}: {len(kind) - limit} more")
        return lines

    def frame(self) -> pd.DataFrame:
        """Every committed row with every sink that it concerns: the fields of `Entry`, a line each."""
        return _frame(self.entries)

    def lost(self) -> pd.DataFrame:
        """The lines of `frame()` that were owed and did not come."""
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


def reconcile(committed: Iterable[Row], received: Iterable[Receipt], owed: Iterable[Owed], replays: Iterable[Replay] = ()) -> Ledger:
    """Hold what was committed against what was received.

    `committed` holds the rows as the database has them now, `received` the messages of each inbox in the order of their arrival, `owed`
    the subscriptions and `replays` their backfills. Judges live inserts and backfills of rows that are still there; updates and deletes are
    checked for duplicates, order and owner. An insert from before a sink's `since` is owed only if it came. A backfill leaves out a row
    that the sink sends live in the meantime, so a live message of the row received after its start does as well.
    """
    rows, debts = list(committed), list(owed)
    arrivals = _sort_out(received, {debt.sink_id: debt.user_id for debt in debts})
    by_user: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row.user_id].append(row)
    subscribed = {debt.user_id for debt in debts}
    entries = [
        Entry(row.id, row.user_id, None, False, "not owed", row.committed_at, None, None) for row in rows if row.user_id not in subscribed
    ]
    for debt in debts:
        entries += [_live_entry(row, debt, arrivals.inserts.get((debt.sink_id, row.id))) for row in by_user[debt.user_id]]
    debt_of = {debt.sink_id: debt for debt in debts}
    for replay in replays:
        debt = debt_of[replay.sink_id]
        entries += [_history_entry(row, debt, replay, arrivals) for row in by_user[debt.user_id] if row.committed_at < replay.started_at]
    there = {row.id for row in rows}
    return Ledger(
        committed=len(rows),
        entries=entries,
        repeats=arrivals.repeats,
        foreigners=arrivals.foreigners,
        out_of_order=arrivals.out_of_order,
        unknown=[
            receipt
            for (sink, row, *_), receipt in [*arrivals.inserts.items(), *arrivals.reads.items()]
            if row not in there and (sink, row) not in arrivals.deleted
        ],
    )


@dataclass(frozen=True)
class _Arrivals:
    """Receipts by what they are; keys are (sink id, row id)."""

    inserts: dict[tuple[str, Any], Receipt]
    reads: dict[tuple[str, Any, str | None], Receipt]
    latest: dict[tuple[str, Any], Receipt]
    deleted: set[tuple[str, Any]]
    repeats: list[Receipt]
    foreigners: list[Receipt]
    out_of_order: list[Receipt]


def _sort_out(received: Iterable[Receipt], users: dict[str, int]) -> _Arrivals:
    arrivals = _Arrivals({}, {}, {}, set(), [], [], [])
    leaks: set[tuple[int, str, str]] = set()
    keys: set[tuple[str, str]] = set()
    position: dict[tuple[str, Any], tuple[int, int]] = {}
    for receipt in received:
        message, sink = receipt.message, receipt.message.sink_id
        if _is_foreign(message, {receipt.owner, users.get(sink, receipt.owner)}):
            # A leak is one whatever the inbox answered, and however often it was tried.
            if (leak := (receipt.owner, sink, message.idempotency_key)) not in leaks:
                leaks.add(leak)
                arrivals.foreigners.append(receipt)
            continue
        if not receipt.accepted:
            continue
        key, place = (sink, message.idempotency_key), (sink, message.record.get("id"))
        if key in keys or (message.action == "insert" and place in arrivals.inserts):
            arrivals.repeats.append(receipt)
            continue
        keys.add(key)
        if message.action == "read":
            arrivals.reads[(*place, _backfill_id(message.idempotency_key))] = receipt
            continue
        arrivals.latest[place] = receipt
        if message.action == "insert":
            arrivals.inserts[place] = receipt
        elif message.action == "delete":
            arrivals.deleted.add(place)
        now = (message.lsn or 0, message.idx or 0)
        if now < position.setdefault(place, now):
            arrivals.out_of_order.append(receipt)
        else:
            position[place] = now
    return arrivals


def _is_foreign(message: Message, owners: set[int]) -> bool:
    """Whether a user id in the message is not the owners'; one of another type than an integer is nobody's, so foreign as well."""
    named = [holder["user_id"] for holder in (message.record, message.changes or {}) if holder.get("user_id") is not None]
    return any(type(user) is not int or owners != {user} for user in named)


def _backfill_id(idempotency_key: str) -> str | None:
    """The backfill that a `read` belongs to: its key is base64 of `backfill id:primary key` (as recorded of Sequin 0.14.6)."""
    try:
        return base64.b64decode(idempotency_key).decode().partition(":")[0]
    except ValueError:
        return None


def _live_entry(row: Row, debt: Owed, receipt: Receipt | None) -> Entry:
    if receipt is None:
        state: State = "lost" if row.committed_at >= debt.since else "not owed"
        return Entry(row.id, row.user_id, debt.sink_name, False, state, row.committed_at, None, None)
    latency = (receipt.received_at - receipt.message.commit_timestamp).total_seconds() * 1000
    return Entry(row.id, row.user_id, debt.sink_name, False, "received", row.committed_at, receipt.received_at, latency)


def _history_entry(row: Row, debt: Owed, replay: Replay, arrivals: _Arrivals) -> Entry:
    receipt = arrivals.reads.get((debt.sink_id, row.id, replay.backfill_id))
    if receipt is None:
        live = arrivals.latest.get((debt.sink_id, row.id))
        receipt = live if live is not None and live.received_at >= replay.started_at else None
    state: State = "lost" if receipt is None else "received"
    return Entry(row.id, row.user_id, debt.sink_name, True, state, row.committed_at, receipt and receipt.received_at, None)


def _named(receipt: Receipt) -> str:
    message = receipt.message
    return f"{message.action} of row {message.record.get('id')} of user {message.record.get('user_id')}"


_UTC = "datetime64[us, UTC]"


def _frame(entries: Sequence[Entry]) -> pd.DataFrame:
    types = {
        "row": "int64", "user_id": "int64", "sink_name": "str", "backfill": "bool", "state": "str", "committed_at": _UTC,
        "received_at": _UTC, "latency_ms": "float64",
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
    import pandas as pd

    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return pd.DataFrame({name: pd.Series(list(values), dtype=dtype) for (name, dtype), values in zip(types.items(), columns, strict=True)})
