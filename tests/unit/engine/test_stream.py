"""What is owed when the stream breaks off: nothing read is forgotten, nothing is counted twice, and nothing waits for what cannot come."""

from __future__ import annotations

import struct

from tests.unit.engine.wal import TYPES, insert
from userhooks.engine.progress import Progress
from userhooks.engine.resources import Column, Sink, Source, Table
from userhooks.engine.routing import Route, Router
from userhooks.engine.stream import Stream

TABLE = Table("public", "notes", (Column("id", 23, -1),), ("id",), "f")
RELATION = b"R" + struct.pack(">I", 7) + b"public\0notes\0f" + struct.pack(">H", 1) + b"\1id\0" + struct.pack(">Ii", 23, -1)


class Taker:
    """Takes the messages of one sink and keeps them."""

    number = 1
    sink = Sink("s", "s", "e")

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.messages: list[object] = []

    def owe(self, message: object) -> None:
        self.messages.append(message)
        self.taken.append(message.change.commit_lsn)  # type: ignore[attr-defined]

    def deliver_all(self) -> None:
        for message in self.messages:
            message.owed.settle(message.change.commit_idx, self.number)  # type: ignore[attr-defined]
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
