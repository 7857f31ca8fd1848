"""What a backfill asks its table: a page of rows, rows by key, how many there are. Pure: SQL is made here and run in `backfill.py`.

Pages are found by keyset: rows behind the last one, in the order of the primary key, or of (sort column, primary key). Values go to and fro
as Postgres' own text, so that every type that has an order can be a key, and each comparison is that of the column, with its collation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from psycopg import sql

from userhooks.engine.functions import Bound
from userhooks.engine.rendering import TableShape
from userhooks.engine.resources import Backfill, Table
from userhooks.engine.routing import wal_forms

Cursor: TypeAlias = tuple[str, ...]
"""The values of `PageQuery.order` in one row, as text"""
Query: TypeAlias = tuple[sql.Composed, list[str]]
"""SQL and its parameters"""
Only: TypeAlias = tuple[str, tuple[str | None, ...]]
"""A column and the texts, or null, of which it must have one; no row is wanted when there is none"""

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANGES = {20: (-(2**63), 2**63), 21: (-(2**15), 2**15), 23: (-(2**31), 2**31), 26: (0, 2**32)}
"""int8, int2, int4, oid: the least value, and what is above the greatest"""
_TEXTS = frozenset({25, 1042, 1043})
_UUID_OID = 2950


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The queries of one backfill. With a `sort_column` only rows from `start` on are read; its nulls are never read."""

    table: Table
    sort_column: str | None = None
    start: str | None = None

    @classmethod
    def of(cls, backfill: Backfill, table: Table) -> PageQuery:
        """Make the queries for a backfill of the table as it is now."""
        return cls(table, backfill.sort_column, backfill.start_position)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns by which rows are read, the primary key last."""
        return (*((self.sort_column,) if self.sort_column is not None else ()), *self.table.primary_key)

    @property
    def problem(self) -> str | None:
        """Why the table cannot be read, as the end of a sentence; None when it can."""
        return unreadable(self.table, self.sort_column)

    def page(self, after: Cursor | None, only: Only | None, limit: int) -> Query:
        """Ask for the rows behind `after`, or for the first ones."""
        where, params = self._where(only, start=after is None)
        if after is not None:
            where.append(sql.SQL("({}) > ({})").format(_names(self.order), _marks(after)))
            params += after
        tail = sql.SQL(" order by {} limit {}").format(_names(self.order), sql.Literal(limit))
        return self._select(_names(c.name for c in self.table.columns), where) + tail, params

    def rows(self, keys: Sequence[Cursor], only: Only | None) -> Query:
        """Ask for those rows that have one of these primary keys."""
        where, params = self._where(only, start=True)
        listed = sql.SQL(", ").join(sql.SQL("({})").format(_marks(key)) for key in keys)
        where.append(sql.SQL("({}) in ({})").format(_names(self.table.primary_key), listed))
        params += [value for key in keys for value in key]
        return self._select(_names(c.name for c in self.table.columns), where), params

    def count(self, only: Only | None) -> Query:
        """Ask how many rows there are to read, from the beginning."""
        where, params = self._where(only, start=True)
        return sql.SQL("select count(*) from {}{}").format(self._from, _all_of(where)), params

    def _where(self, only: Only | None, *, start: bool) -> tuple[list[sql.Composable], list[str]]:
        where: list[sql.Composable] = []
        params: list[str] = []
        if self.table.row_filter is not None:
            where.append(sql.SQL("({})").format(sql.SQL(self.table.row_filter.replace("%", "%%"))))
        if self.sort_column is not None and self.start is not None and start:
            where.append(sql.SQL("{} >= %s").format(sql.Identifier(self.sort_column)))
            params.append(self.start)
        if only is not None:
            column, values = only
            tests = [sql.SQL("{} is null" if v is None else "{} = %s").format(sql.Identifier(column)) for v in values]
            where.append(sql.SQL("({})").format(sql.SQL(" or ").join(tests)) if tests else sql.SQL("false"))
            params += [v for v in values if v is not None]
        return where, params

    def _select(self, columns: sql.Composable, where: Sequence[sql.Composable]) -> sql.Composed:
        return sql.SQL("select (select pg_current_snapshot()::text), {} from {}{}").format(columns, self._from, _all_of(where))

    @property
    def _from(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self.table.name)


def unreadable(table: Table, sort_column: str | None = None) -> str | None:
    """Return why a table cannot be read in pages, as the end of a sentence; None when it can."""
    columns = {column.name for column in table.columns}
    if not table.primary_key:
        return "it has no primary key, by which a backfill finds its place; add one"
    if not columns.issuperset(table.primary_key):
        return "the publication leaves out columns of its primary key; add them to its column list"
    if sort_column is not None and sort_column not in columns:
        return f"it has no column {sort_column!r} to sort by"
    return None


def only_rows(shape: TableShape, bound: Bound | None) -> Only | None:
    """Return what SQL may leave out by the one value that a filter demands of a column; None when every row has to be asked about.

    Every row that the filter accepts is among those; the filter is still asked about each.
    """
    if bound is not None and bound.never:
        return "", ()
    if bound is None or bound.equality is None:
        return None
    forms = wal_forms(shape, bound.equality)
    column = bound.equality.column
    if forms is None:
        return None
    if column not in shape.positions:
        return column, ()
    type_oid = shape.types.base(shape.columns[shape.positions[column]].type_oid)
    if type_oid not in _RANGES and type_oid not in _TEXTS and type_oid != _UUID_OID:
        return None
    return column, tuple(_text(form) for form in forms if form is None or (isinstance(form, bytes) and _exists(form, type_oid)))


def _text(form: object) -> str | None:
    return form.decode() if isinstance(form, bytes) else None


def _exists(form: bytes, type_oid: int) -> bool:
    """Whether a column of the type can have this text; Postgres would refuse to compare with another."""
    try:
        text = form.decode()
    except UnicodeDecodeError:
        return False
    if type_oid in _RANGES:
        least, above = _RANGES[type_oid]
        return len(text) <= 20 and _WHOLE_NUMBER.fullmatch(text) is not None and least <= int(text) < above
    return "\0" not in text if type_oid in _TEXTS else _UUID.fullmatch(text) is not None


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _marks(values: Iterable[object]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Placeholder() for _ in values)


def _all_of(conditions: Sequence[sql.Composable]) -> sql.Composed:
    if not conditions:
        return sql.Composed([])
    return sql.SQL(" where ") + sql.SQL(" and ").join(conditions)
