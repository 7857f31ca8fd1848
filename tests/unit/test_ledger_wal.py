"""The WAL ledger: its payload decoder, and a verdict that agrees with an independent count."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.test_ledger import ADA, BEN, CY, at, message, owed, read, receipt, sink
from userhooks.ledger import BackfillRead, Ledger, OwedSubscription, Receipt, Row
from userhooks.ledger.changes import reconcile
from userhooks.ledger.wal import PayloadReader, WalChange

USERS = [ADA, BEN, CY]


def change(n: int, action: str, row: int, user: int | None, former: int | None = None) -> WalChange:
    """Return the n-th change of a history, committed at second n."""
    return WalChange(n * 10, 0, at(n), action, row, user, former)


def sent(committed: WalChange, sink_id: str, owner: int, **fields: Any) -> Receipt:
    """Return the receipt of a change that a sink sends."""
    changes = None
    if committed.action == "update":
        changes = {"message": "y"} if committed.former_user_id == committed.user_id else {"user_id": committed.former_user_id}
    made = message(committed.action, committed.row, committed.user_id, sink_id, lsn=committed.lsn, changes=changes)
    made = type(made)(made.action, made.record, made.changes, {**made.metadata, "commit_timestamp": committed.committed_at.isoformat()})
    return receipt(made, owner, **fields)


HISTORY = [
    change(1, "insert", 1, ADA),
    change(2, "insert", 2, BEN),
    change(3, "update", 1, ADA, ADA),
    change(4, "update", 1, BEN, ADA),
    change(5, "delete", 2, BEN),
    change(6, "insert", 2, ADA),
]
ADAS = [sent(HISTORY[n], sink(ADA), ADA) for n in (0, 2, 5)]


def ledger(received: Sequence[Receipt], subscriptions: Sequence[OwedSubscription] = (owed(ADA),), **options: Any) -> Ledger:
    return reconcile(HISTORY, received, subscriptions, **options)


def test_inserts_updates_and_deletes_are_owed_and_a_row_that_changes_hands_is_withheld() -> None:
    assert (
        ledger(ADAS).verdict() == "6 committed, 3 expected, 3 received, 0 lost, 0 duplicated, 0 foreign, order kept, 1 withheld, p99 3 ms"
    )
    assert ledger(ADAS).ok
    withheld = ledger(ADAS).frame().query("state == 'withheld'")
    assert withheld["reason"].to_list() == [
        "the row moved from user 1 to user 2: its old values belong to user 1, its new values to user 2"
    ]


def test_both_owners_of_a_row_that_changed_hands_have_a_line() -> None:
    both = [*ADAS, *(sent(HISTORY[n], sink(BEN), BEN) for n in (1, 4))]
    result = ledger(both, [owed(ADA), owed(BEN)])
    assert result.verdict().startswith("6 committed, 5 expected, 5 received, 0 lost, 0 duplicated, 0 foreign, order kept, 2 withheld")
    assert result.ok


def test_changes_owed_to_a_receiver_that_is_not_an_inbox_are_not_checked() -> None:
    result = ledger(ADAS, [owed(ADA), owed(BEN)._replace(is_seen=False)])
    assert result.verdict().endswith("; not checked: 1 subscription whose receiver is not an inbox, 2 expected")
    assert "3 expected, 3 received, 0 lost" in result.verdict()
    assert result.ok


def test_a_lost_update_is_named_by_user_row_and_sink() -> None:
    assert ledger(ADAS[:1] + ADAS[2:]).problems() == ["lost: the update of row 1 of user 1 never reached user-1-notifications"]


def test_a_delivery_that_came_twice_is_counted_in_its_line() -> None:
    result = ledger([*ADAS, ADAS[1]])
    assert "1 duplicated" in result.verdict()
    assert result.frame().query("action == 'update' and state == 'received'")["times"].to_list() == [2]


def test_an_id_that_is_used_again_after_a_delete_is_no_duplicate() -> None:
    assert ledger([sent(HISTORY[n], sink(BEN), BEN) for n in (1, 4)], [owed(BEN)]).ok


def test_a_change_of_hands_that_was_sent_is_foreign() -> None:
    result = ledger([*ADAS, sent(HISTORY[3], sink(ADA), ADA)])
    assert "1 foreign" in result.verdict()
    assert result.problems() == ["foreign: update of row 1 of user 2 reached the inbox of user 1 through user-1-1"]


def test_a_later_change_that_came_first_is_named_and_marked() -> None:
    result = ledger([ADAS[1], ADAS[0], ADAS[2]])
    assert result.problems() == ["out of order: insert of row 1 of user 1 arrived after a later change of its row"]
    assert result.frame().query("not in_order")["action"].to_list() == ["insert"]


def test_a_message_of_a_change_that_was_never_committed_is_unknown() -> None:
    made_up = sent(change(3, "update", 7, ADA, ADA), sink(ADA), ADA)
    result = ledger([ADAS[0], made_up, ADAS[2]])
    assert "2 received, 1 lost" in result.verdict()
    assert "unknown: update of row 7 of user 1 was never committed" in result.problems()


def test_what_was_sent_of_changes_before_the_recording_is_left_aside() -> None:
    before = sent(change(-5, "insert", 9, ADA), sink(ADA), ADA)
    assert ledger([before, *ADAS], since_lsn=10).ok


def test_only_the_users_that_are_asked_for_count() -> None:
    assert ledger([], [], users={BEN}).verdict().startswith("3 committed, 0 expected")


def test_a_delete_that_does_not_say_whose_row_it_was_is_withheld_from_its_owner() -> None:
    history = [change(1, "insert", 1, ADA), change(2, "delete", 1, None)]
    result = reconcile(history, [sent(history[0], sink(ADA), ADA)], [owed(ADA)])
    assert result.ok
    line = result.frame().iloc[1]
    assert (line["state"], line["user_id"]) == ("withheld", ADA)
    assert "replica identity is not FULL" in line["reason"]


def test_a_backfill_owes_what_was_there_and_not_what_moved_meanwhile() -> None:
    table = [Row(3, ADA, at(-9)), Row(4, ADA, at(-8)), Row(5, ADA, at(-7))]
    history = [change(9, "update", 4, ADA, BEN)]
    backfill = BackfillRead(sink(ADA), "b1", at(5))
    result = reconcile(history, [read(3, ADA)], [owed(ADA)], [backfill], table)
    assert result.verdict().endswith("1 withheld; backfill: 2 expected, 1 received, 1 lost")
    assert result.lost()["row"].to_list() == [5]


# --- compared with an independent count ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_the_verdict_agrees_with_an_independent_count_of_a_random_run_with_faults(seed: int) -> None:
    rng = random.Random(seed)
    subscriptions = [owed(user, number, rng.choice([0, 0, 30])) for user in USERS for number in range(rng.randint(0, 2))]
    rows: dict[int, int] = {}
    history: list[WalChange] = []
    wire: list[Receipt] = []
    tally: Counter[str] = Counter()
    for n in range(1, rng.randint(2, 120)):
        operation = rng.choice(["insert", "insert", "update", "update", "move", "delete"]) if rows else "insert"
        row = rng.choice(list(rows)) if operation != "insert" else rng.choice([k for k in range(1, 400) if k not in rows])
        former = rows.get(row)
        user = rng.choice(USERS) if operation in ("insert", "move") else former
        committed = change(
            n, "update" if operation == "move" else operation, row, user, former if operation in ("update", "move") else None
        )
        history.append(committed)
        rows[row] = user or 0
        if operation == "delete":
            del rows[row]
        moved = operation == "move" and former != user
        for subscription in subscriptions:
            if subscription.user_id not in ((former, user) if moved else (user,)):
                continue
            if moved:
                tally["withheld"] += 1
                continue
            fate = rng.choice(["sent"] * 12 + ["lost", "refused", "retried", "doubled", "trebled", "leaked"])
            arrived = fate not in ("lost", "refused")
            is_owed = committed.committed_at >= subscription.since
            tally["expected"] += arrived or is_owed
            tally["lost"] += is_owed and not arrived
            tally["duplicated"] += {"doubled": 1, "trebled": 2}.get(fate, 0)
            arrival = sent(committed, subscription.sink_id, subscription.user_id)
            wire += [arrival._replace(accepted=False)] * (fate in ("refused", "retried"))
            wire += [arrival] * {"doubled": 2, "trebled": 3}.get(fate, int(arrived))
            if fate == "leaked":
                tally["foreign"] += 1
                wire.append(arrival._replace(owner=rng.choice([other for other in USERS if other != subscription.user_id])))
    if rng.random() < 0.4 and wire:
        a, b = sorted(rng.choices(range(len(wire)), k=2))
        wire[a : b + 1] = reversed(wire[a : b + 1])
    late = _late(wire)
    order = f"{late} out of order" if late else "order kept"
    counted = (
        f"{len(history)} committed, {tally['expected']} expected, {tally['expected'] - tally['lost']} received, {tally['lost']} lost, "
        f"{tally['duplicated']} duplicated, {tally['foreign']} foreign, {order}"
    )
    counted += f", {tally['withheld']} withheld" if tally["withheld"] else ""
    result = reconcile(history, wire, subscriptions)
    assert result.verdict().startswith(counted), f"seed {seed}"
    assert result.ok is not (late or tally["lost"] or tally["duplicated"] or tally["foreign"]), f"seed {seed}"


def _late(wire: Sequence[Receipt]) -> int:
    """Return the number of first deliveries that follow a later change of their row, by comparing each pair."""
    firsts: list[Receipt] = []
    for arrival in wire:
        own_sinks = f"sink-{arrival.owner}-"
        is_first = all((first.message.lsn, first.message.sink_id) != (arrival.message.lsn, arrival.message.sink_id) for first in firsts)
        if arrival.accepted and arrival.message.sink_id.startswith(own_sinks) and is_first:
            firsts.append(arrival)
    return sum(
        any(
            earlier.message.sink_id == arrival.message.sink_id
            and earlier.message.record["id"] == arrival.message.record["id"]
            and (earlier.message.lsn or 0) > (arrival.message.lsn or 0)
            for earlier in firsts[:n]
        )
        for n, arrival in enumerate(firsts)
    )


# --- reading the WAL -------------------------------------------------------------------------------------------------------


def row(*values: str | None) -> bytes:
    parts = [b"n" if v is None else b"t" + struct.pack(">I", len(v.encode())) + v.encode() for v in values]
    return struct.pack(">H", len(values)) + b"".join(parts)


def relation(oid: int, name: bytes, *columns: bytes) -> bytes:
    body = b"".join(b"\0" + column + b"\0" + struct.pack(">Ii", 23, -1) for column in columns)
    return b"R" + struct.pack(">I", oid) + b"public\0" + name + b"\0f" + struct.pack(">H", len(columns)) + body


def test_changes_are_read_with_their_place_in_the_commit() -> None:
    reader = PayloadReader()
    payloads = [
        b"B" + struct.pack(">QqI", 500, 1_000_000, 7),
        relation(1, b"notifications", b"id", b"message", b"user_id"),
        relation(2, b"users", b"id"),
        b"I" + struct.pack(">I", 2) + b"N" + row("1"),
        b"I" + struct.pack(">I", 1) + b"N" + row("10", "hi", "3"),
        b"M\1" + struct.pack(">Q", 1) + b"x\0" + struct.pack(">I", 0),
        b"M\0" + struct.pack(">Q", 1) + b"x\0" + struct.pack(">I", 0),
        b"U" + struct.pack(">I", 1) + b"O" + row("10", "hi", "3") + b"N" + row("11", None, "4"),
        b"U" + struct.pack(">I", 1) + b"N" + row("11", "x", "4"),
        b"D" + struct.pack(">I", 1) + b"K" + row("11", None, None),
    ]
    moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
    assert [decoded for payload in payloads for decoded in reader.read(payload)] == [
        WalChange(500, 1, moment, "insert", 10, 3, None),
        WalChange(500, 3, moment, "update", 11, 4, 3),
        WalChange(500, 4, moment, "update", 11, 4, None),
        WalChange(500, 5, moment, "delete", 11, None, None),
    ]


@pytest.mark.parametrize("payload", [b"B", b"I\0\0\0\x09N", b"R\0\0\0\1public"])
def test_what_is_no_payload_is_an_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"Not a valid pgoutput payload|not enough values"):
        list(PayloadReader().read(payload))
