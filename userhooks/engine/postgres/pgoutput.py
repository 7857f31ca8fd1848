"""What Postgres' output plugin `pgoutput` sends, decoded: bytes of one logical replication message in, one value out. Pure.

Protocol version 1 (Postgres documentation, 55.9 "Logical Replication Message Formats"). Values stay in Postgres' text form; what they mean
is in `pg_types.py`, the streaming protocol around the messages in `replication_stream.py`.

Rows are decoded when they are looked at: most changes are nobody's, and for these one column is all that routing asks for.

It is long because each kind of message is one class.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

_POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970; Postgres counts from there"""

_NULL, _TEXT, _UNCHANGED = b"ntu"
_KEY, _OLD, _NEW = b"KON"
_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_BEGIN = struct.Struct(">xQqI").unpack
_COMMIT = struct.Struct(">xBQQq").unpack
_KIND_AND_LENGTH = struct.Struct(">BI").unpack_from
_RELATION_COLUMN = struct.Struct(">Ii").unpack_from
_MESSAGE = struct.Struct(">xBQ").unpack_from


class DecodeError(Exception):
    """The bytes are not a pgoutput message of protocol version 1."""


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged_toast"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for a large value that an update did not touch: it is stored apart (TOAST), and the WAL does not repeat it."""

Value: TypeAlias = bytes | Literal[Unchanged.UNCHANGED] | None
Row: TypeAlias = list[Value]


class Begin(NamedTuple):
    """A transaction starts; `final_lsn` is the LSN of its commit, the time is microseconds since 1970."""

    final_lsn: int
    commit_time_us: int
    xid: int


class Commit(NamedTuple):
    """A transaction ends; `end_lsn` is the first position after it."""

    commit_lsn: int
    end_lsn: int
    commit_time_us: int


class ReplicationOrigin(NamedTuple):
    """The transaction was replicated from elsewhere."""

    commit_lsn: int
    name: str


class RelationColumn(NamedTuple):
    """One column of a table as the stream describes it; `is_key` when it belongs to the replica identity."""

    name: str
    type_oid: int
    type_mod: int
    is_key: bool


class Relation(NamedTuple):
    """What a table looks like from here on. `replica_identity` is pg_class.relreplident: `d`, `f`, `i` or `n`."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


class Type(NamedTuple):
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str


class Truncate(NamedTuple):
    """Tables were emptied."""

    relation_oids: tuple[int, ...]
    options: int


class LogicalMessage(NamedTuple):
    """What somebody wrote with pg_logical_emit_message."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class RowChange:
    """A change of one row: `new` and `old` decode the rows, `value` only one column; all three raise DecodeError for malformed bytes.

    `old` is None when the WAL does not carry the row as it was; with a replica identity other than FULL it has only the key, all else null.
    """

    __slots__ = ("payload",)
    action: Literal["insert", "update", "delete"]

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        """the bytes that this was decoded from"""

    @property
    def relation_oid(self) -> int:
        """The table's oid, as in its `Relation`."""
        return int.from_bytes(self.payload[1:5])

    @property
    def new(self) -> Row | None:
        """The row as it is now; None for a delete."""
        raise NotImplementedError

    @property
    def old(self) -> Row | None:
        """The row as it was, or its key."""
        raise NotImplementedError

    def old_value(self, position: int) -> Value:
        """One column of the row as it was; null when the WAL does not carry it."""
        old = self.old
        return None if old is None else old[position]

    @property
    def old_is_whole(self) -> bool:
        """Whether `old` has all columns (REPLICA IDENTITY FULL), not only the key."""
        return self.payload[5] == _OLD

    def value(self, position: int) -> Value:
        """One column of the row that the change is about: the new one, or of a delete the old one."""
        raise NotImplementedError


class Insert(RowChange):
    """A new row."""

    __slots__ = ()
    action = "insert"

    @property
    def new(self) -> Row:
        """The new row."""
        return _last_row(self.payload, 6)

    @property
    def old(self) -> None:
        """There was no row before."""
        return None

    def value(self, position: int) -> Value:
        """One column of the new row."""
        return _column(self.payload, 6, position)


class Update(RowChange):
    """A changed row."""

    __slots__ = ()
    action = "update"

    @property
    def new(self) -> Row:
        """The row after the update; a value that is UNCHANGED is taken from `old` when that has it."""
        row = _last_row(self.payload, self._start_of_new())
        if UNCHANGED in row:
            old = self.old
            if old is not None and len(old) == len(row):
                whole = self.old_is_whole
                row = [b if a is UNCHANGED and (whole or b is not None) else a for a, b in zip(row, old, strict=True)]
        return row

    @property
    def old(self) -> Row | None:
        """The row before the update (FULL), its key when that changed (otherwise), or None."""
        return _row(self.payload, 6)[0] if self._has_old() else None

    def value(self, position: int) -> Value:
        """One column of the new row."""
        value = _column(self.payload, self._start_of_new(), position)
        return self.new[position] if value is UNCHANGED else value

    def old_value(self, position: int) -> Value:
        """One column of the old row, without decoding the rest of it."""
        return _column(self.payload, 6, position) if self._has_old() else None

    def _has_old(self) -> bool:
        return self.payload[5] != _NEW

    def _start_of_new(self) -> int:
        data = self.payload
        if not self._has_old():
            return 6
        end = _end_of_row(data, 6)
        if data[end : end + 1] != b"N":
            raise DecodeError("an update without its new row")
        return end + 1


class Delete(RowChange):
    """A row that is gone."""

    __slots__ = ()
    action = "delete"

    @property
    def new(self) -> None:
        """There is no row any more."""
        return None

    @property
    def old(self) -> Row:
        """The row before the delete (FULL), or its key."""
        return _last_row(self.payload, 6)

    def value(self, position: int) -> Value:
        """One column of the old row."""
        return _column(self.payload, 6, position)


Event: TypeAlias = Begin | Commit | ReplicationOrigin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage


def decode(data: bytes) -> Event:
    """Decode one message; raises DecodeError and nothing else. The rows of a change are checked when they are looked at."""
    try:
        kind = data[0]
        if kind == 73:  # I
            if data[5] != _NEW:
                raise DecodeError("an insert without its row")
            return Insert(data)
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise DecodeError(f"a message of the unknown kind {data[:1]!r}")
        return decoder(data)
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise DecodeError(f"a malformed message of kind {data[:1]!r}: {exc}") from exc


def encode_insert(row: Sequence[Value]) -> bytes:
    """Return the message that says that a row was inserted, for a table without a name."""
    parts = [b"I\0\0\0\0N", struct.pack(">H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            parts += (b"t", struct.pack(">I", len(value)), value)
    return b"".join(parts)


def _update(data: bytes) -> Update:
    if data[5] not in b"KON":
        raise DecodeError("an update without its new row")
    return Update(data)


def _delete(data: bytes) -> Delete:
    if data[5] not in b"KO":
        raise DecodeError("a delete without its old row")
    return Delete(data)


def _begin(data: bytes) -> Begin:
    final_lsn, time, xid = _BEGIN(data)
    return Begin(final_lsn, time + _POSTGRES_EPOCH_US, xid)


def _commit(data: bytes) -> Commit:
    _, commit_lsn, end_lsn, time = _COMMIT(data)
    return Commit(commit_lsn, end_lsn, time + _POSTGRES_EPOCH_US)


def _origin(data: bytes) -> ReplicationOrigin:
    (lsn,) = struct.unpack_from(">xQ", data)
    name, end = _string(data, 9)
    return _whole(ReplicationOrigin(lsn, name), data, end)


def _relation(data: bytes) -> Relation:
    oid = _U32(data, 1)[0]
    schema, at = _string(data, 5)
    name, at = _string(data, at)
    identity = chr(data[at])
    count = _U16(data, at + 1)[0]
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(data[at] & 1)
        column, at = _string(data, at + 1)
        type_oid, type_mod = _RELATION_COLUMN(data, at)
        columns.append(RelationColumn(column, type_oid, type_mod, is_key))
        at += 8
    # the schema pg_catalog is sent as an empty string
    return _whole(Relation(oid, schema or "pg_catalog", name, identity, tuple(columns)), data, at)


def _type(data: bytes) -> Type:
    schema, at = _string(data, 5)
    name, at = _string(data, at)
    return _whole(Type(_U32(data, 1)[0], schema or "pg_catalog", name), data, at)


def _truncate(data: bytes) -> Truncate:
    count, options = struct.unpack_from(">xIB", data)
    if len(data) != 6 + 4 * count:
        raise DecodeError("a truncate of another length than it says")
    return Truncate(struct.unpack_from(f">{count}I", data, 6), options)


def _logical_message(data: bytes) -> LogicalMessage:
    flags, lsn = _MESSAGE(data)
    prefix, at = _string(data, 10)
    end = at + 4 + _U32(data, at)[0]
    return _whole(LogicalMessage(bool(flags & 1), lsn, prefix, data[at + 4 : end]), data, end)


_DECODERS: dict[int, Callable[[bytes], Event]] = {
    ord("U"): _update,
    ord("D"): _delete,
    ord("B"): _begin,
    ord("C"): _commit,
    ord("R"): _relation,
    ord("O"): _origin,
    ord("Y"): _type,
    ord("T"): _truncate,
    ord("M"): _logical_message,
}


def _string(data: bytes, at: int) -> tuple[str, int]:
    """Read text that ends with a zero byte; returns it and the position behind it."""
    end = data.find(b"\0", at)
    if end < 0:
        raise DecodeError("text without an end")
    return data[at:end].decode(), end + 1


def _whole(message: T, data: bytes, end: int) -> T:
    """Return the message if it ended where the data does."""
    if end != len(data):
        raise DecodeError(f"a message of {end} bytes in {len(data)} bytes")
    return message


def _row(data: bytes, at: int) -> tuple[Row, int]:
    """Decode a row; returns it and the position behind it."""
    row: Row = []
    end = len(data)
    data += _AFTER
    try:
        (count,) = _U16(data, at)
        at += 2
        for _ in range(count):
            kind, length = _KIND_AND_LENGTH(data, at)
            if kind == _TEXT:
                at += 5 + length
                row.append(data[at - length : at])
            else:
                at += 1
                row.append(_without_text(kind))
    except struct.error as exc:
        raise DecodeError(f"a malformed row: {exc}") from exc
    if at > end:
        raise DecodeError("a row that is cut off")
    return row, at


def _last_row(data: bytes, at: int) -> Row:
    """Decode the row that ends the message: the same in fewer steps, since it goes on to the end and is counted there."""
    row: Row = []
    start, end = at, len(data)
    data += _AFTER
    at += 2
    while at < end:
        kind, length = _KIND_AND_LENGTH(data, at)
        if kind == _TEXT:
            at += 5 + length
            row.append(data[at - length : at])
        else:
            at += 1
            row.append(_without_text(kind))
    if at != end or len(row) != _U16(data, start)[0]:
        raise DecodeError("a row that is cut off, or longer than it says")
    return row


_AFTER = b"\0\0\0\0"
"""Put behind a row, so that a length can be read after every kind, after a null at the end too: one call instead of two"""


def _without_text(kind: int) -> Value:
    if kind == _NULL:
        return None
    if kind == _UNCHANGED:
        return UNCHANGED
    raise DecodeError(f"a value of the unknown kind {kind}")


def _column(data: bytes, at: int, position: int) -> Value:
    """Decode one column of a row, and step over those before it."""
    start, left = at + 2, position
    try:
        kind, length = _KIND_AND_LENGTH(data, start)
        while left:
            start += 5 + length if kind == _TEXT else 1
            kind, length = _KIND_AND_LENGTH(data, start)
            left -= 1
        if kind == _TEXT:
            value = data[start + 5 : start + 5 + length]
            if len(value) == length and position < _U16(data, at)[0]:
                return value
    except struct.error:  # malformed, or a null near the end
        pass
    row, _ = _row(data, at)
    if position >= len(row):
        raise DecodeError(f"a row without column {position}")
    return row[position]


def _end_of_row(data: bytes, at: int) -> int:
    """Step over a row."""
    return _row(data, at)[1]
