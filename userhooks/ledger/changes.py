"""Changes as the WAL has them, held against what was received. Pure; `wal.py` reads them, rows without their changes are `rows.py`'s.

Who is owed what is reckoned here once more and by itself, from the rules that the subscriptions' filter follows: a user's sink gets the
changes of the user's rows, but no update that moved a row from one user to another, since it shows both what is the other's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime

from userhooks.ledger.arrivals import Arrivals, Receipt, sort_receipts
from userhooks.ledger.report import Entry, Ledger, State
from userhooks.ledger.rows import BackfillRead, OwedSubscription, Row, history_entry
from userhooks.ledger.wal import WalChange

_MOVED = "the row moved from user {} to user {}: its old values are the one's, its new ones the other's"
_NAMELESS = "the WAL does not say whose row it was: the table's replica identity is not FULL"


def reconcile(
    changes: Iterable[WalChange],
    received: Iterable[Receipt],
    owed: Iterable[OwedSubscription],
    backfills: Iterable[BackfillRead] = (),
    rows: Iterable[Row] = (),
    *,
    users: Collection[int] | None = None,
    since_lsn: int = 0,
) -> Ledger:
    """Compare every change committed at or after `since_lsn` with the received messages.

    `changes` come in the order of their commits; with `users`, only those of their rows count. `received`, `owed` and `backfills` are those
    of `rows.reconcile`, and `rows` is the table as it is now, for the replays. A change from before a sink's `since` is owed if it came.
    """
    subscriptions = list(owed)
    arrivals = sort_receipts(received, {subscription.sink_id: subscription.user_id for subscription in subscriptions}, one_insert=False)
    sinks: defaultdict[int, list[OwedSubscription]] = defaultdict(list)
    for subscription in subscriptions:
        sinks[subscription.user_id].append(subscription)
    owners: dict[int, int] = {}
    unsteady: dict[int, datetime] = {}
    known: set[tuple[int, int, str, int]] = set()
    entries: list[Entry] = []
    committed = 0
    for change in changes:
        known.add((change.lsn, change.idx, change.action, change.row))
        has_moved = change.former_user_id not in (None, change.user_id)
        owner = owners.get(change.row) if change.user_id is None else change.user_id
        if change.user_id is not None:
            owners[change.row] = change.user_id
        if change.action == "insert" or has_moved:
            unsteady[change.row] = change.committed_at
        concerned = [user for user in ((owner, change.former_user_id) if has_moved else (owner,)) if users is None or user in users]
        if not concerned:
            continue
        committed += 1
        reason = _MOVED.format(change.former_user_id, owner) if has_moved else _NAMELESS if change.user_id is None else ""
        lines = [_entry(change, subscription, arrivals, reason) for user in concerned if user is not None for subscription in sinks[user]]
        unowed = Entry(change.row, owner, None, False, "not owed", change.committed_at, None, None, change.action, reason=reason)
        entries += lines or [unowed]
    by_sink = {subscription.sink_id: subscription for subscription in subscriptions}
    table = list(rows)
    for backfill in backfills:
        subscription = by_sink[backfill.sink_id]
        for row in table:
            if row.user_id == subscription.user_id and row.committed_at < backfill.started_at:
                entry = history_entry(row, subscription, backfill, arrivals)
                # What came into being or moved after the start was read or not, by the place that the reading had reached.
                if entry.state == "received" or unsteady.get(row.id, row.committed_at) < backfill.started_at:
                    entries.append(entry)
    return Ledger(
        committed=committed,
        entries=entries,
        repeats=arrivals.repeats,
        foreigners=arrivals.foreigners,
        out_of_order=arrivals.out_of_order,
        unknown=[
            receipt
            for (_, lsn, idx), receipt in arrivals.changes.items()
            if lsn >= since_lsn and (lsn, idx, receipt.message.action, receipt.message.record.get("id")) not in known
        ],
        unseen=sum(not subscription.is_seen for subscription in subscriptions),
    )


def _entry(change: WalChange, subscription: OwedSubscription, arrivals: Arrivals, reason: str) -> Entry:
    receipt = arrivals.changes.get((subscription.sink_id, change.lsn, change.idx))
    if receipt is not None and (receipt.message.action, receipt.message.record.get("id")) != (change.action, change.row):
        receipt = None  # The message has this change's position but describes another change.
    if receipt is not None:
        latency = (receipt.received_at - change.committed_at).total_seconds() * 1000
        state: State = "received"
    else:
        latency = None
        state = "withheld" if reason else subscription.missing(change.committed_at)
    return Entry(
        row=change.row,
        user_id=subscription.user_id,
        sink_name=subscription.sink_name,
        backfill=False,
        state=state,
        committed_at=change.committed_at,
        received_at=None if receipt is None else receipt.received_at,
        latency_ms=latency,
        action=change.action,
        times=arrivals.how_often(receipt),
        in_order=receipt is None or arrivals.in_order(receipt),
        reason=reason,
    )
