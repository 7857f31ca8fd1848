"""Layout of a table for a backfill: queries, shape, and positions of the key and order columns. No I/O; SQL is in `page_query.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from userhooks.engine.backfill.page_query import Cursor, PageQuery
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.pgoutput import Value
from userhooks.engine.table_shape import TableShape

Key: TypeAlias = tuple[Value, ...]
"""The values of a row's key columns, as text; never UNCHANGED, because the WAL always contains the key."""
Row: TypeAlias = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class TableLayout:
    """A table's column positions: `key` lists the columns that identify a row, and `order` those that define the reading order."""

    query: PageQuery
    shape: TableShape
    key: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, query: PageQuery, types: TypeCatalog) -> TableLayout:
        """Return the layout of the query's table."""
        shape = TableShape.of_table(query.table, types)
        key = tuple(shape.positions[name] for name in query.table.key)
        return cls(query, shape, key, tuple(shape.positions[name] for name in query.order))

    def cursor_of(self, row: Row) -> Cursor:
        """Return the cursor that points at a row."""
        return texts(tuple([row[i] for i in self.order]))


def texts(key: Key) -> Cursor:
    """Return a key as text parameters for a query."""
    return tuple(value.decode() if isinstance(value, bytes) else "" for value in key)
