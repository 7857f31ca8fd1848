"""Which LSN may be confirmed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from userhooks.engine.progress import Progress


def test_nothing_is_confirmed_while_the_first_transaction_owes() -> None:
    progress = Progress(100)
    first = progress.begin(110, xid=1)
    first.owed += 1
    progress.commit(120)
    progress.begin(130, xid=2)
    progress.commit(140)
    assert progress.confirmable() == 100
    first.settle(0, 7)
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
    stuck.settle(0, 5)
    open_one = progress.begin(30, xid=2)
    open_one.owed += 1
    open_one.settle(0, 5)
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
            transaction.settle(0, 1)
        settled = next((10 * n for n, one in enumerate(transactions) if one.owed), 10 * len(owed))
        assert progress.confirmable() == settled >= last
        last = settled
    assert last == 10 * len(owed)
