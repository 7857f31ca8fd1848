"""A change to a row, or a row read by a backfill, and the group that determines its order. Pure.

`message_format.py` turns a change into a message; `table_shape.py` describes its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from userhooks.engine.postgres.pg_types import TimestampFormat
from userhooks.engine.postgres.pgoutput import DecodeError, Row, RowChange, Value, decode, encode_insert
from userhooks.engine.resources import SinkResource
from userhooks.engine.table_shape import TableShape

ChangeAction: TypeAlias = Literal["insert", "update", "delete", "read"]

LARGE_BYTES = 100_000
"""Size in bytes above which a change's decoded rows and JSON are not cached, since thousands of changes may be pending in memory."""


def size_of(row: Sequence[bytes | None]) -> int:
    """Return the total size of a row's values, in bytes."""
    return sum(map(len, filter(None, row)))


class Change:
    """A change to a row, or a row read by a backfill; `size` is in bytes.

    A row read by a backfill has a `backfill_id`; its LSN and index are 0. `new` and `old` are the rows in Postgres' text format, decoded on
    first access. An insert has no `old`, and a delete has no `new`. An update has `old` only if the table has REPLICA IDENTITY FULL or the
    row's key changed. Reading `new` or `old` raises DecodeError if the stream's bytes are malformed.
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
        """Create a change for a row that a backfill read at `read_us` (microseconds since 1970); `size` is computed if not given."""
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
        """Recreate a change from its `payload`; raises DecodeError if the payload is not a change to a row."""
        event = decode(payload)
        if not isinstance(event, RowChange):
            raise DecodeError("not a change to a row")
        if backfill_id is None:
            return cls(shape, event, commit_lsn, commit_idx, commit_us, annotations)
        row = event.new
        return cls.read(shape, [v if isinstance(v, bytes) else None for v in row or ()], backfill_id, commit_us)

    @property
    def payload(self) -> bytes:
        """The change in pgoutput's format; a row read by a backfill is encoded as an insert."""
        return self._event.payload if self._event is not None else encode_insert(self.row)

    @property
    def new(self) -> Sequence[Value] | None:
        """The row after the change; None for a delete."""
        if self._new is None and self._event is not None and self.action != "delete":
            row = self._event.new
            if row is None or len(row) != len(self.shape.columns):
                raise self._misfit(row)
            if self.size > LARGE_BYTES:
                return row
            self._new = row
        return self._new

    @property
    def old(self) -> Sequence[Value] | None:
        """The row before the change, as far as the WAL contains it; None for an insert."""
        if self._old is None and self._event is not None and self.action != "insert":
            row = self._event.old
            if row is not None and len(row) != len(self.shape.columns):
                raise self._misfit(row)
            if self.size > LARGE_BYTES:
                return row
            self._old = row
        return self._old

    def _misfit(self, row: Row | None) -> DecodeError:
        shape = self.shape
        return DecodeError(f"a row of {len(row or ())} columns for {shape.schema}.{shape.name}, which has {len(shape.columns)}")

    @property
    def row(self) -> Sequence[Value]:
        """The row that the message shows: the new row, or the old row for a delete."""
        row = self._new
        if row is None:
            row = self.old if self.action == "delete" else self.new
            if row is None:
                raise DecodeError("the change has no row")
        return row

    @property
    def group(self) -> object:
        """The change's default group, which identifies its row.

        None if the table has neither a key nor REPLICA IDENTITY FULL; `Groups` if an update changed the key.
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
        """Return the change's group by each of `keys`, as `Groups` if there are several.

        An update also belongs to the groups of its old row, as far as the WAL contains the old values.
        """
        shape, row = self.shape, self._new or self.row
        groups = [shape.group_of(positions, row) for positions in keys]
        old = self.old if self.action == "update" else None
        if old is not None:
            groups += [shape.group_of(positions, old) for positions in keys if self.tells_old(positions)]
        distinct = dict.fromkeys(groups)
        return Groups(distinct) if len(distinct) > 1 else next(iter(distinct), None)

    def tells_old(self, positions: Sequence[int]) -> bool:
        """Return whether an update's old row has these columns. A complete old row has all columns, any other only the key columns."""
        return self.replaced_row is not None or bool(positions and set(self.shape.key_positions).issuperset(positions))

    def raw(self, position: int) -> Value:
        """Return one column of `row`, without decoding the others if the row has not been decoded yet."""
        if self._event is None or self._new is not None or self._old is not None:
            return self.row[position]
        return self._event.value(position)

    @property
    def replaced_row(self) -> Sequence[Value] | None:
        """The complete row before an update, which only REPLICA IDENTITY FULL provides; None otherwise."""
        event = self._event
        return self.old if event is not None and self.action == "update" and event.old_is_whole else None


class Groups(tuple[object, ...]):
    """The groups of a message that belongs to several. It is sent after all earlier messages of each group and before all later ones."""

    __slots__ = ()


def grouping(sink: SinkResource) -> Callable[[Change], object]:
    """Return the function that determines a change's group: by row, or by the columns that the sink configures for the table.

    The function returns None if the change has no group. This is the case if its table's entry in `tables` has no
    columns, the table has no replica identity, or `message_grouping` is false (Sequin contract, 7.3).
    """
    if not sink.message_grouping:
        return lambda _: None
    columns = {entry.table: entry.group_column_names for entry in sink.tables if entry.group_column_names is not None}
    if not columns:
        return attrgetter("group")

    def group_of(change: Change) -> object:
        names = columns.get(change.shape.table)
        return change.group if names is None else group_key(change, names)

    return group_of


def group_key(change: Change, columns: Sequence[str]) -> object:
    """Return the group key of a change: the table and the values of `columns`, or None if `columns` is empty.

    A column that the table does not have counts as null (Sequin contract, 7.3).
    """
    if not columns:
        return None
    shape = change.shape
    positions = [shape.positions.get(name) for name in columns]

    def group_of(row: Sequence[Value]) -> tuple[object, ...]:
        return (shape.table, *[None if at is None else row[at] for at in positions])

    group = group_of(change.row)
    old = change.old if change.action == "update" and change.tells_old([at for at in positions if at is not None]) else None
    if old is None or (former := group_of(old)) == group:
        return group
    return Groups((former, group))


See: TypeAlias = Callable[[TableShape, int, Value], Any]
"""Returns the value of a column, given the table's shape, the column's position, and the value as text."""


def record_of(change: Change, see: See = TableShape.decode) -> dict[str, Any]:
    """Return `record` as a dict, by default with the values that its JSON parses to."""
    shape = change.shape
    return {column.name: see(shape, i, raw) for i, (column, raw) in enumerate(zip(shape.columns, change.row, strict=True))}


def changes_of(change: Change, see: See = TableShape.decode) -> dict[str, Any] | None:
    """Return `changes` as a dict like `record_of`; None unless the change is an update."""
    if change.action != "update":
        return None
    old = change.replaced_row
    if old is None:
        return {}
    shape, row = change.shape, change.row
    return {column.name: see(shape, i, old[i]) for i, column in enumerate(shape.columns) if old[i] != row[i]}
