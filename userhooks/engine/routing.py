"""Which sinks a change is owed to. Pure.

A sink whose filter demands that a column has one value is found by that value: a change costs one look-up, however many such sinks there
are. Every other sink's filter is asked about each change of its tables. What filters are is in `functions/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from userhooks.engine.change import Change
from userhooks.engine.functions.filters import Bound, Judge
from userhooks.engine.functions.folding import Equality
from userhooks.engine.functions.program import FunctionRaised
from userhooks.engine.postgres.pg_types import BOOLEAN, INTEGERS, NUMERIC
from userhooks.engine.postgres.pgoutput import UNCHANGED, Value
from userhooks.engine.resources import Action, Source
from userhooks.engine.table_shape import TableShape

Failed: TypeAlias = tuple["Route", str]
"""A sink whose filter raised, and what it said: it is owed the message, which fails visibly and is not delivered."""


class Route:
    """One sink as routing sees it: `target` is whatever takes its messages; changes with a commit LSN below `start_lsn` are not its own.

    `broken` says why the sink's filter is not usable; then it gets nothing, and every change fails.
    """

    __slots__ = ("actions", "bound", "broken", "sink_id", "source", "start_lsn", "target")

    def __init__(
        self,
        sink_id: str,
        target: Any,
        source: Source,
        actions: Iterable[Action],
        start_lsn: int,
        bound: Bound | None,
        broken: str | None,
    ) -> None:
        self.sink_id = sink_id
        self.target = target
        self.source = source
        self.actions = frozenset(actions)
        self.start_lsn = start_lsn
        self.bound = bound
        self.broken = broken


class Router:
    """All routes, by sink."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._tables: dict[TableShape, TableRoutes] = {}

    def add(self, route: Route) -> None:
        """Add a sink's route, or replace the one it has."""
        self.remove(route.sink_id)
        self._routes[route.sink_id] = route
        for table in self._tables.values():
            table.add(route)

    def remove(self, sink_id: str) -> None:
        """Remove a sink's route, if it has one."""
        route = self._routes.pop(sink_id, None)
        if route is not None:
            for table in self._tables.values():
                table.remove(route)

    def route(self, sink_id: str) -> Route | None:
        """Return a sink's route; None for one that is disabled."""
        return self._routes.get(sink_id)

    def starts(self) -> dict[str, int]:
        """Return the LSN from which each sink is owed changes."""
        return {sink_id: route.start_lsn for sink_id, route in self._routes.items()}

    def for_table(self, shape: TableShape) -> TableRoutes:
        """Return the routes that concern a table; they stay up to date for as long as its shape is this one."""
        found = self._tables.get(shape)
        if found is None:
            for former in [one for one in self._tables if one.table == shape.table]:
                del self._tables[former]
            found = self._tables[shape] = TableRoutes(shape, self._routes.values())
        return found


class TableRoutes:
    """The routes of one table: those that are found by a column's value, and those that have to be asked."""

    __slots__ = ("_asked", "_found", "_was_wanted", "shape")

    def __init__(self, shape: TableShape, routes: Iterable[Route]) -> None:
        self.shape = shape
        self._found: dict[int, dict[Value, dict[str, Route]]] = {}
        """by the column's position, then by its text in the WAL, then by sink"""
        self._asked: dict[str, Route] = {}
        self._was_wanted = False
        """the change before: the next one is then, as a rule, wanted as well, and decoded as a whole at once"""
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Add a route, if it concerns the table."""
        if not route.source.covers(*self.shape.table) or (route.bound is not None and route.bound.never):
            return
        place = self._place(route)
        if place is None:
            self._asked[route.sink_id] = route
            return
        position, forms = place
        for form in forms:
            self._found.setdefault(position, {}).setdefault(form, {})[route.sink_id] = route

    def remove(self, route: Route) -> None:
        """Remove a route that may have been added."""
        self._asked.pop(route.sink_id, None)
        place = self._place(route)
        if place is None:
            return
        position, forms = place
        index = self._found.get(position, {})
        for form in forms:
            bucket = index.get(form, {})
            bucket.pop(route.sink_id, None)
            if not bucket:
                index.pop(form, None)
        if not index:
            self._found.pop(position, None)

    def _place(self, route: Route) -> tuple[int, tuple[Value, ...]] | None:
        """Return the column and its texts by which the route is found; None when its filter has to be asked."""
        equality = route.bound.equality if route.bound is not None else None
        if equality is None:
            return None
        forms = wal_forms(self.shape, equality)
        return None if forms is None else (self.shape.positions.get(equality.column, 0), forms)

    def match(self, change: Change) -> tuple[list[Route], list[Failed]]:
        """Return the routes that a change must be delivered to, and those whose filter raised; raises DecodeError for malformed rows."""
        routes: list[Route] = []
        failed: list[Failed] = []
        action, lsn = change.action, change.commit_lsn
        row = change.row if self._was_wanted else None
        for position, index in self._found.items():
            bucket = index.get(change.raw(position) if row is None else row[position])
            if bucket is not None:
                for route in bucket.values():  # found by the equality, so only the rest of the filter is asked
                    bound = route.bound
                    if bound is not None and action in route.actions and lsn >= route.start_lsn:
                        rest = bound.rest if action == "update" else bound.rest_of_others
                        if rest is None:
                            routes.append(route)
                        else:
                            _ask(route, rest, change, routes, failed)
        for route in self._asked.values():
            if action in route.actions and lsn >= route.start_lsn:
                if route.broken is not None:
                    failed.append((route, route.broken))
                elif route.bound is None:
                    routes.append(route)
                else:
                    _ask(route, route.bound.accepts, change, routes, failed)
        self._was_wanted = bool(routes)
        return routes, failed


def _ask(route: Route, judge: Judge, change: Change, routes: list[Route], failed: list[Failed]) -> None:
    """Put the route where the filter says."""
    try:
        if judge(change):
            routes.append(route)
    except FunctionRaised as exc:
        failed.append((route, str(exc)))


def wal_forms(shape: TableShape, equality: Equality) -> tuple[Value, ...] | None:
    """Return every text (or null) of the column in the WAL for which the equality holds; None when they cannot be listed.

    They can when the column's type has one text for each value. Kinds stay apart: the text "1", the number 1 and true are three things.
    A column that the table does not have is nil to a filter: then the equality holds for all rows, which cannot be listed, or for none.
    """
    types = shape.types
    wanted = equality.value
    if not all(types.is_scalar(shape.columns[shape.positions[name]].type_oid) for name in equality.scalars if name in shape.positions):
        return None
    position = shape.positions.get(equality.column)
    if position is None:
        return None if wanted == ("" if equality.as_text else None) else ()
    type_oid = shape.columns[position].type_oid
    if not types.is_scalar(type_oid):
        return None
    base = types.base(type_oid)
    if base == NUMERIC or (equality.types is not None and base not in equality.types):
        return None
    if equality.as_text and not isinstance(wanted, str):
        return ()
    if not equality.as_text and wanted is None:
        return (None,)
    nulls: tuple[Value, ...] = (None,) if equality.as_text and wanted == "" else ()
    if base in INTEGERS and not equality.as_text:
        is_whole = type(wanted) is int or (type(wanted) is float and wanted.is_integer())
        return (b"%d" % int(wanted),) if is_whole else ()
    if base == BOOLEAN:
        words = {"true": True, "false": False}
        flag = words.get(wanted) if equality.as_text else wanted
        return (b"t" if flag else b"f",) if isinstance(flag, bool) else nulls
    if base in INTEGERS or types.is_text(type_oid):
        if not isinstance(wanted, str):
            return ()
        if "\ufffd" in wanted:
            return None  # also stands for bytes that are no UTF-8
        unchanged: tuple[Value, ...] = (UNCHANGED,) if wanted == UNCHANGED.value else ()
        return (wanted.encode(errors="surrogatepass"), *nulls, *unchanged)
    return None
