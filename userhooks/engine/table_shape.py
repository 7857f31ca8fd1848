"""What a table looks like to its changes: columns, types, key, and how a row becomes JSON. Pure.

What single values look like is in `postgres/pg_types.py`. The fast path: what all messages of a table have in common is made once.
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
"""What Sequin shows for a value that the WAL does not carry (recorded)"""


@dataclass(frozen=True, slots=True)
class _RecordForm:
    """How a row becomes a record: `template` has a place for each of the columns, which are in the order of their names."""

    template: bytes
    columns: tuple[tuple[int, Encoder | None], ...]
    """position and encoder; None for values that are JSON already"""
    names: tuple[bytes, ...]
    """the JSON of each name, with the colon"""


class TableShape:
    """What a table looks like to changes of it: names, types, and key, as of one moment. `columns` keep the table's order."""

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
        self.group_prefix = b"%b\0%b\0" % (relation.schema.encode(), relation.name.encode())  # no name has a zero in it
        self.types = types
        self.columns = tuple(Column(c.name, c.type_oid, c.type_mod) for c in relation.columns)
        self.positions = {column.name: i for i, column in enumerate(self.columns)}
        self.replica_identity = relation.replica_identity
        self.key_positions = tuple(sorted(self.positions[name] for name in key))
        self.group_keys = self._group_keys(former_keys)
        """what identifies a row for its order: positions of columns, none for the whole row; more than one after the key was moved"""
        self._key_forms = tuple((at, types.text_encoder(self.columns[at].type_oid)) for at in self.key_positions)
        self.metadata = _metadata_template(relation, index=b"%d", lsn=b"%d")
        self.metadata_of_reads = _metadata_template(relation, index=b"null", lsn=b"null")
        self._forms: dict[TimestampFormat, _RecordForm] = {}
        self._decoders: dict[int, Decoder] = {}
        self.seen: dict[tuple[int, TimestampFormat], Decoder] = {}
        """by column and format, what makes the value that functions see (`functions/columns.py`)"""
        self._encoders: dict[tuple[int, TimestampFormat], Encoder] = {}

    @classmethod
    def of_table(cls, table: Table, types: TypeCatalog) -> TableShape:
        """Make the shape of a table as the catalog shows it, for rows that are read with SELECT."""
        return cls(table, table.key, types)

    def _group_keys(self, former_keys: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
        known = [tuple(sorted(self.positions[name] for name in key)) for key in former_keys if self.positions.keys() >= set(key)]
        if not self.key_positions and self.replica_identity != "f":
            return tuple(dict.fromkeys(known))
        return tuple(dict.fromkeys([self.key_positions, *known]))

    def group_names(self) -> tuple[tuple[str, ...], ...]:
        """Return `group_keys` as names of columns."""
        return tuple(tuple(self.columns[at].name for at in key) for key in self.group_keys)

    def group_of(self, positions: Sequence[int], row: Sequence[Value]) -> object:
        """Return what names a row's group by the values of these columns, or by the whole row when there are none."""
        if len(positions) == 1 and isinstance(value := row[positions[0]], bytes):
            return self.group_prefix + value  # bytes keep their hash, and the garbage collector passes them by
        if positions:
            return (self.table, *[row[i] for i in positions])
        digest = blake2b(digest_size=16)
        for at, value in enumerate(row):
            if isinstance(value, bytes):
                digest.update(struct.pack(">HI", at, len(value)) + value)
        return self.group_prefix + digest.digest()

    def record(self, row: Sequence[Value], timestamp_format: TimestampFormat) -> bytes:
        """Return the JSON object of a whole row, columns by name."""
        form = self._forms.get(timestamp_format) or self._record_form(timestamp_format)
        values: list[bytes] = []
        for at, encode in form.columns:  # plain tuples in a plain loop take a quarter less than what reads better
            raw = row[at]
            if raw is None:
                values.append(b"null")
            elif raw is UNCHANGED:
                values.append(_UNCHANGED_JSON)
            else:
                values.append(raw if encode is None else encode(raw))
        return form.template % tuple(values)

    def changes(self, new: Sequence[Value], old: Sequence[Value], timestamp_format: TimestampFormat) -> bytes:
        """Return the JSON object of the old values that differ from the new ones."""
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
        """Return the values of the primary key as JSON strings with commas between them."""
        forms = self._key_forms
        if len(forms) == 1 and isinstance(raw := row[forms[0][0]], bytes):
            return forms[0][1](raw)
        return b",".join([encode(raw) if isinstance(raw := row[at], bytes) else b'""' for at, encode in forms])

    def encode(self, position: int, raw: Value, timestamp_format: TimestampFormat) -> bytes:
        """Return the JSON of one value, as it is in `record`."""
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
        """Return the value of the JSON form; raises ValueError or RecursionError for JSON that Python cannot read."""
        if raw is None:
            return None
        if raw is UNCHANGED:
            return UNCHANGED.value
        decoder = self._decoders.get(position)
        if decoder is None:
            decoder = self._decoders[position] = self.types.decoder(self.columns[position].type_oid)
        return decoder(raw)


def _metadata_template(relation: Relation | Table, *, index: bytes, lsn: bytes) -> bytes:
    """Return the metadata between the sink's two parts, with placeholders for the values of each change."""
    names = [orjson.dumps(name).replace(b"%", b"%%") for name in (relation.name, relation.schema)]
    return (
        b'"table_name":%b,"commit_idx":%b,"commit_lsn":%b,"commit_timestamp":"%%b","idempotency_key":"%%b","table_schema":%b,'
        b'"transaction_annotations":%%b,"record_pks":[%%b],"enrichment":null,"database_name":'
    ) % (names[0], index, lsn, names[1])
