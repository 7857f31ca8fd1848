"""The bytes of Postgres' logical replication (output plugin pgoutput, protocol version 1) as events. Pure; sockets are in `replication.py`.

Layouts: Postgres documentation, 54.9 "Logical Replication Message Formats". A row is a list with the text form of each column as bytes,
None for NULL, and UNCHANGED for a TOASTed value that an update did not touch and the log does not carry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, Literal, NamedTuple

_POSTGRES_EPOCH_US: Final = 946_684_800_000_000


class _Marker(Enum):
    UNCHANGED = "unchanged"


UNCHANGED: Final = _Marker.UNCHANGED
Value = bytes | None | Literal[_Marker.UNCHANGED]
Row = list[Value]


class DecodeError(ValueError):
    """The bytes are not a pgoutput message of protocol version 1."""


class Begin(NamedTuple):
    """A transaction starts; `final_lsn` is the LSN of its commit, `commit_time_us` microseconds since 1970."""

    final_lsn: int
    commit_time_us: int
    xid: int


class Commit(NamedTuple):
    """The transaction ends; `end_lsn` is what may be confirmed once it is settled."""

    commit_lsn: int
    end_lsn: int
    commit_time_us: int


class RelationColumn(NamedTuple):
    """One column of a table; `is_key` says that it belongs to the replica identity."""

    name: str
    type_oid: int
    type_mod: int
    is_key: bool


class Relation(NamedTuple):
    """What the following rows of this table look like; `replica_identity` is d, n, f or i."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


class Insert(NamedTuple):
    """A new row."""

    relation_oid: int
    new: Row


class Update(NamedTuple):
    """A changed row; `old` is whole when `old_is_whole` (REPLICA IDENTITY FULL), the old key when that changed, else None."""

    relation_oid: int
    old: Row | None
    old_is_whole: bool
    new: Row


class Delete(NamedTuple):
    """A deleted row: whole under REPLICA IDENTITY FULL, else with NULL for all columns but the key."""

    relation_oid: int
    old: Row


class Truncate(NamedTuple):
    """Tables were emptied."""

    relation_oids: tuple[int, ...]


class LogicalMessage(NamedTuple):
    """What pg_logical_emit_message wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class Type(NamedTuple):
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str


class Origin(NamedTuple):
    """Where a replicated transaction comes from."""

    lsn: int
    name: str


Event = Begin | Commit | Relation | Insert | Update | Delete | Truncate | LogicalMessage | Type | Origin

_BEGIN = struct.Struct(">xQqI").unpack
_COMMIT = struct.Struct(">xBQQq").unpack
_OID = struct.Struct(">xI").unpack_from
_LENGTH = struct.Struct(">I").unpack_from
_COLUMN = struct.Struct(">Ii").unpack_from
_MESSAGE = struct.Struct(">xBQ").unpack_from
_LSN = struct.Struct(">xQ").unpack_from

_N, _U, _T, _O, _K, _NEW = b"nutOKN"


def decode(data: bytes) -> Event:
    """Return the event in one payload; raises DecodeError, and nothing else, when the bytes make none."""
    try:
        decoder = _DECODERS[data[0]]
    except (IndexError, KeyError):
        raise DecodeError(f"unknown message {data[:1]!r}") from None
    try:
        return decoder(data)
    except (struct.error, IndexError, ValueError) as exc:
        raise DecodeError(f"malformed {data[:1]!r} message: {exc}") from exc


def _begin(data: bytes) -> Begin:
    lsn, time, xid = _BEGIN(data)
    return Begin(lsn, time + _POSTGRES_EPOCH_US, xid)


def _commit(data: bytes) -> Commit:
    _, lsn, end, time = _COMMIT(data)
    return Commit(lsn, end, time + _POSTGRES_EPOCH_US)


def _insert(data: bytes) -> Insert:
    (oid,) = _OID(data)
    if data[5] != _NEW:
        raise DecodeError("an insert without a new row")
    row, end = _row(data, 6)
    _must_end(data, end)
    return Insert(oid, row)


def _update(data: bytes) -> Update:
    (oid,) = _OID(data)
    old: Row | None = None
    kind, at = data[5], 6
    whole = kind == _O
    if whole or kind == _K:
        old, at = _row(data, at)
        kind, at = data[at], at + 1
    if kind != _NEW:
        raise DecodeError("an update without a new row")
    row, end = _row(data, at)
    _must_end(data, end)
    return Update(oid, old, whole, row)


def _delete(data: bytes) -> Delete:
    (oid,) = _OID(data)
    if data[5] not in (_O, _K):
        raise DecodeError("a delete without an old row")
    row, end = _row(data, 6)
    _must_end(data, end)
    return Delete(oid, row)


def _row(data: bytes, at: int) -> tuple[Row, int]:
    row: Row = []
    add = row.append
    count = data[at] << 8 | data[at + 1]
    at += 2
    for _ in range(count):
        kind = data[at]
        if kind == _T:
            start = at + 5
            at = start + _LENGTH(data, at + 1)[0]
            add(data[start:at])
        elif kind == _N:
            add(None)
            at += 1
        elif kind == _U:
            add(UNCHANGED)
            at += 1
        else:
            raise DecodeError(f"unknown kind of value {kind}")
    if at > len(data):
        raise DecodeError("a value longer than the message")
    return row, at


def _must_end(data: bytes, at: int) -> None:
    if at != len(data):
        raise DecodeError("bytes after the message")


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _relation(data: bytes) -> Relation:
    (oid,) = _OID(data)
    schema, at = _text(data, 5)
    name, at = _text(data, at)
    identity = chr(data[at])
    count = data[at + 1] << 8 | data[at + 2]
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(data[at] & 1)
        column, at = _text(data, at + 1)
        type_oid, type_mod = _COLUMN(data, at)
        at += 8
        columns.append(RelationColumn(column, type_oid, type_mod, is_key))
    _must_end(data, at)
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _truncate(data: bytes) -> Truncate:
    (count,) = _OID(data)
    if len(data) != 6 + 4 * count:
        raise DecodeError("a truncate of another length")
    return Truncate(struct.unpack_from(f">{count}I", data, 6))


def _message(data: bytes) -> LogicalMessage:
    flags, lsn = _MESSAGE(data)
    prefix, at = _text(data, 10)
    (length,) = _LENGTH(data, at)
    _must_end(data, at + 4 + length)
    return LogicalMessage(bool(flags & 1), lsn, prefix, data[at + 4 :])


def _type(data: bytes) -> Type:
    (oid,) = _OID(data)
    schema, at = _text(data, 5)
    name, at = _text(data, at)
    _must_end(data, at)
    return Type(oid, schema or "pg_catalog", name)


def _origin(data: bytes) -> Origin:
    (lsn,) = _LSN(data)
    name, at = _text(data, 9)
    _must_end(data, at)
    return Origin(lsn, name)


_DECODERS: Final[Mapping[int, Callable[[bytes], Event]]] = {
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("B"): _begin,
    ord("C"): _commit,
    ord("R"): _relation,
    ord("T"): _truncate,
    ord("M"): _message,
    ord("Y"): _type,
    ord("O"): _origin,
}
