"""The decoder with damaged messages: it either decodes them or raises DecodeError."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from userhooks.engine.postgres.pgoutput import DecodeError, RowChange, decode, encode_insert


def text(value: bytes) -> bytes:
    return b"t" + struct.pack(">I", len(value)) + value


ROW = struct.pack(">H", 3) + text(b"1") + b"n" + text("grüße".encode())
OID = struct.pack(">I", 16385)
WHOLE = [
    b"B" + struct.pack(">QqI", 1 << 33, 812_345_678, 731),
    b"C\0" + struct.pack(">QQq", 1 << 33, (1 << 33) + 48, 812_345_678),
    b"O" + struct.pack(">Q", 7) + b"elsewhere\0",
    b"R" + OID + b"public\0notifications\0f" + struct.pack(">H", 1) + b"\1id\0" + struct.pack(">Ii", 20, -1),
    b"Y" + OID + b"public\0mood\0",
    b"I" + OID + b"N" + ROW,
    b"U" + OID + b"O" + ROW + b"N" + ROW,
    b"U" + OID + b"K" + ROW + b"N" + ROW.replace(b"n", b"u"),
    b"U" + OID + b"N" + ROW,
    b"D" + OID + b"O" + ROW,
    b"T" + struct.pack(">IB", 1, 0) + OID,
    b"M\1" + struct.pack(">Q", 9) + b"userhooks.backfill\0" + struct.pack(">I", 3) + b"abc",
]
"""One message of each kind (Postgres documentation, 55.9)."""


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a message with bytes changed, removed, duplicated, or replaced by parts of another message."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "insert", "splice", "length"])):
            case "flip" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=6))
            case "splice":
                data[at:] = draw(st.sampled_from(WHOLE))[at:]
            case _:
                data[at : at + 4] = struct.pack(">I", draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])))
    return bytes(data)


def look(event: RowChange) -> None:
    """Decode all parts of a change."""
    for question in (
        lambda: event.new,
        lambda: event.old,
        lambda: event.old_is_whole,
        *(lambda i=i: event.value(i) for i in (0, 1, 2, 3, 500)),
    ):
        try:
            question()
        except DecodeError:
            continue


@settings(max_examples=4000, deadline=None, derandomize=True)
@given(damaged())
def test_damaged_messages_decode_or_raise_the_decoders_own_error(data: bytes) -> None:
    try:
        event = decode(data)
    except DecodeError:
        return
    if isinstance(event, RowChange):
        look(event)


@given(st.lists(st.none() | st.binary(max_size=40), max_size=20))
def test_an_encoded_row_is_the_row_that_is_decoded(row: list[bytes | None]) -> None:
    event = decode(encode_insert(row))
    assert isinstance(event, RowChange)
    assert event.new == row
