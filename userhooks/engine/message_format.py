"""Changes, and the messages that sinks send of them: one change and one sink in, the bytes of one message out. Pure.

The message is that of Sequin 0.14.6 (recorded), its keys in the recorded order and the columns by name. What single values look like is in
`postgres/pg_types.py`; which sink gets which change is decided in `routing.py`; requests are put together in `delivery/sink_delivery.py`.

The fast path: a `TableShape` holds for its table what all messages have in common; a `Change` renders its part once for all sinks; a
`SinkForm` holds the sink's part; `render` joins these.
"""

from __future__ import annotations

import struct
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson

from userhooks.engine.postgres.pg_types import Decoder, Encoder, TimestampFormat, TypeCatalog, verbatim
from userhooks.engine.postgres.pgoutput import UNCHANGED, DecodeError, Relation, Row, RowChange, Value, decode, encode_insert
from userhooks.engine.resources import Column, SinkResource, Table, TableName

ChangeAction: TypeAlias = Literal["insert", "update", "delete", "read"]

_LARGE = 100_000
"""Bytes of a change above which its rows and its JSON are made anew each time they are asked for: thousands may wait in memory"""
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
    """Return the metadata between the sink's two parts, with places for what changes have."""
    names = [orjson.dumps(name).replace(b"%", b"%%") for name in (relation.name, relation.schema)]
    return (
        b'"table_name":%b,"commit_idx":%b,"commit_lsn":%b,"commit_timestamp":"%%b","idempotency_key":"%%b","table_schema":%b,'
        b'"transaction_annotations":%%b,"record_pks":[%%b],"enrichment":null,"database_name":'
    ) % (names[0], index, lsn, names[1])


def size_of(row: Sequence[bytes | None]) -> int:
    """Return how many bytes the values of a row have."""
    return sum(map(len, filter(None, row)))


class Change:
    """One change of one row, or one row that a backfill read (`backfill_id` is set, and there is neither LSN nor index); `size` in bytes.

    `new` and `old` are the rows in Postgres' text form, decoded when asked for: an insert has no `old`, a delete no `new`; an update has
    `old` with REPLICA IDENTITY FULL, or when its key changed. Reading them raises DecodeError when the stream's bytes are malformed.
    """

    __slots__ = (
        "_event",
        "_new",
        "_old",
        "_parts",
        "_parts_format",
        "action",
        "annotations",
        "backfill_id",
        "commit_idx",
        "commit_lsn",
        "commit_us",
        "shape",
        "size",
    )

    def __init__(
        self, shape: TableShape, event: RowChange, commit_lsn: int, commit_idx: int, commit_us: int, annotations: bytes | None
    ) -> None:
        self.shape = shape
        self.action: ChangeAction = event.action
        self.commit_lsn = commit_lsn
        self.commit_idx = commit_idx
        self.commit_us = commit_us
        self.annotations = annotations
        self.backfill_id: str | None = None
        self.size = len(event.payload)
        self._event: RowChange | None = event
        self._new: Sequence[Value] | None = None
        self._old: Sequence[Value] | None = None
        self._parts: tuple[bytes, bytes, bytes] | None = None
        self._parts_format: TimestampFormat = "iso8601"

    @classmethod
    def read(cls, shape: TableShape, row: Sequence[bytes | None], backfill_id: str, read_us: int, size: int | None = None) -> Change:
        """Make the change for a row of a backfill, read at `read_us` (microseconds since 1970); `size` is that of its values, if known."""
        change = cls.__new__(cls)
        change.shape = shape
        change.action = "read"
        change.commit_lsn = change.commit_idx = 0
        change.commit_us = read_us
        change.annotations = None
        change.backfill_id = backfill_id
        change.size = size_of(row) if size is None else size
        change._event = None
        change._new = row
        change._old = None
        change._parts = None
        change._parts_format = "iso8601"
        return change

    @classmethod
    def of_payload(
        cls,
        shape: TableShape,
        payload: bytes,
        *,
        commit_lsn: int,
        commit_idx: int,
        commit_us: int,
        annotations: bytes | None,
        backfill_id: str | None,
    ) -> Change:
        """Make a change again from what `payload` was; raises DecodeError when that is not a change of a row."""
        event = decode(payload)
        if not isinstance(event, RowChange):
            raise DecodeError("not a change of a row")
        if backfill_id is None:
            return cls(shape, event, commit_lsn, commit_idx, commit_us, annotations)
        row = event.new
        return cls.read(shape, [v if isinstance(v, bytes) else None for v in row or ()], backfill_id, commit_us)

    @property
    def payload(self) -> bytes:
        """The change as pgoutput has it; a row that a backfill read is written as an insert."""
        return self._event.payload if self._event is not None else encode_insert(self.row)

    @property
    def new(self) -> Sequence[Value] | None:
        """The row as it is after the change; None for a delete."""
        if self._new is None and self._event is not None and self.action != "delete":
            row = self._event.new
            if row is None or len(row) != len(self.shape.columns):
                raise self._misfit(row)
            if self.size > _LARGE:
                return row
            self._new = row
        return self._new

    @property
    def old(self) -> Sequence[Value] | None:
        """The row as it was before the change, as far as the WAL carries it."""
        if self._old is None and self._event is not None and self.action != "insert":
            row = self._event.old
            if row is not None and len(row) != len(self.shape.columns):
                raise self._misfit(row)
            if self.size > _LARGE:
                return row
            self._old = row
        return self._old

    def _misfit(self, row: Row | None) -> DecodeError:
        shape = self.shape
        return DecodeError(f"a row of {len(row or ())} columns for {shape.schema}.{shape.name}, which has {len(shape.columns)}")

    @property
    def row(self) -> Sequence[Value]:
        """The row that the message shows: the new one, or of a delete the old one."""
        row = self._new
        if row is None:
            row = self.old if self.action == "delete" else self.new
            if row is None:
                raise DecodeError("a change without a row")
        return row

    @property
    def group(self) -> object:
        """What names the change's group where nothing else is asked for: its row. None without a key or a whole old row; `Groups` for an
        update of the key.
        """
        shape = self.shape
        positions = shape.key_positions
        if len(positions) != 1 or len(shape.group_keys) > 1:
            return self.group_by(*shape.group_keys)
        position = positions[0]
        value = (self._new or self.row)[position]
        if self.action == "update" and self._event is not None:
            old = self._event.old_value(position) if self._old is None else self._old[position]
            if old is not None and old != value:
                return self.group_by(positions)
        return shape.group_prefix + value if isinstance(value, bytes) else (shape.table, value)

    def group_by(self, *keys: Sequence[int]) -> object:
        """Return what names the change's group by each of these keys, before and after the change where the WAL tells both."""
        shape, row = self.shape, self._new or self.row
        groups = [shape.group_of(positions, row) for positions in keys]
        old = self.old if self.action == "update" else None
        if old is not None:
            groups += [shape.group_of(positions, old) for positions in keys if self.tells_old(positions)]
        found = dict.fromkeys(groups)
        return Groups(found) if len(found) > 1 else next(iter(found), None)

    def tells_old(self, positions: Sequence[int]) -> bool:
        """Whether the old row of an update has these columns: all of them, or those of the replica identity."""
        return self.replaced_row is not None or bool(positions and set(self.shape.key_positions).issuperset(positions))

    def raw(self, position: int) -> Value:
        """Return one column of `row`; of a row that nobody has asked for yet, no more than this is decoded."""
        if self._event is None or self._new is not None or self._old is not None:
            return self.row[position]
        return self._event.value(position)

    @property
    def replaced_row(self) -> Sequence[Value] | None:
        """The whole row before an update, which only REPLICA IDENTITY FULL provides."""
        event = self._event
        return self.old if event is not None and self.action == "update" and event.old_is_whole else None


class Groups(tuple[object, ...]):
    """Groups that a message belongs to at once: it comes after the earlier messages of each and before the later ones."""

    __slots__ = ()


CONSUMER_FIELDS = ("id", "name", "annotations")
DATABASE_FIELDS = ("id", "name", "hostname", "database", "annotations")
"""What `metadata.consumer` and `metadata.database` hold, in the order of messages"""

Transform: TypeAlias = Callable[["Change"], bytes]
"""What makes the JSON of a message in place of `render`; it raises FunctionRaised"""


class Routed(NamedTuple):
    """How a message's request differs from that of others: method, path below the endpoint's URL, and headers of its own."""

    method: str = "POST"
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()


RouteOf: TypeAlias = Callable[["Change"], Routed]
"""What says how a message is requested; it raises FunctionRaised"""


class SinkForm:
    """What a sink's messages have in common: `consumer` and `database` of their metadata, or the transform; the route, if any."""

    __slots__ = ("database_name", "head", "route", "timestamp_format", "transform")

    def __init__(
        self,
        consumer: Mapping[str, Any],
        database: Mapping[str, Any],
        timestamp_format: TimestampFormat,
        transform: Transform | None = None,
        route: RouteOf | None = None,
    ) -> None:
        self.head = b',"metadata":{"consumer":%b,"database":%b,' % (
            orjson.dumps({name: consumer[name] for name in CONSUMER_FIELDS}),
            orjson.dumps({name: database[name] for name in DATABASE_FIELDS}),
        )
        self.database_name = b"%b" % orjson.dumps(database["name"])  # a copy: of what orjson makes 4 kB stay taken for each sink
        self.timestamp_format = timestamp_format
        self.transform = transform
        self.route = route


def render(change: Change, form: SinkForm) -> bytes:
    """Return the JSON of one message; what does not depend on the sink is rendered once per change. Raises what the transform raises."""
    if form.transform is not None:
        return form.transform(change)
    parts = change._parts
    if parts is None or change._parts_format != form.timestamp_format:
        parts = _render_parts(change, form.timestamp_format)
        if change.size <= _LARGE:
            change._parts, change._parts_format = parts, form.timestamp_format
    record, metadata, end = parts
    return b"".join((b'{"record":', record, form.head, metadata, form.database_name, end))


def _render_parts(change: Change, timestamp_format: TimestampFormat) -> tuple[bytes, bytes, bytes]:
    """Render what comes before the sink's part, between that and the database's name, and after it."""
    shape = change.shape
    row = change.row
    if change.action == "update":
        old = change.replaced_row
        end = b'},"action":"update","changes":%b}' % (b"{}" if old is None else shape.changes(row, old, timestamp_format))
    else:
        end = _ENDS[change.action]
    return shape.record(row, timestamp_format), _metadata(change, shape.keys(row)), end


def _metadata(change: Change, keys: bytes) -> bytes:
    """Render the metadata between the sink's two parts."""
    shape = change.shape
    at, annotations = timestamp(change.commit_us), change.annotations or b"null"
    if change.backfill_id is not None:
        return shape.metadata_of_reads % (at, _idempotency_key(change), annotations, keys)
    index, lsn = change.commit_idx, change.commit_lsn
    identity = b2a_base64(b"%d:%d" % (lsn, index), newline=False)
    return shape.metadata % (index, lsn, at, identity, annotations, keys)


def _keys(change: Change) -> list[bytes]:
    """Return the values of the primary key as text."""
    row, positions = change.row, change.shape.key_positions
    if len(positions) == 1 and isinstance(raw := row[positions[0]], bytes):
        return [raw]
    return [raw if isinstance(raw := row[at], bytes) else b"" for at in positions]


def _idempotency_key(change: Change) -> bytes:
    if change.backfill_id is None:
        identity = b"%d:%d" % (change.commit_lsn, change.commit_idx)
    else:
        identity = b":".join([change.backfill_id.encode(), *_keys(change)])
    return b2a_base64(identity, newline=False)


_ENDS = {action: b'},"action":"%b","changes":null}' % action.encode() for action in ("insert", "delete", "read")}


@lru_cache(maxsize=64)  # the same for all changes of a transaction
def timestamp(microseconds: int) -> bytes:
    """Return microseconds since 1970 as ISO 8601 in UTC with six digits, like 2026-11-23T17:44:38.478467Z."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return b"%b.%06dZ" % (_second(seconds), fraction)


@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def group_of(sink: SinkResource, change: Change) -> object:
    """Return the group of a sink's message, or None when it has none: by row, by the sink's columns for that table, or not at all.

    A `tables` entry without columns, no replica identity and `message_grouping: false` mean no group (Sequin contract, 7.3).
    """
    if not sink.message_grouping:
        return None
    for entry in sink.tables:
        if entry.table == change.shape.table:
            return change.group if entry.group_column_names is None else group_key(change, entry.group_column_names)
    return change.group


def group_key(change: Change, columns: Sequence[str]) -> object:
    """Return what names the message's group by `columns`: table and their values; None without any column.

    A column that the table does not have counts as null. (Sequin contract, 7.3)
    """
    if not columns:
        return None
    shape = change.shape
    places = [shape.positions.get(name) for name in columns]

    def group_of(row: Sequence[Value]) -> tuple[object, ...]:
        return (shape.table, *[None if at is None else row[at] for at in places])

    group = group_of(change.row)
    old = change.old if change.action == "update" and change.tells_old([at for at in places if at is not None]) else None
    if old is None or (former := group_of(old)) == group:
        return group
    return Groups((former, group))


# --- what functions see ------------------------------------------------------------------------------------------------------

See: TypeAlias = Callable[[TableShape, int, Value], Any]
"""Makes the value of a column, given its position and text"""


def record_of(change: Change, see: See = TableShape.decode) -> dict[str, Any]:
    """Return the record as a map, by default with the values of its JSON."""
    shape = change.shape
    return {column.name: see(shape, i, raw) for i, (column, raw) in enumerate(zip(shape.columns, change.row, strict=True))}


def changes_of(change: Change, see: See = TableShape.decode) -> dict[str, Any] | None:
    """Return `changes` as a map, by default with the values of its JSON: None but for an update."""
    if change.action != "update":
        return None
    old = change.replaced_row
    if old is None:
        return {}
    shape, row = change.shape, change.row
    return {column.name: see(shape, i, old[i]) for i, column in enumerate(shape.columns) if old[i] != row[i]}


METADATA: Mapping[str, Callable[[Change], Any]] = {
    "table_name": lambda change: change.shape.name,
    "commit_idx": lambda change: change.commit_idx if change.backfill_id is None else None,
    "commit_lsn": lambda change: change.commit_lsn if change.backfill_id is None else None,
    "commit_timestamp": lambda change: timestamp(change.commit_us).decode(),
    "idempotency_key": lambda change: _idempotency_key(change).decode(),
    "table_schema": lambda change: change.shape.schema,
    "transaction_annotations": lambda change: None if change.annotations is None else orjson.loads(change.annotations),
    "record_pks": lambda change: [key.decode(errors="replace") for key in _keys(change)],
    "enrichment": lambda change: None,
}
"""The part of `metadata` that depends on the change, each field with what reads its value as a function sees it"""
