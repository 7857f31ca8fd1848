"""Messages that inboxes received, sorted: what came, once more, to the wrong user, out of order. Pure; what was owed is not judged here."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from userhooks.inspector.messages import Message


class Receipt(NamedTuple):
    """One message in an inbox: whose inbox (`owner`, a user id), which request of it (`seq`), when, and whether it was answered 2xx."""

    owner: int
    seq: int
    received_at: datetime
    accepted: bool
    message: Message


@dataclass(frozen=True)
class Arrivals:
    """Receipts by what they are, the accepted ones, each message once.

    `inserts`, `latest` and `deleted` by (sink id, row id); `reads` by these and the backfill's id; `changes` by (sink id, commit LSN, index
    in the commit), and so is what is in `late`. `times` counts by (sink id, idempotency key) how often a message was accepted.
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
        """Return how often the receipt's message was accepted."""
        return 0 if receipt is None else self.times[receipt.message.sink_id, receipt.message.idempotency_key]

    def in_order(self, receipt: Receipt) -> bool:
        """Return whether no later change of the row had arrived before the receipt."""
        message = receipt.message
        return (message.sink_id, message.lsn or 0, message.idx or 0) not in self.late


def sort_receipts(received: Iterable[Receipt], users: Mapping[str, int], *, one_insert: bool) -> Arrivals:
    """Sort the receipts of each inbox, in the order of their arrival; `users` says by sink id whose rows it may send.

    `one_insert`: a second insert of a row id is a repetition, whatever its key; else it is a row that was deleted and inserted again.
    """
    arrivals = Arrivals({}, {}, {}, {}, set(), set(), Counter(), [], [], [])
    leaks: set[tuple[int, str, str]] = set()
    position: dict[tuple[str, Any], tuple[int, int]] = {}
    for receipt in received:
        message, sink = receipt.message, receipt.message.sink_id
        if _is_foreign(message, {receipt.owner, users.get(sink, receipt.owner)}):
            # Count a foreign message once, regardless of retries and of the inbox's answers.
            if (leak := (receipt.owner, sink, message.idempotency_key)) not in leaks:
                leaks.add(leak)
                arrivals.foreigners.append(receipt)
            continue
        if not receipt.accepted:
            continue
        key, place = (sink, message.idempotency_key), (sink, message.record.get("id"))
        at = (sink, message.lsn or 0, message.idx or 0)
        arrivals.times[key] += 1
        if arrivals.times[key] > 1 or at in arrivals.changes or (one_insert and message.action == "insert" and place in arrivals.inserts):
            arrivals.repeats.append(receipt)
            continue
        if message.action == "read":
            arrivals.reads[(*place, _backfill_id(message.idempotency_key))] = receipt
            continue
        arrivals.changes[at] = receipt
        arrivals.latest[place] = receipt
        if message.action == "insert":
            arrivals.inserts[place] = receipt
        elif message.action == "delete":
            arrivals.deleted.add(place)
        now = at[1:]
        if now < position.setdefault(place, now):
            arrivals.late.add(at)
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
