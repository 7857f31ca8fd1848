"""SQL of a backfill: a page of rows, rows by key, the number of rows. No I/O; `run.py` executes the queries.

Pages use keyset pagination: each page continues after the last row of the previous one, in the order of the primary key or of
(sort column, primary key). Key values are exchanged in Postgres' text form, so any sortable type can be a key, and Postgres compares them
with the column's type and collation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from psycopg import sql

from userhooks.engine.functions import Bound
from userhooks.engine.resources import BackfillResource, Table
from userhooks.engine.routing import wal_forms
from userhooks.engine.table_shape import TableShape

Cursor: TypeAlias = tuple[str, ...]
"""The values of the columns in `PageQuery.order` for one row, as text."""
Query: TypeAlias = tuple[sql.Composed, list[str]]
"""SQL and its parameters, for a raw cursor because names of tables and columns may contain `%`."""
Only: TypeAlias = tuple[str, tuple[str | None, ...]]
"""A column, and the values, as text or None, to which the rows are limited. If there are no values, no rows are read."""

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANGES = {20: (-(2**63), 2**63), 21: (-(2**15), 2**15), 23: (-(2**31), 2**31), 26: (0, 2**32)}
"""Maps the oids of int8, int2, int4, and oid to (lowest value, highest value + 1)."""
_TEXTS = frozenset({25, 1042, 1043})
_UUID_OID = 2950


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The queries of one backfill.

    If `sort_column` is set, only rows from `start` onward are read, and never rows in which that column is null.
    """

    table: Table
    sort_column: str | None = None
    start: str | None = None

    @classmethod
    def of(cls, backfill: BackfillResource, table: Table) -> PageQuery:
        """Return the queries of a backfill for the current definition of its table."""
        return cls(table, backfill.sort_column, backfill.start_position)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that define the reading order: the sort column, if any, then the table's key."""
        return (*((self.sort_column,) if self.sort_column is not None else ()), *self.table.key)

    def page(self, after: Cursor | None, only: Only | None, limit: int, *, few: bool = False) -> Query:
        """Return the query for the `limit` rows after the cursor `after`, or for the first rows if it is None.

        Set `few` if only a few rows are expected to match `only`.
        """
        params: list[str] = []
        where = self._where(only, params, start=after is None)
        if after is not None:
            where.append(sql.SQL("({}) > ({})").format(_names(self.order), _marks(after, params)))
        tail = sql.SQL(" order by {} limit {}").format(_names(self.order), sql.Literal(limit))
        if few and only is not None and self._finds_unsorted(only[0]):
            # Postgres assumes that all values outside its list of most common values are equally common. Because of the LIMIT, it would
            # search for a rare value along the primary key, through the whole table. OFFSET 0 hides the LIMIT from the inner query.
            page = sql.SQL("(select {} from {}{} offset 0) page").format(self._columns, self._from, _all_of(where))
            return sql.SQL("select (select pg_current_snapshot()::text), page.* from ") + page + tail, params
        return self._select(where) + tail, params

    def _finds_unsorted(self, column: str) -> bool:
        """Return whether an index finds the rows with a value of the column, but no index yields them in reading order."""
        on_column = [index for index in self.table.indexes if index[0] == column]
        return bool(on_column) and not any(index[1 : 1 + len(self.order)] == self.order for index in on_column)

    def rows(self, keys: Sequence[Cursor], only: Only | None) -> Query:
        """Return the query for the rows with these keys."""
        params: list[str] = []
        where = self._where(only, params, start=True)
        key_list = sql.SQL(", ").join(sql.SQL("({})").format(_marks(key, params)) for key in keys)
        where.append(sql.SQL("({}) in ({})").format(_names(self.table.key), key_list))
        return self._select(where), params

    def count(self, only: Only | None) -> Query:
        """Return the query for the number of rows to read, from the start of the table."""
        params: list[str] = []
        where = self._where(only, params, start=True)
        return sql.SQL("select count(*) from {}{}").format(self._from, _all_of(where)), params

    def _where(self, only: Only | None, params: list[str], *, start: bool) -> list[sql.Composable]:
        where: list[sql.Composable] = []
        if self.table.row_filter is not None:
            where.append(sql.SQL("({})").format(sql.SQL(self.table.row_filter)))
        if self.sort_column is not None and self.start is not None and start:
            where.append(sql.SQL("{} >= {}").format(sql.Identifier(self.sort_column), _marks((self.start,), params)))
        if only is not None:
            column = sql.Identifier(only[0])
            tests = [
                sql.SQL("{} is null").format(column) if v is None else sql.SQL("{} = {}").format(column, _marks((v,), params))
                for v in only[1]
            ]
            where.append(sql.SQL("({})").format(sql.SQL(" or ").join(tests)) if tests else sql.SQL("false"))
        return where

    def _select(self, where: Sequence[sql.Composable]) -> sql.Composed:
        return sql.SQL("select (select pg_current_snapshot()::text), {} from {}{}").format(self._columns, self._from, _all_of(where))

    @property
    def _columns(self) -> sql.Composed:
        return _names(column.name for column in self.table.columns)

    @property
    def _from(self) -> sql.Composed:
        """The table without tables that inherit from it, whose changes are published under their own names."""
        only = sql.SQL("" if self.table.partitioned else "only ")
        return only + sql.Identifier(self.table.schema, self.table.name)


def only_rows(shape: TableShape, bound: Bound | None) -> Only | None:
    """Return the column values to which queries can be limited if the filter requires one value of a column; None for no limit.

    The limited rows include every row that the filter accepts. The filter is still applied to each row.
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
    """Return whether `form` is valid text for the type; Postgres would reject a comparison with invalid text."""
    try:
        text = form.decode()
    except UnicodeDecodeError:
        return False
    if type_oid in _RANGES:
        lowest, end = _RANGES[type_oid]
        return len(text) <= 20 and _WHOLE_NUMBER.fullmatch(text) is not None and lowest <= int(text) < end
    return "\0" not in text if type_oid in _TEXTS else _UUID.fullmatch(text) is not None


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _marks(values: Sequence[str], params: list[str]) -> sql.Composed:
    """Append values to `params`, and return their placeholders."""
    params += values
    return sql.SQL(", ").join(sql.SQL(f"${n}") for n in range(len(params) - len(values) + 1, len(params) + 1))


def _all_of(conditions: Sequence[sql.Composable]) -> sql.Composed:
    if not conditions:
        return sql.Composed([])
    return sql.SQL(" where ") + sql.SQL(" and ").join(conditions)
