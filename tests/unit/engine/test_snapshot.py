"""Which transactions a Postgres snapshot sees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from userhooks.engine.postgres.snapshot import Snapshot


def test_it_sees_what_is_below_its_span_and_what_is_finished_within() -> None:
    snapshot = Snapshot.parse("10:20:12,15")
    assert [xid for xid in range(5, 25) if not snapshot.sees(xid)] == [12, 15, 20, 21, 22, 23, 24]


@given(xmax=st.integers(1 << 32, 1 << 40), back=st.integers(-1000, 1000))
def test_ids_of_32_bits_are_read_in_the_epoch_of_the_snapshot(xmax: int, back: int) -> None:
    snapshot = Snapshot(xmax, xmax, frozenset())
    assert snapshot.sees((xmax - back) & 0xFFFFFFFF) == (back > 0)
