"""The ledger agrees with an independent count, and reports every kind of problem."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.inspector.messages import Message
from userhooks.ledger import BackfillRead, Ledger, OwedSubscription, Receipt, Row
from userhooks.ledger.rows import reconcile

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
ADA, BEN, CY = 1, 2, 3


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def sink(user: int, number: int = 1) -> str:
    return f"sink-{user}-{number}"


def owed(user: int, number: int = 1, since: float = 0) -> OwedSubscription:
    return OwedSubscription(user, sink(user, number), f"user-{user}-notifications", at(since))


def message(action: str, row: int, user: Any, sink_id: str, *, lsn: int | None = None, key: str | None = None, **fields: Any) -> Message:
    lsn = row * 10 if lsn is None and action != "read" else lsn
    metadata = {
        "consumer": {"id": sink_id, "name": sink_id.replace("sink", "user"), "annotations": {}},
        "table_schema": "public",
        "table_name": "notifications",
        "commit_lsn": lsn,
        "commit_idx": None if lsn is None else 0,
        "commit_timestamp": at(row).isoformat(),
        "idempotency_key": key or f"{lsn}:0",
    }
    return Message(action, {"id": row, "user_id": user, "message": "x"}, fields.get("changes"), metadata)


def receipt(message: Message, owner: int, *, after: float = 0.003, seq: int = 0, accepted: bool = True) -> Receipt:
    return Receipt(owner, seq, message.commit_timestamp + timedelta(seconds=after), accepted, message)


def inserted(row: int, user: int, **fields: Any) -> Receipt:
    return receipt(message("insert", row, user, sink(user)), user, **fields)


def read(row: int, user: int, backfill: str = "b1") -> Receipt:
    key = base64.b64encode(f"{backfill}:{row}".encode()).decode()
    return receipt(message("read", row, user, sink(user), key=key), user)


ROWS = [Row(number, 1 + number % 3, at(number)) for number in range(1, 501)]
ALL = [inserted(row.id, row.user_id) for row in ROWS]
ADAS = [arrival for arrival in ALL if arrival.owner == ADA]


def verdict(received: Sequence[Receipt], rows: Sequence[Row] = ROWS, subscriptions: Sequence[OwedSubscription] = (owed(ADA),)) -> str:
    ledger = reconcile(rows, received, subscriptions)
    parts = ledger.verdict().split(", ")
    good = " ".join(parts[3:6]) == "0 lost 0 duplicated 0 foreign" and parts[6] == "order kept" and "unknown" not in ledger.verdict()
    assert ledger.ok is good
    assert bool(ledger.problems()) is not good
    return ledger.verdict()


# --- the verdict -----------------------------------------------------------------------------------------------------------


def test_all_that_one_of_three_users_is_owed_arrives() -> None:
    assert verdict(ADAS) == "500 committed, 166 expected, 166 received, 0 lost, 0 duplicated, 0 foreign, order kept, p99 3 ms"


def test_two_sinks_of_one_user_are_owed_the_same_rows() -> None:
    twice = ADAS + [receipt(message("insert", r.message.record["id"], ADA, sink(ADA, 2)), ADA) for r in ADAS]
    assert verdict(twice, subscriptions=[owed(ADA), owed(ADA, 2)]).startswith(
        "500 committed, 332 expected, 332 received, 0 lost, 0 duplicated"
    )


def test_nobody_is_owed_anything_without_a_subscription() -> None:
    assert verdict([], subscriptions=[]) == "500 committed, 0 expected, 0 received, 0 lost, 0 duplicated, 0 foreign, order kept"


def test_a_lost_row_is_counted_and_named() -> None:
    ledger = reconcile(ROWS, ADAS[:10] + ADAS[11:], [owed(ADA)])
    assert verdict(ADAS[:10] + ADAS[11:]).startswith("500 committed, 166 expected, 165 received, 1 lost")
    missing = ADAS[10].message.record["id"]
    assert ledger.problems() == [f"lost: row {missing} of user 1 never reached user-1-notifications"]
    assert ledger.lost()["row"].to_list() == [missing]


def test_a_doubled_delivery_is_counted_and_named() -> None:
    ledger = reconcile(ROWS, [*ADAS, ADAS[5]], [owed(ADA)])
    assert "166 received, 0 lost, 1 duplicated, 0 foreign" in verdict([*ADAS, ADAS[5]])
    assert ledger.duplicated()[["inbox_user_id", "action", "row"]].to_numpy().tolist() == [[1, "insert", ADAS[5].message.record["id"]]]


def test_a_row_that_comes_under_a_second_key_is_duplicated_as_well() -> None:
    again = receipt(message("insert", ADAS[5].message.record["id"], ADA, sink(ADA), key="another"), ADA)
    assert "1 duplicated" in verdict([*ADAS, again])


def test_an_attempt_that_was_not_answered_2xx_is_no_duplicate_and_no_receipt() -> None:
    failed = [arrival._replace(accepted=False) for arrival in ADAS]
    assert "166 received, 0 lost, 0 duplicated" in verdict([*failed, *ADAS])
    assert verdict(failed).startswith("500 committed, 166 expected, 0 received, 166 lost")


def test_a_silent_receiver_loses_everything_and_has_no_latency() -> None:
    assert verdict([]) == "500 committed, 166 expected, 0 received, 166 lost, 0 duplicated, 0 foreign, order kept"
    assert len(reconcile(ROWS, [], [owed(ADA)]).problems()) == 11


@pytest.mark.parametrize(
    ("arrival", "why"),
    [
        (receipt(message("insert", 1, BEN, sink(ADA)), ADA), "another user's row"),
        (receipt(message("insert", 1, BEN, sink(BEN)), ADA), "another user's sink"),
        (receipt(message("insert", 1, ADA, sink(BEN)), ADA), "her own row through another user's sink"),
        (receipt(message("update", 2, ADA, sink(ADA), changes={"user_id": BEN}), ADA), "another user's value in changes"),
        (receipt(message("read", 1, BEN, sink(ADA)), ADA), "another user's history"),
        (receipt(message("insert", 1, BEN, sink(ADA)), ADA, accepted=False), "refused, and seen all the same"),
        (receipt(message("insert", 1, "1", sink(ADA)), ADA), "an id that is not an integer"),
        (receipt(message("insert", 1, True, sink(ADA)), ADA), "an id that only looks like one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_foreign_row_is_counted_and_named(arrival: Receipt, why: str) -> None:
    subscriptions = [owed(ADA), owed(BEN)]
    received = [r for r in ALL if r.owner != CY] + [arrival]
    assert "0 lost, 0 duplicated, 1 foreign, order kept" in verdict(received, subscriptions=subscriptions)
    ledger = reconcile(ROWS, received, subscriptions)
    assert ledger.problems()[0].startswith("foreign: ")
    assert "reached the inbox of user 1" in ledger.problems()[0]
    assert ledger.foreign()["inbox_user_id"].to_list() == [ADA]


def test_a_leak_that_is_tried_again_is_one_leak() -> None:
    foreign = receipt(message("insert", 1, BEN, sink(ADA)), ADA)
    assert "1 foreign" in verdict([foreign._replace(accepted=False), foreign._replace(accepted=False), foreign, *ADAS])


def test_changes_of_one_row_that_come_in_the_wrong_order_are_counted_and_named() -> None:
    first, second, third = (receipt(message("update", 3, ADA, sink(ADA), lsn=lsn), ADA) for lsn in (5001, 5002, 5003))
    assert "order kept" in verdict([*ADAS, first, second, third])
    assert "0 foreign, 2 out of order, p99" in verdict([*ADAS, third, first, second])
    ledger = reconcile(ROWS, [*ADAS, third, first, second], [owed(ADA)])
    assert ledger.problems() == ["out of order: update of row 3 of user 1 arrived after a later change of its row"] * 2


def test_different_rows_may_come_in_any_order() -> None:
    assert "order kept" in verdict(ADAS[::-1])


def test_the_order_within_one_transaction_counts_too() -> None:
    first, second = (receipt(message("update", 3, ADA, sink(ADA), lsn=5000, key=f"5000:{idx}"), ADA) for idx in (0, 1))
    first.message.metadata["commit_idx"], second.message.metadata["commit_idx"] = 0, 1  # type: ignore[index]
    assert "1 out of order" in verdict([*ADAS, second, first])


def test_a_message_of_a_row_that_was_never_committed_is_named() -> None:
    ghost = receipt(message("insert", 9_999, ADA, sink(ADA)), ADA)
    assert "order kept, 1 unknown, p99" in verdict([*ADAS, ghost])
    gone = receipt(message("delete", 9_999, ADA, sink(ADA), lsn=100_000), ADA)
    assert "unknown" not in verdict([*ADAS, ghost, gone]), "a row that was deleted since explains its insert"


def test_what_was_committed_before_the_subscription_is_owed_only_if_it_came() -> None:
    late = owed(ADA, since=250)
    expected = sum(1 for row in ROWS if row.user_id == ADA and row.id >= 250)
    assert verdict([], subscriptions=[late]).startswith(f"500 committed, {expected} expected, 0 received, {expected} lost")
    assert verdict(ADAS, subscriptions=[late]).startswith("500 committed, 166 expected, 166 received, 0 lost")


def test_p99_is_the_latency_that_99_of_100_did_not_exceed() -> None:
    rows = [Row(number, ADA, at(number)) for number in range(1, 201)]
    arrivals = [inserted(row.id, ADA, after=row.id / 1000) for row in rows]
    assert verdict(arrivals, rows).endswith("p99 198 ms")
    ledger = reconcile(rows, arrivals, [owed(ADA)])
    assert ledger.percentile(50) == pytest.approx(100)
    assert ledger.slowest(2)["row"].to_list() == [200, 199]


# --- backfills -------------------------------------------------------------------------------------------------------------

NEW = owed(ADA, since=10_000)


def backfilled(received: Sequence[Receipt], started: float = 10_000) -> Ledger:
    return reconcile(ROWS, received, [NEW], [BackfillRead(sink(ADA), "b1", at(started))])


HISTORY = [read(row.id, ADA) for row in ROWS if row.user_id == ADA]


def test_a_backfill_owes_every_row_that_was_there() -> None:
    ledger = backfilled(HISTORY)
    assert ledger.verdict() == (
        "500 committed, 0 expected, 0 received, 0 lost, 0 duplicated, 0 foreign, order kept; backfill: 166 expected, 166 received, 0 lost"
    )
    assert ledger.ok


def test_a_row_that_a_backfill_leaves_out_is_lost_and_named() -> None:
    ledger = backfilled(HISTORY[1:])
    assert ledger.verdict().endswith("backfill: 166 expected, 165 received, 1 lost")
    assert ledger.problems() == ["lost: the read of row 3 of user 1 never reached user-1-notifications"]
    assert not ledger.ok


def test_rows_committed_after_its_start_are_none_of_a_backfills_business() -> None:
    assert backfilled(HISTORY, started=100).verdict().endswith("backfill: 33 expected, 33 received, 0 lost")


def test_a_row_that_changed_meanwhile_and_came_live_need_not_be_read() -> None:
    changed = receipt(message("update", 3, ADA, sink(ADA), lsn=999_999), ADA)
    assert backfilled([*HISTORY[1:], changed._replace(received_at=at(10_001))]).ok
    assert not backfilled([*HISTORY[1:], changed._replace(received_at=at(9_999))]).ok


def test_reads_of_another_backfill_do_not_count() -> None:
    other = [read(row.id, ADA, "b0") for row in ROWS if row.user_id == ADA]
    assert backfilled(other).verdict().endswith("166 expected, 0 received, 166 lost")
    assert backfilled([*other, *HISTORY]).ok


def test_a_row_that_one_backfill_reads_twice_is_duplicated() -> None:
    assert "1 duplicated" in backfilled([*HISTORY, HISTORY[7]]).verdict()


# --- messages not yet arrived ----------------------------------------------------------------------------------------------


def test_what_was_committed_too_late_to_be_waited_for_has_not_yet_arrived_and_is_not_lost() -> None:
    early, late = ADAS[10].message.record["id"], ADAS[-1].message.record["id"]
    ledger = reconcile(ROWS, [*ADAS[:10], *ADAS[11:-1]], [owed(ADA)]).awaiting(after=at(early))
    assert ledger.verdict().startswith("500 committed, 166 expected, 164 received, 1 lost, 1 not yet arrived, 0 duplicated")
    assert ledger.problems() == [
        f"lost: row {early} of user 1 never reached user-1-notifications",
        f"not yet arrived: row {late} of user 1 has not reached user-1-notifications",
    ]
    assert ledger.lost()["row"].to_list() == [early]
    assert ledger.frame().query("state == 'not yet arrived'")["row"].to_list() == [late]
    assert not ledger.ok
    assert not ledger.complete


def test_reads_of_a_backfill_that_nobody_waited_for_have_not_yet_arrived() -> None:
    ledger = backfilled(HISTORY[1:]).awaiting(after=at(0))
    assert ledger.verdict().endswith("backfill: 166 expected, 165 received, 0 lost, 1 not yet arrived")


def test_a_changed_filter_function_is_named_even_when_nothing_foreign_came_yet() -> None:
    ledger = replace(reconcile(ROWS, ADAS, [owed(ADA)]), filter_problem="Somebody changed it. Put it back.")
    assert ledger.verdict().endswith("order kept, p99 3 ms; filter function changed")
    assert ledger.problems() == ["filter function changed: Somebody changed it. Put it back."]
    assert not ledger.ok


# --- receivers that are not inboxes ----------------------------------------------------------------------------------------


def test_what_is_owed_to_a_receiver_that_is_not_an_inbox_is_counted_and_not_called_received_or_lost() -> None:
    elsewhere = owed(BEN, since=300)._replace(is_seen=False)
    owed_there = sum(1 for row in ROWS if row.user_id == BEN and row.id >= 300)
    ledger = reconcile(ROWS, ADAS, [owed(ADA), elsewhere])
    assert ledger.verdict() == (
        "500 committed, 166 expected, 166 received, 0 lost, 0 duplicated, 0 foreign, order kept, p99 3 ms; "
        f"not checked: 1 subscription whose receiver is not an inbox, {owed_there} expected"
    )
    assert ledger.ok
    assert ledger.frame()["state"].value_counts()["not checked"] == owed_there
    assert (
        reconcile(ROWS, [], [elsewhere, elsewhere._replace(user_id=CY, since=at(501))])
        .verdict()
        .endswith(f"; not checked: 2 subscriptions whose receivers are not inboxes, {owed_there} expected")
    )


# --- the tables ------------------------------------------------------------------------------------------------------------


def test_the_frame_has_every_committed_row_with_typed_columns() -> None:
    frame = reconcile(ROWS, ADAS[1:], [owed(ADA)]).frame()
    assert frame["row"].nunique() == len(frame) == 500
    assert frame["state"].value_counts().to_dict() == {"not owed": 334, "received": 165, "lost": 1}
    assert [str(dtype) for dtype in frame.dtypes] == [
        "int64", "Int64", "str", "bool", "str", "datetime64[us, UTC]", "datetime64[us, UTC]", "float64", "str", "int64", "bool", "str",
    ]  # fmt: skip


def test_empty_tables_have_the_same_columns() -> None:
    ledger = reconcile([], [], [])
    for empty, full in (
        (ledger.frame(), reconcile(ROWS, ADAS, [owed(ADA)]).frame()),
        (ledger.foreign(), reconcile(ROWS, [receipt(message("insert", 1, BEN, sink(ADA)), ADA)], [owed(ADA)]).foreign()),
    ):
        assert empty.empty
        assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert repr(ledger) == f"Ledger({ledger.verdict()})"


# --- compared with an independent count ------------------------------------------------------------------------------------


@given(seed=st.integers())
def test_the_verdict_agrees_with_an_independent_count_under_random_faults(seed: int) -> None:
    rng = random.Random(seed)
    users = [ADA, BEN, CY]
    rows = [Row(number, rng.choice(users), at(number)) for number in range(1, rng.randint(2, 60))]
    subscriptions = [owed(user, number, rng.choice([0, 0, 20])) for user in users for number in range(rng.randint(0, 2))]
    received: list[Receipt] = []
    lost = duplicated = foreign = expected = 0
    for row in rows:
        for subscription in (subscription for subscription in subscriptions if subscription.user_id == row.user_id):
            arrival = receipt(message("insert", row.id, row.user_id, subscription.sink_id), row.user_id, seq=len(received))
            fate = rng.choice(["delivered"] * 6 + ["lost", "refused", "retried", "doubled", "trebled", "leaked"])
            arrived = fate not in ("lost", "refused")
            expected += arrived or row.committed_at >= subscription.since
            lost += not arrived and row.committed_at >= subscription.since
            duplicated += {"doubled": 1, "trebled": 2}.get(fate, 0)
            received += [arrival._replace(accepted=False)] * (fate in ("refused", "retried"))
            received += [arrival] * {"doubled": 2, "trebled": 3}.get(fate, 1 if arrived else 0)
            if fate == "leaked":
                foreign += 1
                received.append(arrival._replace(owner=rng.choice([user for user in users if user != row.user_id])))
    rng.shuffle(received)
    counted = (
        f"{len(rows)} committed, {expected} expected, {expected - lost} received, {lost} lost, {duplicated} duplicated, {foreign} foreign"
    )
    ledger = reconcile(rows, received, subscriptions)
    assert ledger.verdict().startswith(f"{counted}, order kept"), f"seed {seed}"
    assert ledger.ok is (lost == duplicated == foreign == 0), f"seed {seed}"


@given(seed=st.integers())
def test_out_of_order_counts_every_change_that_comes_after_a_later_one_of_its_row(seed: int) -> None:
    rng = random.Random(seed)
    rows = [Row(number, ADA, at(number)) for number in range(1, 6)]
    changes = [(rng.choice(rows).id, lsn) for lsn in range(1_000, 1_000 + rng.randint(1, 30))]
    rng.shuffle(changes)
    late = sum(1 for n, (row, lsn) in enumerate(changes) if any(r == row and before > lsn for r, before in changes[:n]))
    received = [inserted(row.id, ADA) for row in rows]
    received += [receipt(message("update", row, ADA, sink(ADA), lsn=lsn), ADA) for row, lsn in changes]
    order = f"{late} out of order" if late else "order kept"
    assert order in verdict(received, rows), f"seed {seed}"
