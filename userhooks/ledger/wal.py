"""Decodes changes of `notifications` from the payloads of Postgres' output plugin. Pure; `recorder.py` fetches the payloads.

The ledger checks the engine, so it does not share the engine's decoder, whose bugs it would then fail to notice. This module decodes only
what the checks need. The format is specified in Postgres' documentation, "Logical Replication Message Formats", protocol version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

TABLE = ("public", "notifications")

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # the zero of Postgres' timestamps
_TRANSACTIONAL = 1


class WalChange(NamedTuple):
    """One committed change of a row. Like a message, it is identified by its commit's LSN and its index in the commit.

    `action` is `insert`, `update`, or `delete`. `row` and `user_id` are the row's id and user after the change or, for a delete, before it.
    `former_user_id` is the row's user before an update. Either user is None if the WAL does not contain it, for example if the table's
    replica identity is not FULL.
    """

    lsn: int
    idx: int
    committed_at: datetime
    action: str
    row: int
    user_id: int | None
    former_user_id: int | None


class PayloadReader:
    """Decodes payloads, which must be given in order."""

    def __init__(self) -> None:
        self._columns: dict[int, tuple[int, int] | None] = {}
        self._lsn = self._index = 0
        self._committed_at = _EPOCH

    def read(self, payload: bytes) -> Iterator[WalChange]:
        """Decode one payload and yield the change of `notifications` in it, if any; raises ValueError for an invalid payload.

        The index counts the changes of every published table, truncations, and logical messages, as recorded from Sequin.
        """
        kind = payload[:1]
        try:
            if kind == b"B":
                self._lsn, microseconds = struct.unpack_from(">Qq", payload, 1)
                self._committed_at = _EPOCH + timedelta(microseconds=microseconds)
                self._index = 0
            elif kind == b"R":
                self._relation(payload)
            elif kind in (b"I", b"U", b"D"):
                index, self._index = self._index, self._index + 1
                columns = self._columns[struct.unpack_from(">I", payload, 1)[0]]
                if columns is not None:
                    yield self._change(payload, index, columns)
            elif kind == b"T" or (kind == b"M" and payload[1] & _TRANSACTIONAL):
                self._index += 1
        except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"Not a valid pgoutput payload: {payload[:40]!r}") from error

    def _relation(self, payload: bytes) -> None:
        (oid,) = struct.unpack_from(">I", payload, 1)
        schema, name, rest = payload[5:].split(b"\0", 2)
        names = []
        (count,) = struct.unpack_from(">H", rest, 1)
        rest = rest[3:]
        for _ in range(count):
            column, rest = rest[1:].split(b"\0", 1)
            names.append(column.decode())
            rest = rest[8:]
        ours = (schema.decode(), name.decode()) == TABLE
        self._columns[oid] = (names.index("id"), names.index("user_id")) if ours else None

    def _change(self, payload: bytes, index: int, columns: tuple[int, int]) -> WalChange:
        kind, part, offset = payload[:1], payload[5:6], 6
        old: list[bytes | None] = []
        if part in (b"O", b"K"):
            old, offset = _tuple(payload, offset)
            if part == b"K":
                old = [value if n == columns[0] else None for n, value in enumerate(old)]
            part, offset = payload[offset : offset + 1], offset + 1
        new = _tuple(payload, offset)[0] if part == b"N" else old
        action = {b"I": "insert", b"U": "update", b"D": "delete"}[kind]
        row, user = (_integer(new[column]) for column in columns)
        former = _integer(old[columns[1]]) if old and kind == b"U" else None
        if row is None:
            raise ValueError(f"A change of {'.'.join(TABLE)} has no id.")
        return WalChange(self._lsn, index, self._committed_at, action, row, user, former)


def _tuple(payload: bytes, offset: int) -> tuple[list[bytes | None], int]:
    """Return the column values of a row as text, and the offset of its end.

    A value is None if it is null or not contained in the WAL.
    """
    (count,) = struct.unpack_from(">H", payload, offset)
    offset += 2
    values: list[bytes | None] = []
    for _ in range(count):
        kind = payload[offset]
        offset += 1
        if kind == 0x74:  # t: text follows; n: null; u: an unchanged TOASTed value, not included
            (size,) = struct.unpack_from(">I", payload, offset)
            offset += 4 + size
            values.append(payload[offset - size : offset])
        else:
            values.append(None)
    return values, offset


def _integer(value: bytes | None) -> int | None:
    return None if value is None else int(value)
