"""A change and a sink as the bytes of one message, shaped as Sequin 0.14.6 sends it (recorded). Pure.

What does not depend on the sink is rendered once per change and shared by all sinks that are owed it.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import orjson

from userhooks.engine.pgoutput import UNCHANGED, Delete, Insert, Relation, RelationColumn, Row, Update
from userhooks.engine.resources import Table
from userhooks.engine.values import TimestampFormat, TypeCatalog

Action = Literal["insert", "update", "delete", "read"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOAST = b'"unchanged_toast"'


class TableShape:
    """The columns of a table as the stream (or the catalog) describes them, with what is needed to render its rows.

    `key` are the positions of the primary key's columns, empty without one.
    """

    def __init__(self, relation: Relation, primary_key: tuple[str, ...], types: TypeCatalog) -> None:
        self.schema = relation.schema
        self.name = relation.name
        self.table = (relation.schema, relation.name)
        self.columns = relation.columns
        self.types = types
        self.positions = {column.name: position for position, column in enumerate(relation.columns)}
        self.key = tuple(self.positions[name] for name in primary_key)
        self._plans: dict[TimestampFormat, list[tuple[bytes, int, Callable[[bytes], bytes]]]] = {}
        self._decoders: dict[str, Callable[[bytes], Any]] = {}
        self._names = (
            b'"table_name":%b,"commit_idx":' % orjson.dumps(self.name),
            b',"table_schema":%b,"transaction_annotations":' % orjson.dumps(self.schema),
        )

    @classmethod
    def of_table(cls, table: Table, types: TypeCatalog) -> TableShape:
        """The shape of a table that is read rather than streamed."""
        columns = tuple(RelationColumn(c.name, c.type_oid, c.type_mod, c.name in table.primary_key) for c in table.columns)
        return cls(Relation(0, table.schema, table.name, table.replica_identity, columns), table.primary_key, types)

    def row_json(self, row: Row, timestamps: TimestampFormat, only: frozenset[int] | None = None) -> bytes:
        """Render a row as a JSON object with its columns by name; `only` limits it to some positions."""
        plan = self._plans.get(timestamps)
        if plan is None:
            plan = self._plans[timestamps] = self._plan(timestamps)
        parts = []
        for prefix, position, encode in plan:
            if only is not None and position not in only:
                continue
            value = row[position]
            if value is None:
                parts.append(prefix + b"null")
            elif value is UNCHANGED:
                parts.append(prefix + _TOAST)
            else:
                parts.append(prefix + encode(value))
        return b"{" + b",".join(parts) + b"}"

    def _plan(self, timestamps: TimestampFormat) -> list[tuple[bytes, int, Callable[[bytes], bytes]]]:
        named = sorted((column.name, position, column.type_oid) for position, column in enumerate(self.columns))
        return [(orjson.dumps(name) + b":", position, self.types.json_encoder(oid, timestamps)) for name, position, oid in named]

    def value(self, row: Row, name: str) -> Any:
        """Return one column's value as filter functions see it; an unknown column is nil there, so None here."""
        position = self.positions.get(name)
        raw = None if position is None else row[position]
        if raw is None or position is None:
            return None
        if raw is UNCHANGED:
            return "unchanged_toast"
        decode = self._decoders.get(name)
        if decode is None:
            decode = self._decoders[name] = self.types.decoder(self.columns[position].type_oid)
        return decode(raw)

    def middle(self, index: bytes, lsn: bytes, stamp: bytes, key: bytes, annotations: bytes, pks: bytes) -> bytes:
        """The part of `metadata` that is the same for all sinks."""
        first, second = self._names
        return b'%b%b,"commit_lsn":%b,"commit_timestamp":"%b","idempotency_key":"%b"%b%b,"record_pks":%b,"enrichment":null,' % (
            first,
            index,
            lsn,
            stamp,
            key,
            second,
            annotations,
            pks,
        )


class Change:
    """One change of one row. `new` is None for a delete; `old` is None for an insert and a read, whole only under REPLICA IDENTITY FULL."""

    __slots__ = (
        "_parts",
        "action",
        "annotations",
        "backfill_id",
        "commit_idx",
        "commit_lsn",
        "commit_us",
        "differing",
        "new",
        "old",
        "row",
        "shape",
    )

    def __init__(
        self,
        shape: TableShape,
        event: Insert | Update | Delete,
        commit_lsn: int,
        commit_idx: int,
        commit_us: int,
        annotations: bytes | None,
    ) -> None:
        self.shape = shape
        self.commit_lsn = commit_lsn
        self.commit_idx = commit_idx
        self.commit_us = commit_us
        self.annotations = annotations
        self.backfill_id: str | None = None
        self.action: Action
        self.new: Row | None
        self.old: Row | None
        self.differing: frozenset[int] = frozenset()
        """positions whose old value differs and is known"""
        self._parts: dict[TimestampFormat, tuple[bytes, bytes, bytes]] | None = None
        if isinstance(event, Insert):
            self.action, self.new, self.old, self.row = "insert", event.new, None, event.new
        elif isinstance(event, Update):
            self.action, self.new, self.old, self.row = "update", event.new, event.old, event.new
            if event.old is not None and event.old_is_whole:
                self._compare(event.new, event.old)
        else:
            self.action, self.new, self.old, self.row = "delete", None, event.old, event.old

    def _compare(self, new: Row, old: Row) -> None:
        """Fill in what the log leaves out of the new row, and note what has changed."""
        if UNCHANGED in new:
            for position, value in enumerate(new):
                if value is UNCHANGED:
                    new[position] = old[position]
        if new != old:
            self.differing = frozenset(position for position, value in enumerate(new) if value != old[position])

    @classmethod
    def read(cls, shape: TableShape, row: tuple[bytes | None, ...], backfill_id: str, read_us: int) -> Change:
        """A row that a backfill read at `read_us` microseconds since 1970."""
        change = cls(shape, Insert(0, list(row)), 0, 0, read_us, None)
        change.action = "read"
        change.backfill_id = backfill_id
        return change

    def record(self, name: str) -> Any:
        """`record[name]` of a filter function."""
        return self.shape.value(self.row, name)

    def changes(self, name: str) -> Any:
        """`changes[name]` of a filter function: the old value of a column that an update changed, else nil."""
        position = self.shape.positions.get(name)
        if self.old is None or position not in self.differing:
            return None
        return self.shape.value(self.old, name)

    def parts(self, timestamps: TimestampFormat) -> tuple[bytes, bytes, bytes]:
        """Return the record, the sink-independent metadata, and the end of the message."""
        if self._parts is None:
            self._parts = {}
        parts = self._parts.get(timestamps)
        if parts is None:
            parts = self._parts[timestamps] = self._render(timestamps)
        return parts

    def _render(self, timestamps: TimestampFormat) -> tuple[bytes, bytes, bytes]:
        shape, row = self.shape, self.row
        record = shape.row_json(row, timestamps)
        pks = [value.decode() if isinstance(value := row[position], bytes) else "" for position in shape.key]
        if self.backfill_id is None:
            index, lsn = b"%d" % self.commit_idx, b"%d" % self.commit_lsn
            key = lsn + b":" + index
        else:
            index = lsn = b"null"
            key = ":".join([self.backfill_id, *pks]).encode()
        middle = shape.middle(
            index,
            lsn,
            iso_microseconds(self.commit_us),
            binascii.b2a_base64(key, newline=False),
            self.annotations or b"null",
            orjson.dumps(pks),
        )
        changes = b"null"
        if self.action == "update":
            changes = shape.row_json(self.old, timestamps, self.differing) if self.differing and self.old is not None else b"{}"
        return record, middle, b',"action":"%b","changes":%b}' % (self.action.encode(), changes)


@lru_cache(maxsize=64)
def iso_microseconds(us: int) -> bytes:
    """Microseconds since 1970 as ISO 8601 in UTC with six digits."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()


class SinkForm:
    """What messages of one sink have in common: `consumer` and `database` as they stand in `metadata`."""

    __slots__ = ("after", "before", "timestamps")

    def __init__(self, consumer: Mapping[str, Any], database: Mapping[str, Any], timestamps: TimestampFormat) -> None:
        self.timestamps: TimestampFormat = timestamps
        self.before = b',"metadata":{"consumer":%b,"database":%b,' % (orjson.dumps(consumer), orjson.dumps(database))
        self.after = b'"database_name":%b}' % orjson.dumps(database["name"])


def render(change: Change, form: SinkForm) -> bytes:
    """Return one message: record, metadata, action, changes, in the order in which Sequin writes them."""
    record, middle, end = change.parts(form.timestamps)
    return b'{"record":' + record + form.before + middle + form.after + end


def group_key(change: Change, columns: tuple[str, ...] | None) -> object:
    """Return what names the message's group: the values of these columns, by default of the primary key; None when there are none.

    A column that the table does not have counts as NULL, so that order is kept rather than lost.
    """
    shape = change.shape
    row = change.row
    if columns is None:
        key = shape.key
        if len(key) == 1:
            return (shape.table, row[key[0]])
        return (shape.table, *(row[position] for position in key)) if key else None
    if not columns:
        return None
    return (shape.table, *(row[p] if (p := shape.positions.get(name)) is not None else None for name in columns))
