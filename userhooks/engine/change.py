"""One change of one row, or one row that a backfill read, and the group that orders it. Pure.

How it becomes a message is in `message_format.py`, what its table looks like in `table_shape.py`.
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
"""Bytes of a change above which its rows and its JSON are made anew each time they are asked for: thousands may wait in memory"""


def size_of(row: Sequence[bytes | None]) -> int:
    """Return the total size of a row's values in bytes."""
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
            if self.size > LARGE_BYTES:
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
            if self.size > LARGE_BYTES:
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


def grouping(sink: SinkResource) -> Callable[[Change], object]:
    """Return what names the group of a sink's message: by row, by the sink's columns for that table, or None for no group.

    A `tables` entry without columns, no replica identity and `message_grouping: false` mean no group (Sequin contract, 7.3).
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
    """Return the key of the message's group: the table and its values of `columns`, or None without any column.

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
