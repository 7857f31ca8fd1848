"""Compares the rows of the table with received messages. Pure; `lessons/lesson.py` reads both.

`changes.py` compares every change, with updates and deletes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from userhooks.ledger.arrivals import Arrivals, Receipt, sort_receipts
from userhooks.ledger.report import Entry, Ledger, State


class Row(NamedTuple):
    """A committed row of `notifications`.

    `committed_at` (timezone-aware) is the row's `created_at`, the time at which its transaction started.
    """

    id: int
    user_id: int
    committed_at: datetime


class OwedSubscription(NamedTuple):
    """A sink that must deliver every row of the user that was committed at or after `since` (timezone-aware).

    `is_seen` is False if the receiver is not an inbox, so that its deliveries cannot be checked.
    """

    user_id: int
    sink_id: str
    sink_name: str
    since: datetime
    is_seen: bool = True

    def missing(self, committed_at: datetime) -> State:
        """Return the state of a live change of this user that has not been received."""
        if committed_at < self.since:
            return "not owed"
        return "lost" if self.is_seen else "not checked"


class BackfillRead(NamedTuple):
    """A backfill, which must deliver a `read` of every row of the sink's user committed before `started_at` (timezone-aware)."""

    sink_id: str
    backfill_id: str
    started_at: datetime


def reconcile(
    committed: Iterable[Row], received: Iterable[Receipt], owed: Iterable[OwedSubscription], backfills: Iterable[BackfillRead] = ()
) -> Ledger:
    """Compare committed rows with the received messages.

    `committed` are the rows currently in the table, `received` the messages of each inbox in order of arrival, `owed` the subscriptions,
    and `backfills` their backfills. Inserts and backfills are checked for lost messages if the row still exists. Updates and deletes are
    checked only for duplicates, order, and owner. An insert committed before a sink's `since` is expected only if it was received. A
    backfill skips a row if the sink sends a live message about it in the meantime, so such a message counts like a `read`.
    """
    rows, subscriptions = list(committed), list(owed)
    arrivals = sort_receipts(received, {subscription.sink_id: subscription.user_id for subscription in subscriptions}, one_insert=True)
    by_user: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row.user_id].append(row)
    subscribed = {subscription.user_id for subscription in subscriptions}
    entries = [
        Entry(row.id, row.user_id, None, False, "not owed", row.committed_at, None, None) for row in rows if row.user_id not in subscribed
    ]
    for subscription in subscriptions:
        entries += [
            _live_entry(row, subscription, arrivals.inserts.get((subscription.sink_id, row.id)), arrivals)
            for row in by_user[subscription.user_id]
        ]
    by_sink = {subscription.sink_id: subscription for subscription in subscriptions}
    for backfill in backfills:
        subscription = by_sink[backfill.sink_id]
        entries += [
            history_entry(row, subscription, backfill, arrivals)
            for row in by_user[subscription.user_id]
            if row.committed_at < backfill.started_at
        ]
    existing = {row.id for row in rows}
    return Ledger(
        committed=len(rows),
        entries=entries,
        repeats=arrivals.repeats,
        foreigners=arrivals.foreigners,
        out_of_order=arrivals.out_of_order,
        unknown=[
            receipt
            for (sink, row, *_), receipt in [*arrivals.inserts.items(), *arrivals.reads.items()]
            if row not in existing and (sink, row) not in arrivals.deleted
        ],
        unseen=sum(not subscription.is_seen for subscription in subscriptions),
    )


def _live_entry(row: Row, subscription: OwedSubscription, receipt: Receipt | None, arrivals: Arrivals) -> Entry:
    if receipt is None:
        return Entry(
            row.id, row.user_id, subscription.sink_name, False, subscription.missing(row.committed_at), row.committed_at, None, None
        )
    latency = (receipt.received_at - receipt.message.commit_timestamp).total_seconds() * 1000
    entry = Entry(row.id, row.user_id, subscription.sink_name, False, "received", row.committed_at, receipt.received_at, latency)
    return entry._replace(times=arrivals.how_often(receipt), in_order=arrivals.in_order(receipt))


def history_entry(row: Row, subscription: OwedSubscription, backfill: BackfillRead, arrivals: Arrivals) -> Entry:
    """Return the entry of one row in a backfill: received as a `read`, or as a live message that made the `read` unnecessary."""
    receipt = arrivals.reads.get((subscription.sink_id, row.id, backfill.backfill_id))
    if receipt is None:
        live = arrivals.latest.get((subscription.sink_id, row.id))
        receipt = live if live is not None and live.received_at >= backfill.started_at else None
    state: State = "lost" if receipt is None else "received"
    entry = Entry(row.id, row.user_id, subscription.sink_name, True, state, row.committed_at, receipt and receipt.received_at, None, "read")
    return entry._replace(times=arrivals.how_often(receipt))
