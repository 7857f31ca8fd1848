"""The LSN that may be confirmed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from userhooks.engine.capture.confirmable_lsn import Progress, Transaction


def test_nothing_is_confirmed_while_the_first_transaction_owes() -> None:
    progress = Progress(100)
    first = progress.begin(110, xid=1)
    first.owed += 1
    progress.commit(120)
    progress.begin(130, xid=2)
    progress.commit(140)
    assert progress.confirmable() == 100
    first.acknowledge(0, 7)
    assert progress.confirmable() == 140


def test_a_transaction_that_owes_nothing_is_confirmed_at_its_end() -> None:
    progress = Progress(0)
    progress.begin(10, xid=1)
    assert progress.confirmable() == 0
    progress.commit(20)
    assert progress.confirmable() == 20


def test_a_keepalive_moves_the_position_only_between_transactions() -> None:
    progress = Progress(0)
    progress.keepalive(50)
    assert progress.confirmable() == 50
    progress.begin(60, xid=1)
    progress.keepalive(70)
    assert progress.confirmable() == 50


def test_a_keepalive_does_not_pass_what_is_owed() -> None:
    progress = Progress(0)
    progress.begin(10, xid=1).owed += 1
    progress.commit(20)
    progress.keepalive(500)
    assert progress.confirmable() == 0


def test_acknowledgements_above_the_position_are_listed_with_the_open_transaction() -> None:
    progress = Progress(0)
    stuck = progress.begin(10, xid=1)
    stuck.owed += 2
    progress.commit(20)
    stuck.acknowledge(0, 5)
    open_one = progress.begin(30, xid=2)
    open_one.owed += 1
    open_one.acknowledge(0, 5)
    assert [(t.commit_lsn, t.acknowledged) for t in progress.unsettled()] == [(10, [(0, 5)]), (30, [(0, 5)])]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_position_is_the_end_of_the_longest_settled_prefix(owed: list[int], shuffle: object) -> None:
    progress = Progress(0)
    transactions = []
    for n, count in enumerate(owed):
        transaction = progress.begin(10 * n + 5, xid=n)
        transaction.owed += count
        progress.commit(10 * n + 10)
        transactions.append(transaction)
    todo = [t for t, count in zip(transactions, owed, strict=True) for _ in range(count)]
    shuffle.shuffle(todo)  # type: ignore[attr-defined]
    last = 0
    for transaction in [None, *todo]:
        if transaction is not None:
            transaction.acknowledge(0, 1)
        settled = next((10 * n for n, one in enumerate(transactions) if one.owed), 10 * len(owed))
        assert progress.confirmable() == settled >= last
        last = settled
    assert last == 10 * len(owed)


@given(st.data())
def test_the_position_never_passes_what_is_owed_whatever_comes_between(data: st.DataObject) -> None:
    progress = Progress(0)
    read: list[tuple[int, Transaction]] = []
    end, open_one, last = 0, None, 0
    for step in data.draw(st.lists(st.sampled_from(["begin", "owe", "commit", "settle", "forgive", "keepalive"]), max_size=60)):
        owing = [t for _, t in read if t.owed] + ([open_one] if open_one is not None and open_one.owed else [])
        if step == "begin" and open_one is None:
            open_one = progress.begin(end + 5, xid=end)
        elif step == "owe" and open_one is not None:
            open_one.owed += 1
        elif step == "commit" and open_one is not None:
            read.append((end, open_one))
            end += 10
            progress.commit(end)
            open_one = None
        elif step == "keepalive":
            progress.keepalive(end + 1)
            end += open_one is None
        elif step in ("settle", "forgive") and owing:
            chosen = data.draw(st.sampled_from(owing))
            chosen.acknowledge(0, 1) if step == "settle" else chosen.release()
        position = progress.confirmable()
        assert last <= position <= progress.read == end
        assert position == next((before for before, one in read if one.owed), end)
        assert {id(one) for one in progress.unsettled()} >= {id(one) for _, one in read if one.owed}
        last = position
