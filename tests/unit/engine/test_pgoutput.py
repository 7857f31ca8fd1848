"""Decoding pgoutput: real WAL, the documented format, and malformed bytes."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from tests.unit.engine import wal
from userhooks.engine.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    DecodeError,
    Delete,
    Event,
    Insert,
    LogicalMessage,
    Relation,
    RelationColumn,
    ReplicationOrigin,
    RowChange,
    Truncate,
    Type,
    Update,
    decode,
)

values = st.one_of(st.none(), st.just(UNCHANGED), st.binary(max_size=40))
rows = st.lists(values, max_size=6)
oids = st.integers(0, 2**32 - 1)

TABLE = "CREATE TABLE notes (id int PRIMARY KEY, owner text, body text)"


def look_at_everything(event: Event) -> None:
    """Decode everything that is decoded only on demand."""
    if isinstance(event, RowChange):
        _ = event.new, event.old
        event.value(0)


@pytest.fixture
def messages(database_url: str) -> list[bytes]:
    """Return messages from real WAL, of every kind except Origin."""
    with wal.connect(database_url) as connection:
        return wal.real_wal(
            connection,
            "INSERT INTO notes VALUES (1, 'ada', 'héllo'), (2, NULL, repeat('x', 9))",
            "UPDATE notes SET owner = 'bob' WHERE id = 1",
            "UPDATE notes SET id = 3 WHERE id = 1",
            "DELETE FROM notes WHERE id = 3",
            "ALTER TABLE notes REPLICA IDENTITY FULL",
            "UPDATE notes SET owner = 'eve' WHERE id = 2",
            "DELETE FROM notes WHERE id = 2",
            "INSERT INTO moods VALUES ('fine')",
            "SELECT pg_logical_emit_message(true, 'pre:fix', 'content')",
            "TRUNCATE notes, moods",
            setup=[TABLE, "CREATE TYPE mood AS ENUM ('fine')", "CREATE TABLE moods (mood mood)"],
        )


def test_real_wal_is_decoded(messages: list[bytes]) -> None:
    events = [decode(message) for message in messages]
    told = [e for e in events if not isinstance(e, (Begin, Commit, Relation, Type))]
    assert [(type(e), e.new, e.old) for e in told if isinstance(e, RowChange)] == [
        (Insert, [b"1", b"ada", "héllo".encode()], None),
        (Insert, [b"2", None, b"xxxxxxxxx"], None),
        (Update, [b"1", b"bob", "héllo".encode()], None),
        (Update, [b"3", b"bob", "héllo".encode()], [b"1", None, None]),
        (Delete, None, [b"3", None, None]),
        (Update, [b"2", b"eve", b"xxxxxxxxx"], [b"2", None, b"xxxxxxxxx"]),
        (Delete, None, [b"2", b"eve", b"xxxxxxxxx"]),
        (Insert, [b"fine"], None),
    ]
    assert [e.old_is_whole for e in told if isinstance(e, (Update, Delete))] == [False, False, False, True, True]
    (emitted,) = [e for e in told if isinstance(e, LogicalMessage)]
    assert (emitted.transactional, emitted.prefix, emitted.content) == (True, "pre:fix", b"content")
    (truncate,) = [e for e in told if isinstance(e, Truncate)]
    assert len(truncate.relation_oids) == 2


def test_transactions_of_real_wal_have_positions_and_times(messages: list[bytes]) -> None:
    events = [decode(message) for message in messages]
    begins = [e for e in events if isinstance(e, Begin)]
    commits = [e for e in events if isinstance(e, Commit)]
    assert [b.final_lsn for b in begins] == [c.commit_lsn for c in commits]
    assert all(c.commit_lsn < c.end_lsn for c in commits)
    assert [b.commit_time_us for b in begins] == [c.commit_time_us for c in commits] == sorted(b.commit_time_us for b in begins)
    assert begins[0].commit_time_us > 1_700_000_000_000_000
    assert len({b.xid for b in begins}) == len(begins)


def test_relations_of_real_wal_say_names_types_and_identity(messages: list[bytes]) -> None:
    relations = [r for r in map(decode, messages) if isinstance(r, Relation)]
    notes = [r for r in relations if r.name == "notes"]
    assert list(dict.fromkeys(r.replica_identity for r in notes)) == ["d", "f"]  # Postgres may repeat a Relation message
    assert notes[0].schema == "public"
    assert notes[0].columns == (
        RelationColumn("id", 23, -1, True),
        RelationColumn("owner", 25, -1, False),
        RelationColumn("body", 25, -1, False),
    )
    assert all(c.is_key for c in notes[-1].columns)
    (mood,) = {t for t in map(decode, messages) if isinstance(t, Type)}
    assert (mood.schema, mood.name) == ("public", "mood")
    assert mood.oid == next(r for r in relations if r.name == "moods").columns[0].type_oid


def test_a_large_value_that_an_update_leaves_alone_is_unchanged_or_comes_from_the_old_row(database_url: str) -> None:
    long = "".join(random.Random(1).choices("abcdefghij", k=20_000))
    statement = sql.SQL("INSERT INTO notes VALUES (1, 'ada', {})").format(long).as_string()
    with wal.connect(database_url) as connection:
        messages = wal.real_wal(
            connection,
            "UPDATE notes SET owner = 'bob'",
            "ALTER TABLE notes REPLICA IDENTITY FULL",
            "UPDATE notes SET owner = 'eve'",
            setup=[TABLE, statement],
        )
    key_only, full = (e for e in map(decode, messages) if isinstance(e, Update))
    assert key_only.new == [b"1", b"bob", UNCHANGED]
    assert key_only.value(2) is UNCHANGED
    assert full.new == [b"1", b"eve", long.encode()]
    assert full.value(2) == long.encode()


def test_mutated_real_wal_is_decoded_or_refused_and_nothing_else(messages: list[bytes]) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    refused = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(messages))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data) + 1)
            match rng.randrange(4):
                case 0 if place < len(data):
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place:]
                case 2:
                    data[place:place] = rng.randbytes(rng.randint(1, 4))
                case 3:
                    del data[place : place + rng.randint(1, 4)]
        try:
            look_at_everything(decode(bytes(data)))
        except DecodeError:
            refused += 1
    assert refused > 1000


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        look_at_everything(decode(data))


@given(oids, rows)
def test_an_insert_round_trips(oid: int, new: list[bytes | None]) -> None:
    event = decode(wal.insert(oid, new))
    assert isinstance(event, Insert)
    assert (event.relation_oid, event.new, event.old, event.action) == (oid, new, None, "insert")
    assert [event.value(i) for i in range(len(new))] == new


@given(oids, rows, st.none() | rows, st.booleans())
def test_an_update_round_trips(oid: int, new: list[bytes | None], old: list[bytes | None] | None, whole: bool) -> None:
    event = decode(wal.update(oid, new, old, whole=whole))
    assert isinstance(event, Update)
    assert (event.relation_oid, event.old, event.action) == (oid, old, "update")
    assert [event.value(i) for i in range(len(new))] == event.new
    for was, given_, is_ in zip(old if old is not None and len(old) == len(new) else [None] * len(new), new, event.new, strict=True):
        assert is_ == (was if given_ is UNCHANGED and (was is not None or (old is not None and len(old) == len(new) and whole)) else given_)


@given(oids, rows, st.booleans())
def test_a_delete_round_trips(oid: int, old: list[bytes | None], whole: bool) -> None:
    event = decode(wal.delete(oid, old, whole=whole))
    assert isinstance(event, Delete)
    assert (event.relation_oid, event.new, event.old, event.old_is_whole) == (oid, None, old, whole)
    assert [event.value(i) for i in range(len(old))] == old


def test_a_column_that_the_row_does_not_have_is_refused() -> None:
    event = decode(wal.insert(1, [b"1"]))
    assert isinstance(event, Insert)
    with pytest.raises(DecodeError, match="without column 1"):
        event.value(1)


def test_the_other_messages_are_decoded_from_the_documented_bytes() -> None:
    time = 5_000_000
    assert decode(b"B" + struct.pack(">QqI", 7, time, 9)) == Begin(7, wal.POSTGRES_EPOCH_US + time, 9)
    assert decode(b"C" + struct.pack(">BQQq", 0, 7, 8, time)) == Commit(7, 8, wal.POSTGRES_EPOCH_US + time)
    assert decode(b"O" + struct.pack(">Q", 7) + b"there\0") == ReplicationOrigin(7, "there")
    assert decode(b"Y" + struct.pack(">I", 7) + b"\0inet2\0") == Type(7, "pg_catalog", "inet2")
    assert decode(b"T" + struct.pack(">IBII", 2, 1, 5, 6)) == Truncate((5, 6), 1)
    assert decode(b"M" + struct.pack(">BQ", 0, 7) + b"p\0" + struct.pack(">I", 2) + b"\0x") == LogicalMessage(False, 7, "p", b"\0x")
    relation = b"R" + struct.pack(">I", 7) + b"s\0t\0f" + struct.pack(">H", 1) + b"\1c\0" + struct.pack(">Ii", 23, -1)
    assert decode(relation) == Relation(7, "s", "t", "f", (RelationColumn("c", 23, -1, True),))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "malformed message"),
        (b"?", "unknown kind b'?'"),
        (b"B", "malformed message of kind b'B'"),
        (b"I\0\0\0\1K\0\0", "an insert without its row"),
        (b"U\0\0\0\1X", "an update without its new row"),
        (b"D\0\0\0\1N\0\0", "a delete without its old row"),
        (b"T\0\0\0\2\0", "does not match its table count"),
        (b"Y\0\0\0\1name", "without its terminating zero"),
        (b"O\0\0\0\0\0\0\0\7\xff\0", "malformed message"),
    ],
)
def test_malformed_messages_say_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        decode(data)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"\0\1", "cut off"),
        (b"\0", "cut off"),
        (b"\0\1x", "unknown kind 120"),
        (b"\0\1t\0\0\0\5ab", "cut off"),
        (b"\0\1nn", "more columns than its count"),
    ],
)
def test_malformed_rows_say_what_is_wrong_when_they_are_looked_at(row: bytes, says: str) -> None:
    event = decode(b"I\0\0\0\1N" + row)
    assert isinstance(event, Insert)
    with pytest.raises(DecodeError, match=says):
        _ = event.new
