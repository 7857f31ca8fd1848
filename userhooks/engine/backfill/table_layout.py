"""A table as a backfill reads it: its queries, its shape, and where key and order are in a row. No I/O; SQL is in `page_query.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from userhooks.engine.backfill.page_query import Cursor, PageQuery
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.pgoutput import Value
from userhooks.engine.table_shape import TableShape

Key: TypeAlias = tuple[Value, ...]
"""The key's columns of a row as text; never UNCHANGED, since a key is always in the log"""
Row: TypeAlias = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Positions in a row: `key` of the columns that identify it, `order` of those by which rows are read."""

    query: PageQuery
    shape: TableShape
    key: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, query: PageQuery, types: TypeCatalog) -> TableLayout:
        """Make the layout of a query's table."""
        shape = TableShape.of_table(query.table, types)
        key = tuple(shape.positions[name] for name in query.table.key)
        return cls(query, shape, key, tuple(shape.positions[name] for name in query.order))

    def cursor_of(self, row: Row) -> Cursor:
        """Return a row's place in the order of reading."""
        return texts(tuple([row[i] for i in self.order]))


def texts(key: Key) -> Cursor:
    """Return a key as query parameters."""
    return tuple(value.decode() if isinstance(value, bytes) else "" for value in key)
