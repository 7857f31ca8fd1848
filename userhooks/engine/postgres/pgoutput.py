"""Decoder for the messages of `pgoutput`, Postgres' logical replication output plugin. No I/O.

This implements protocol version 1 (Postgres documentation, section 55.9, "Logical Replication Message Formats"). Values stay in Postgres'
text form, which `pg_types.py` converts. The streaming protocol around the messages is in `replication_stream.py`.

Rows are decoded only on access. Most changes match no sink, and routing needs only one column to find this out.

The module is long because each kind of message is one class.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

_POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01, the epoch of Postgres' timestamps, in microseconds since 1970."""

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
"""Placeholder for a large value, stored out of line (TOAST), that an update did not change; the WAL does not contain such values."""

Value: TypeAlias = bytes | Literal[Unchanged.UNCHANGED] | None
Row: TypeAlias = list[Value]


class Begin(NamedTuple):
    """The start of a transaction; `final_lsn` is its commit LSN, and `commit_time_us` is in microseconds since 1970."""

    final_lsn: int
    commit_time_us: int
    xid: int


class Commit(NamedTuple):
    """The end of a transaction; `end_lsn` is the first LSN after it."""

    commit_lsn: int
    end_lsn: int
    commit_time_us: int


class ReplicationOrigin(NamedTuple):
    """The origin of a transaction that was replicated from another server."""

    commit_lsn: int
    name: str


class RelationColumn(NamedTuple):
    """A column of a table as the stream describes it; `is_key` is set if the column is part of the replica identity."""

    name: str
    type_oid: int
    type_mod: int
    is_key: bool


class Relation(NamedTuple):
    """The description of a table for the changes that follow; `replica_identity` is pg_class.relreplident (`d`, `f`, `i`, or `n`)."""

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
    """A TRUNCATE of one or more tables."""

    relation_oids: tuple[int, ...]
    options: int


class LogicalMessage(NamedTuple):
    """A message written with pg_logical_emit_message."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class RowChange:
    """A change of one row. `new` and `old` decode whole rows, and `value` one column; all three raise DecodeError for malformed bytes.

    `old` is None if the WAL does not contain the old row. Under a replica identity other than FULL, it has only the key, and all other
    columns are null.
    """

    __slots__ = ("payload",)
    action: Literal["insert", "update", "delete"]

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        """The bytes of the message."""

    @property
    def relation_oid(self) -> int:
        """The oid of the table, which its `Relation` describes."""
        return int.from_bytes(self.payload[1:5])

    @property
    def new(self) -> Row | None:
        """The new row; None for a delete."""
        raise NotImplementedError

    @property
    def old(self) -> Row | None:
        """The old row, or its key; None if the WAL contains neither."""
        raise NotImplementedError

    def old_value(self, position: int) -> Value:
        """Return one column of the old row; None if the WAL does not contain it."""
        old = self.old
        return None if old is None else old[position]

    @property
    def old_is_whole(self) -> bool:
        """Whether `old` has all columns (REPLICA IDENTITY FULL) rather than only the key."""
        return self.payload[5] == _OLD

    def value(self, position: int) -> Value:
        """Return one column of the new row or, for a delete, of the old row."""
        raise NotImplementedError


class Insert(RowChange):
    """An inserted row."""

    __slots__ = ()
    action = "insert"

    @property
    def new(self) -> Row:
        """The new row."""
        return _last_row(self.payload, 6)

    @property
    def old(self) -> None:
        """Always None, since an insert has no old row."""
        return None

    def value(self, position: int) -> Value:
        """Return one column of the new row."""
        return _column(self.payload, 6, position)


class Update(RowChange):
    """An updated row."""

    __slots__ = ()
    action = "update"

    @property
    def new(self) -> Row:
        """The row after the update; values that are UNCHANGED are taken from `old` if available."""
        row = _last_row(self.payload, self._start_of_new())
        if UNCHANGED in row:
            old = self.old
            if old is not None and len(old) == len(row):
                whole = self.old_is_whole
                row = [b if a is UNCHANGED and (whole or b is not None) else a for a, b in zip(row, old, strict=True)]
        return row

    @property
    def old(self) -> Row | None:
        """The row before the update (REPLICA IDENTITY FULL), its key if the key changed, or None."""
        return _row(self.payload, 6)[0] if self._has_old() else None

    def value(self, position: int) -> Value:
        """Return one column of the new row."""
        value = _column(self.payload, self._start_of_new(), position)
        return self.new[position] if value is UNCHANGED else value

    def old_value(self, position: int) -> Value:
        """Return one column of the old row without decoding the rest."""
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
    """A deleted row."""

    __slots__ = ()
    action = "delete"

    @property
    def new(self) -> None:
        """Always None, since a delete has no new row."""
        return None

    @property
    def old(self) -> Row:
        """The deleted row (REPLICA IDENTITY FULL), or its key."""
        return _last_row(self.payload, 6)

    def value(self, position: int) -> Value:
        """Return one column of the old row."""
        return _column(self.payload, 6, position)


Event: TypeAlias = Begin | Commit | ReplicationOrigin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage


def decode(data: bytes) -> Event:
    """Decode one message; raises DecodeError and no other error.

    The rows of a change are only checked when they are accessed.
    """
    try:
        kind = data[0]
        if kind == 73:  # I
            if data[5] != _NEW:
                raise DecodeError("an insert without its row")
            return Insert(data)
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise DecodeError(f"a message of unknown kind {data[:1]!r}")
        return decoder(data)
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise DecodeError(f"a malformed message of kind {data[:1]!r}: {exc}") from exc


def encode_insert(row: Sequence[Value]) -> bytes:
    """Return an insert message for a row, with table oid 0."""
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
    # pgoutput sends the schema pg_catalog as an empty string.
    return _whole(Relation(oid, schema or "pg_catalog", name, identity, tuple(columns)), data, at)


def _type(data: bytes) -> Type:
    schema, at = _string(data, 5)
    name, at = _string(data, at)
    return _whole(Type(_U32(data, 1)[0], schema or "pg_catalog", name), data, at)


def _truncate(data: bytes) -> Truncate:
    count, options = struct.unpack_from(">xIB", data)
    if len(data) != 6 + 4 * count:
        raise DecodeError("a truncate whose length does not match its table count")
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
    """Read a zero-terminated string; return it and the position after it."""
    end = data.find(b"\0", at)
    if end < 0:
        raise DecodeError("a string without its terminating zero")
    return data[at:end].decode(), end + 1


def _whole(message: T, data: bytes, end: int) -> T:
    """Return the message if it ends at the end of the data; raise DecodeError otherwise."""
    if end != len(data):
        raise DecodeError(f"a message of {end} bytes in {len(data)} bytes of data")
    return message


def _row(data: bytes, at: int) -> tuple[Row, int]:
    """Decode a row; return it and the position after it."""
    row: Row = []
    end = len(data)
    data += _PADDING
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
    """Decode a row at the end of the message.

    This is faster than `_row`, because it reads up to the end of the data and checks the column count only there.
    """
    row: Row = []
    start, end = at, len(data)
    data += _PADDING
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
        raise DecodeError("a row that is cut off, or has more columns than its count")
    return row


_PADDING = b"\0\0\0\0"
"""Appended to a row so that kind and length can be unpacked in one call, even for a null at the end, which has no length."""


def _without_text(kind: int) -> Value:
    if kind == _NULL:
        return None
    if kind == _UNCHANGED:
        return UNCHANGED
    raise DecodeError(f"a value of unknown kind {kind}")


def _column(data: bytes, at: int, position: int) -> Value:
    """Decode one column of a row, skipping the columns before it."""
    start, remaining = at + 2, position
    try:
        kind, length = _KIND_AND_LENGTH(data, start)
        while remaining:
            start += 5 + length if kind == _TEXT else 1
            kind, length = _KIND_AND_LENGTH(data, start)
            remaining -= 1
        if kind == _TEXT:
            value = data[start + 5 : start + 5 + length]
            if len(value) == length and position < _U16(data, at)[0]:
                return value
    except struct.error:  # The row is malformed, or has a null near the end.
        pass
    row, _ = _row(data, at)
    if position >= len(row):
        raise DecodeError(f"a row without column {position}")
    return row[position]


def _end_of_row(data: bytes, at: int) -> int:
    """Return the position after a row."""
    return _row(data, at)[1]
