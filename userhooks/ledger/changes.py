"""Compares the changes in the WAL with received messages. Pure; `wal.py` reads the changes, and `rows.py` compares rows instead.

This module determines which changes each sink must send. It does not call the filter function of subscriptions, but it has the same rules:
a sink sends the changes of its user's rows, except an update that moves a row to another user, which would show each user the other's data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime

from userhooks.ledger.arrivals import Arrivals, Receipt, sort_receipts
from userhooks.ledger.report import Entry, Ledger, State
from userhooks.ledger.rows import BackfillRead, OwedSubscription, Row, history_entry
from userhooks.ledger.wal import WalChange

_MOVED = "the row moved from user {0} to user {1}: its old values belong to user {0}, its new values to user {1}"
_NAMELESS = "the WAL does not contain the row's user: the table's replica identity is not FULL"


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
    """Compare committed changes with the received messages.

    `changes` must be in commit order. If `users` is given, only changes of these users' rows count. `received`, `owed`, and `backfills` are
    as in `rows.reconcile`. `rows` are the rows currently in the table, which backfills are compared with. A change committed before a
    sink's `since` is expected only if it was received. `since_lsn` is the LSN at which `changes` starts; messages about earlier changes are
    ignored.
    """
    subscriptions = list(owed)
    arrivals = sort_receipts(received, {subscription.sink_id: subscription.user_id for subscription in subscriptions}, one_insert=False)
    sinks: defaultdict[int, list[OwedSubscription]] = defaultdict(list)
    for subscription in subscriptions:
        sinks[subscription.user_id].append(subscription)
    owners: dict[int, int] = {}
    inserted_or_moved_at: dict[int, datetime] = {}
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
            inserted_or_moved_at[change.row] = change.committed_at
        affected = [user for user in ((owner, change.former_user_id) if has_moved else (owner,)) if users is None or user in users]
        if not affected:
            continue
        committed += 1
        reason = _MOVED.format(change.former_user_id, owner) if has_moved else _NAMELESS if change.user_id is None else ""
        sinks_of_owners = [subscription for user in affected if user is not None for subscription in sinks[user]]
        unowed = Entry(change.row, owner, None, False, "not owed", change.committed_at, None, None, change.action, reason=reason)
        entries += [_entry(change, subscription, arrivals, reason) for subscription in sinks_of_owners] or [unowed]
    by_sink = {subscription.sink_id: subscription for subscription in subscriptions}
    table = list(rows)
    for backfill in backfills:
        subscription = by_sink[backfill.sink_id]
        for row in table:
            if row.user_id == subscription.user_id and row.committed_at < backfill.started_at:
                entry = history_entry(row, subscription, backfill, arrivals)
                # A row inserted or moved after the backfill started may or may not have been read, so it is not expected.
                if entry.state == "received" or inserted_or_moved_at.get(row.id, row.committed_at) < backfill.started_at:
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
        receipt = None  # its message is about another change with the same LSN and index
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
