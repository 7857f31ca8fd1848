"""Sorts received messages into first deliveries, duplicates, foreign messages, and messages out of order. Pure.

This module does not know which messages were expected.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from userhooks.inspector.messages import Message


class Receipt(NamedTuple):
    """One message in an inbox.

    `owner` is the user id of the inbox, `seq` the number of the request in it, and `accepted` whether the inbox answered 2xx.
    """

    owner: int
    seq: int
    received_at: datetime
    accepted: bool
    message: Message


@dataclass(frozen=True)
class Arrivals:
    """Receipts sorted by kind.

    `inserts`, `reads`, `changes`, and `latest` map a key to the first accepted delivery of a message. `deleted` and `late` are sets of
    keys: rows that a sink reported as deleted, and changes that arrived out of order. The keys are

    - (sink id, row id) in `inserts`, `latest`, and `deleted`,
    - (sink id, row id, backfill id) in `reads`,
    - (sink id, commit LSN, index in the commit) in `changes` and `late`,
    - (sink id, idempotency key) in `times`, which counts how often a message was accepted.

    `foreigners` includes deliveries that were not accepted.
    """

    inserts: dict[tuple[str, Any], Receipt]
    reads: dict[tuple[str, Any, str | None], Receipt]
    changes: dict[tuple[str, int, int], Receipt]
    latest: dict[tuple[str, Any], Receipt]
    deleted: set[tuple[str, Any]]
    late: set[tuple[str, int, int]]
    times: Counter[tuple[str, str]]
    repeats: list[Receipt]
    foreigners: list[Receipt]
    out_of_order: list[Receipt]

    def how_often(self, receipt: Receipt | None) -> int:
        """Return how many times the receipt's message was accepted."""
        return 0 if receipt is None else self.times[receipt.message.sink_id, receipt.message.idempotency_key]

    def in_order(self, receipt: Receipt) -> bool:
        """Return whether the receipt's message arrived before all later changes of its row."""
        message = receipt.message
        return (message.sink_id, message.lsn or 0, message.idx or 0) not in self.late


def sort_receipts(received: Iterable[Receipt], users: Mapping[str, int], *, one_insert: bool) -> Arrivals:
    """Sort the receipts of all inboxes, given in order of arrival within each inbox.

    `users` maps a sink id to the user whose rows the sink may send. If `one_insert` is true, a second insert of a row id is a duplicate
    even if its idempotency key differs; otherwise, the row is assumed to have been deleted and inserted again.
    """
    arrivals = Arrivals({}, {}, {}, {}, set(), set(), Counter(), [], [], [])
    foreign: set[tuple[int, str, str]] = set()
    positions: dict[tuple[str, Any], tuple[int, int]] = {}
    for receipt in received:
        message, sink = receipt.message, receipt.message.sink_id
        if _is_foreign(message, {receipt.owner, users.get(sink, receipt.owner)}):
            # A foreign message counts once, whatever the inbox answered and however often it was retried.
            if (delivery := (receipt.owner, sink, message.idempotency_key)) not in foreign:
                foreign.add(delivery)
                arrivals.foreigners.append(receipt)
            continue
        if not receipt.accepted:
            continue
        key, row = (sink, message.idempotency_key), (sink, message.record.get("id"))
        change = (sink, message.lsn or 0, message.idx or 0)
        arrivals.times[key] += 1
        if arrivals.times[key] > 1 or change in arrivals.changes or (one_insert and message.action == "insert" and row in arrivals.inserts):
            arrivals.repeats.append(receipt)
            continue
        if message.action == "read":
            arrivals.reads[(*row, _backfill_id(message.idempotency_key))] = receipt
            continue
        arrivals.changes[change] = receipt
        arrivals.latest[row] = receipt
        if message.action == "insert":
            arrivals.inserts[row] = receipt
        elif message.action == "delete":
            arrivals.deleted.add(row)
        position = change[1:]
        if position < positions.setdefault(row, position):
            arrivals.late.add(change)
            arrivals.out_of_order.append(receipt)
        else:
            positions[row] = position
    return arrivals


def _is_foreign(message: Message, owners: set[int]) -> bool:
    """Return whether the message contains a user id other than the owner's.

    `owners` are the owners of the inbox and the sink; if they differ, any user id is foreign. A user id that is not an integer belongs to
    nobody, so it is foreign too.
    """
    user_ids = [values["user_id"] for values in (message.record, message.changes or {}) if values.get("user_id") is not None]
    return any(type(user) is not int or owners != {user} for user in user_ids)


def _backfill_id(idempotency_key: str) -> str | None:
    """Return the id of the backfill that a `read` belongs to, or None if its key does not contain one.

    The key of a `read` is the base64 encoding of `backfill id:primary key`, as recorded from Sequin 0.14.6.
    """
    try:
        return base64.b64decode(idempotency_key).decode().partition(":")[0]
    except ValueError:
        return None
