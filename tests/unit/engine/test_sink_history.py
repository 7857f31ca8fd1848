"""A sink's history: what it keeps of attempts, how much of it, and the bars of its rates."""

from __future__ import annotations

from typing import Any

import pytest

from userhooks.engine.change import Change
from userhooks.engine.delivery.pending_message import NO_SOURCE, PendingMessage
from userhooks.engine.delivery.sink_history import (
    BAR_SECONDS,
    BARS,
    KEPT,
    KEPT_BRIEFLY,
    KEPT_BYTES,
    LONG_HISTORIES,
    OPENED,
    Histories,
    SinkHistory,
)
from userhooks.engine.message_format import SinkForm, render
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.pgoutput import RowChange, decode, encode_insert
from userhooks.engine.resources import Column, Table
from userhooks.engine.table_shape import TableShape

FORM = SinkForm(
    {"id": "i", "name": "s", "annotations": {}}, dict.fromkeys(("id", "name", "hostname", "database", "annotations")), "iso8601"
)
TABLE = Table("public", "orders", (Column("id", 23, -1), Column("note", 25, -1)), ("id",), "f")
SHAPE = TableShape.of_table(TABLE, TypeCatalog([]))


def message(id_: int, note: str = "x", attempts: int = 0) -> PendingMessage:
    event = decode(encode_insert([str(id_).encode(), note.encode()]))
    assert isinstance(event, RowChange)
    return PendingMessage(Change(SHAPE, event, 1_000 + id_, 3, 1_700_000_000_000_000, None), NO_SOURCE, None, attempts=attempts)


def keys(history: SinkHistory) -> list[str]:
    return [attempt.outline.key for attempt in history.attempts()]


def test_an_attempt_keeps_what_was_sent_and_what_came_of_it() -> None:
    history = SinkHistory(KEPT)
    sent = message(7, "hello", attempts=2)
    history.failed([sent], 10.0, 0.25, 503)
    [attempt] = history.attempts()
    assert (attempt.at, attempt.took, attempt.answer, attempt.together, attempt.attempts) == (10.0, 0.25, 503, 1, 3)
    assert (attempt.outline.table, attempt.outline.key, attempt.outline.action) == ("public.orders", "7", "insert")
    assert not attempt.is_delivered
    assert attempt.change is not None
    assert render(attempt.change, FORM) == render(sent.change, FORM)


def test_a_row_of_a_backfill_is_kept_as_well() -> None:
    history = SinkHistory(KEPT)
    read = Change.read(SHAPE, [b"4", b"x"], "backfill-1", 5)
    history.delivered([PendingMessage(read, NO_SOURCE, None)], 1.0, 0.1, 200)
    [attempt] = history.attempts()
    assert (attempt.outline.action, attempt.outline.key) == ("read", "4")
    assert attempt.is_delivered
    assert attempt.change is read


def test_the_newest_come_first_and_failures_are_not_pushed_out_by_deliveries() -> None:
    history = SinkHistory(KEPT)
    history.failed([message(0)], 0.0, 0.1, "the connection was refused")
    for n in range(1, 101):
        history.delivered([message(n)], float(n), 0.1, 200)
    assert keys(history) == [*(str(n) for n in range(100, 50, -1)), "0"]


def test_of_a_large_batch_only_as_many_as_fit_are_kept() -> None:
    history = SinkHistory(KEPT)
    history.delivered([message(n) for n in range(200)], 1.0, 0.1, 200)
    assert set(keys(history)) == {str(n) for n in range(150, 200)}
    assert {attempt.together for attempt in history.attempts()} == {200}


def test_a_large_change_is_kept_as_an_outline() -> None:
    history = SinkHistory(KEPT)
    history.delivered([message(1, "x" * KEPT_BYTES)], 1.0, 0.1, 200)
    [attempt] = history.attempts()
    assert attempt.change is None
    assert (attempt.outline.key, attempt.outline.size > KEPT_BYTES) == ("1", True)


@pytest.mark.parametrize("size", [10, 2 * KEPT_BYTES])
def test_a_malformed_row_is_recorded_without_its_key(size: int) -> None:
    history = SinkHistory(KEPT)
    event = decode(encode_insert([b"x" * size]))
    assert isinstance(event, RowChange)
    history.failed([PendingMessage(Change(SHAPE, event, 1, 2, 3, None), NO_SOURCE, None)], 1.0, 0.0, "[message]: a row of 1 columns")
    [attempt] = history.attempts()
    assert (attempt.outline.table, attempt.outline.key) == ("public.orders", "")


def test_bars_count_what_was_added_since_the_last_sample() -> None:
    history = SinkHistory(KEPT)
    history.start(1_000, 10)
    assert not history.sample(0.0, 1_000, 10)
    assert history.sample(BAR_SECONDS, 1_007, 10)
    assert history.sample(2 * BAR_SECONDS, 1_010, 12)
    assert history.bars(2 * BAR_SECONDS, 1_010, 12)[-2:] == [(7, 0), (3, 2)]
    assert history.bars(2 * BAR_SECONDS, 1_011, 12)[-2:] == [(7, 0), (4, 2)]
    assert history.bars(3 * BAR_SECONDS, 1_011, 12)[-3:] == [(7, 0), (3, 2), (1, 0)]
    assert len(history.bars(2 * BAR_SECONDS, 1_010, 12)) == BARS


@pytest.mark.parametrize("idle", [BARS - 1, BARS, 10 * BARS])
def test_bars_leave_the_chart_after_its_minutes(idle: int) -> None:
    history = SinkHistory(KEPT)
    history.sample(0.0, 5, 0)
    later = idle * BAR_SECONDS
    assert any(map(any, history.bars(later, 5, 0))) == history.is_active(later, 5, 0) == (idle < BARS)
    assert history.is_active(later, 6, 0)
    history.sample(later, 6, 0)
    assert sum(delivered for delivered, _ in history.bars(later, 6, 0)) == (6 if idle < BARS else 1)


def test_beyond_the_first_sinks_histories_are_short_until_somebody_looks() -> None:
    histories = Histories()
    several: list[Any] = [histories.of(str(n)) for n in range(LONG_HISTORIES + OPENED + 2)]
    for history in several:
        for n in range(2 * KEPT):
            history.delivered([message(n)], float(n), 0.1, 200)
    assert len(keys(several[0])) == KEPT
    assert len(keys(several[-1])) == KEPT_BRIEFLY
    for n in range(LONG_HISTORIES, LONG_HISTORIES + OPENED + 1):
        histories.opened(str(n))
        for m in range(KEPT):
            several[n].delivered([message(m)], 100.0 + m, 0.1, 200)
    assert len(keys(several[LONG_HISTORIES])) == KEPT_BRIEFLY
    assert len(keys(several[LONG_HISTORIES + 1])) == KEPT
    histories.forget("0")
    assert histories.of("0") is not several[0]
