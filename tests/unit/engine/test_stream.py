"""Pending messages when the stream is interrupted: none is lost, none is counted twice, and none waits for a change that cannot come."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.wal import TYPES, delete, insert, update
from userhooks.engine.capture.confirmable_lsn import Progress
from userhooks.engine.capture.transactions import CatalogStale, Stream
from userhooks.engine.postgres.pgoutput import DecodeError
from userhooks.engine.resources import Column, Source, Table
from userhooks.engine.routing import Route, Router

TABLE = Table("public", "notes", (Column("id", 23, -1),), ("id",), "d")
RELATION = b"R" + struct.pack(">I", 7) + b"public\0notes\0d" + struct.pack(">H", 1) + b"\1id\0" + struct.pack(">Ii", 23, -1)


class Taker:
    """A delivery that collects the messages of one sink."""

    queue = SimpleNamespace(number=1, group_of=lambda _: None)

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.messages: list[object] = []

    def owe(self, message: object) -> None:
        self.messages.append(message)
        self.taken.append(message.change.commit_lsn)  # type: ignore[attr-defined]

    def deliver_all(self) -> None:
        for message in self.messages:
            message.source.acknowledge(message.change.commit_idx, self.queue.number)  # type: ignore[attr-defined]
        self.messages.clear()


def begin(lsn: int) -> bytes:
    return b"B" + struct.pack(">QqI", lsn, 0, lsn)


def commit(lsn: int) -> bytes:
    return b"C\0" + struct.pack(">QQq", lsn, lsn + 10, 0)


def a_stream(start: int) -> tuple[Stream, Taker]:
    taker, router = Taker(), Router()
    router.add(Route("s", taker, Source(), ("insert",), 0, None, None))
    return Stream(Progress(start), router, {("public", "notes"): TABLE}, TYPES, {}, lambda _: None), taker


def feed(stream: Stream, *payloads: bytes) -> None:
    for payload in payloads:
        stream.take(payload)


def test_a_transaction_whose_rest_is_lost_with_the_slot_stays_owed_as_far_as_it_was_read() -> None:
    stream, taker = a_stream(100)
    feed(stream, RELATION, begin(200), insert(7, [b"1"]), insert(7, [b"2"]))
    stream.start_over(500)
    assert stream.progress.confirmable() == 100
    feed(stream, begin(600), insert(7, [b"3"]), commit(600))
    assert taker.taken == [200, 200, 600]
    taker.deliver_all()
    assert stream.progress.confirmable() == 610


def test_a_stream_that_starts_over_between_transactions_goes_on_from_there() -> None:
    stream, taker = a_stream(100)
    feed(stream, RELATION, begin(200), insert(7, [b"1"]), commit(200))
    stream.start_over(500)
    assert stream.progress.read == 500
    assert stream.progress.confirmable() == 100
    taker.deliver_all()
    assert stream.progress.confirmable() == 500


def test_a_transaction_read_once_more_after_the_connection_was_lost_is_owed_once() -> None:
    stream, taker = a_stream(100)
    feed(stream, RELATION, begin(200), insert(7, [b"1"]))
    feed(stream, RELATION, begin(200), insert(7, [b"1"]), insert(7, [b"2"]), commit(200))
    assert taker.taken == [200, 200]
    taker.deliver_all()
    assert stream.progress.confirmable() == 210


def message(prefix: bytes, content: bytes) -> bytes:
    return b"M\1" + struct.pack(">Q", 9) + prefix + b"\0" + struct.pack(">I", len(content)) + content


@pytest.mark.parametrize("depth", [1, 300, 1000])
def test_annotations_of_any_depth_go_with_the_changes_as_they_were_written(depth: int) -> None:
    stream, taker = a_stream(100)
    annotations = b"[" * depth + b"12345678901234567890123" + b"]" * depth
    feed(stream, RELATION, begin(200), message(b"sequin:transaction_annotations.set", annotations), insert(7, [b"1"]), commit(200))
    assert [m.change.annotations for m in taker.messages] == [annotations]  # type: ignore[attr-defined]


def test_annotations_may_hold_a_number_that_no_double_holds() -> None:
    stream, taker = a_stream(100)
    annotations = b'{"big": 1e400, "small": 1}'
    feed(stream, RELATION, begin(200), message(b"sequin:transaction_annotations.set", annotations), insert(7, [b"1"]), commit(200))
    assert [m.change.annotations for m in taker.messages] == [annotations]  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [b"\xff", b"[", b"[" * 5000 + b"]" * 5000, b"[NaN]", b"[1e400, NaN]", b"[1e400"])
def test_messages_that_anybody_may_write_never_stop_the_stream(content: bytes) -> None:
    stream, taker = a_stream(100)
    unreadable = [message(prefix, content) for prefix in (b"sequin:transaction_annotations.set", b"userhooks.backfill", b"other")]
    feed(stream, RELATION, begin(200), *unreadable, insert(7, [b"1"]), commit(200))
    assert [m.change.annotations for m in taker.messages] == [None]  # type: ignore[attr-defined]


WHOLE = [
    RELATION,
    begin(200),
    message(b"sequin:transaction_annotations.set", b'{"a": 1}'),
    insert(7, [b"1"]),
    update(7, [b"2"], [b"1"]),
    delete(7, [b"2"]),
    message(b"userhooks.backfill", b"low"),
    message(b"sequin:transaction_annotations.clear", b""),
    b"T" + struct.pack(">IBI", 1, 0, 7),
    commit(200),
]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_and_disordered_messages_raise_the_decoders_error_or_are_taken(data: st.DataObject) -> None:
    stream, _ = a_stream(100)
    for _ in range(data.draw(st.integers(1, 12))):
        payload = bytearray(data.draw(st.sampled_from(WHOLE)))
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, len(payload) - 1))
            payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
            payload = payload or bytearray(b"B")
        try:
            stream.take(bytes(payload))
        except (DecodeError, CatalogStale):
            continue
