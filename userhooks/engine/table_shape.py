"""The shape of a table: its columns, types, and key, and how its rows become JSON. Pure.

`postgres/pg_types.py` formats single values. For speed, the parts shared by all messages of a table are built once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from userhooks.engine.postgres.pg_types import Decoder, Encoder, TimestampFormat, TypeCatalog, verbatim
from userhooks.engine.postgres.pgoutput import UNCHANGED, Relation, Value
from userhooks.engine.resources import Column, Table, TableName

_UNCHANGED_JSON = b'"unchanged_toast"'
"""What Sequin shows for a value that the WAL does not contain, as recorded."""


@dataclass(frozen=True, slots=True)
class _RecordForm:
    """The JSON form of a table's rows: `template` has a placeholder for each column, in the order of the columns' names."""

    template: bytes
    columns: tuple[tuple[int, Encoder | None], ...]
    """(position, encoder) pairs; the encoder is None if values are already JSON"""
    names: tuple[bytes, ...]
    """the JSON of each name, including the colon"""


class TableShape:
    """The names, types, and key of a table at one point in time; `columns` are in the table's order."""

    __slots__ = (
        "_decoders",
        "_encoders",
        "_forms",
        "_key_forms",
        "columns",
        "group_keys",
        "group_prefix",
        "key_positions",
        "metadata",
        "metadata_of_reads",
        "name",
        "positions",
        "replica_identity",
        "schema",
        "seen",
        "table",
        "types",
    )

    def __init__(
        self, relation: Relation | Table, key: Sequence[str], types: TypeCatalog, former_keys: Sequence[Sequence[str]] = ()
    ) -> None:
        self.schema = relation.schema
        self.name = relation.name
        self.table: TableName = (relation.schema, relation.name)
        self.group_prefix = b"%b\0%b\0" % (relation.schema.encode(), relation.name.encode())  # names cannot contain a zero byte
        self.types = types
        self.columns = tuple(Column(c.name, c.type_oid, c.type_mod) for c in relation.columns)
        self.positions = {column.name: i for i, column in enumerate(self.columns)}
        self.replica_identity = relation.replica_identity
        self.key_positions = tuple(sorted(self.positions[name] for name in key))
        self.group_keys = self._group_keys(former_keys)
        """keys that group changes by row, as column positions: the current key, then former ones; an empty key means the whole row"""
        self._key_forms = tuple((at, types.text_encoder(self.columns[at].type_oid)) for at in self.key_positions)
        self.metadata = _metadata_template(relation, index=b"%d", lsn=b"%d")
        self.metadata_of_reads = _metadata_template(relation, index=b"null", lsn=b"null")
        self._forms: dict[TimestampFormat, _RecordForm] = {}
        self._decoders: dict[int, Decoder] = {}
        self.seen: dict[tuple[int, TimestampFormat], Decoder] = {}
        """(position, format) -> decoder of the value that functions see (`functions/columns.py`)"""
        self._encoders: dict[tuple[int, TimestampFormat], Encoder] = {}

    @classmethod
    def of_table(cls, table: Table, types: TypeCatalog) -> TableShape:
        """Create the shape of a table from the catalog, for rows read with SELECT."""
        return cls(table, table.key, types)

    def _group_keys(self, former_keys: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
        known = [tuple(sorted(self.positions[name] for name in key)) for key in former_keys if self.positions.keys() >= set(key)]
        if not self.key_positions and self.replica_identity != "f":
            return tuple(dict.fromkeys(known))
        return tuple(dict.fromkeys([self.key_positions, *known]))

    def group_names(self) -> tuple[tuple[str, ...], ...]:
        """Return `group_keys` as column names."""
        return tuple(tuple(self.columns[at].name for at in key) for key in self.group_keys)

    def group_of(self, positions: Sequence[int], row: Sequence[Value]) -> object:
        """Return the group of a row by the values of these columns, or by the whole row if `positions` is empty."""
        if len(positions) == 1 and isinstance(value := row[positions[0]], bytes):
            return self.group_prefix + value  # bytes cache their hash, and the garbage collector skips them
        if positions:
            return (self.table, *[row[i] for i in positions])
        digest = blake2b(digest_size=16)
        for at, value in enumerate(row):
            if isinstance(value, bytes):
                digest.update(struct.pack(">HI", at, len(value)) + value)
        return self.group_prefix + digest.digest()

    def record(self, row: Sequence[Value], timestamp_format: TimestampFormat) -> bytes:
        """Return a row as a JSON object, with its columns sorted by name."""
        form = self._forms.get(timestamp_format) or self._record_form(timestamp_format)
        values: list[bytes] = []
        for at, encode in form.columns:  # a plain loop over plain tuples, which takes a quarter less time than tidier code
            raw = row[at]
            if raw is None:
                values.append(b"null")
            elif raw is UNCHANGED:
                values.append(_UNCHANGED_JSON)
            else:
                values.append(raw if encode is None else encode(raw))
        return form.template % tuple(values)

    def changes(self, new: Sequence[Value], old: Sequence[Value], timestamp_format: TimestampFormat) -> bytes:
        """Return the old values that differ from the new ones, as a JSON object."""
        form = self._forms.get(timestamp_format) or self._record_form(timestamp_format)
        parts = []
        for name, (position, encode) in zip(form.names, form.columns, strict=True):
            raw = old[position]
            if raw != new[position] and raw is not UNCHANGED:
                parts.append(name + (b"null" if raw is None else raw if encode is None else encode(raw)))
        return b"{%b}" % b",".join(parts)

    def _record_form(self, timestamp_format: TimestampFormat) -> _RecordForm:
        positions = [position for _, position in sorted(self.positions.items(), key=lambda item: item[0].encode())]
        columns = [self.columns[position] for position in positions]
        encoders = [self.types.json_encoder(column.type_oid, timestamp_format) for column in columns]
        names = tuple(orjson.dumps(column.name) + b":" for column in columns)
        form = self._forms[timestamp_format] = _RecordForm(
            template=b"{%b}" % b",".join([name.replace(b"%", b"%%") + b"%b" for name in names]),
            columns=tuple((at, None if encode is verbatim else encode) for at, encode in zip(positions, encoders, strict=True)),
            names=names,
        )
        return form

    def keys(self, row: Sequence[Value]) -> bytes:
        """Return the values of the primary key as JSON strings, separated by commas."""
        forms = self._key_forms
        if len(forms) == 1 and isinstance(raw := row[forms[0][0]], bytes):
            return forms[0][1](raw)
        return b",".join([encode(raw) if isinstance(raw := row[at], bytes) else b'""' for at, encode in forms])

    def encode(self, position: int, raw: Value, timestamp_format: TimestampFormat) -> bytes:
        """Return one value as JSON, encoded as in `record`."""
        if raw is None:
            return b"null"
        if raw is UNCHANGED:
            return _UNCHANGED_JSON
        key = (position, timestamp_format)
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = self._encoders[key] = self.types.json_encoder(self.columns[position].type_oid, timestamp_format)
        return encoder(raw)

    def decode(self, position: int, raw: Value) -> Any:
        """Return the Python value of a value's JSON; raises ValueError or RecursionError for JSON that Python cannot parse."""
        if raw is None:
            return None
        if raw is UNCHANGED:
            return UNCHANGED.value
        decoder = self._decoders.get(position)
        if decoder is None:
            decoder = self._decoders[position] = self.types.decoder(self.columns[position].type_oid)
        return decoder(raw)


def _metadata_template(relation: Relation | Table, *, index: bytes, lsn: bytes) -> bytes:
    """Return the metadata that does not depend on the sink, with placeholders for the values of each change."""
    names = [orjson.dumps(name).replace(b"%", b"%%") for name in (relation.name, relation.schema)]
    return (
        b'"table_name":%b,"commit_idx":%b,"commit_lsn":%b,"commit_timestamp":"%%b","idempotency_key":"%%b","table_schema":%b,'
        b'"transaction_annotations":%%b,"record_pks":[%%b],"enrichment":null,"database_name":'
    ) % (names[0], index, lsn, names[1])
