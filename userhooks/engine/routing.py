"""Routing: finds the sinks that a change must be delivered to. Pure.

Sinks whose filter requires a column to equal a value are indexed by that value, so a change needs one lookup however many such sinks there
are. All other filters are evaluated for each change to their tables. Filters are in `functions/`.
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
"""A route whose filter raised, and the error. The message stays pending for its sink but is not sent; each attempt fails with the error."""


class Route:
    """One sink as routing sees it: `target` takes its messages, and changes with a commit LSN below `start_lsn` are skipped.

    `broken` is the reason why the sink's filter is unusable, or None. If it is set, every change fails with it, and nothing is delivered.
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
    """The routes of all sinks."""

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
        """Return a sink's route; None if the sink is disabled."""
        return self._routes.get(sink_id)

    def starts(self) -> dict[str, int]:
        """Return each sink's start LSN by sink id; a sink gets no changes with a lower commit LSN."""
        return {sink_id: route.start_lsn for sink_id, route in self._routes.items()}

    def for_table(self, shape: TableShape) -> TableRoutes:
        """Return the routes of a table, which are kept up to date when sinks change.

        When the table's shape changes, call this again with the new shape.
        """
        routes = self._tables.get(shape)
        if routes is None:
            for former in [known for known in self._tables if known.table == shape.table]:
                del self._tables[former]
            routes = self._tables[shape] = TableRoutes(shape, self._routes.values())
        return routes


class TableRoutes:
    """The routes of one table: some indexed by a column's value, the others with filters to evaluate."""

    __slots__ = ("_indexed", "_matched_before", "_unindexed", "shape")

    def __init__(self, shape: TableShape, routes: Iterable[Route]) -> None:
        self.shape = shape
        self._indexed: dict[int, dict[Value, dict[str, Route]]] = {}
        """column position -> value as text in the WAL -> sink id -> route"""
        self._unindexed: dict[str, Route] = {}
        self._matched_before = False
        """whether the previous change matched a route; if so, the next one probably does too, so its row is decoded all at once"""
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Add a route unless it can never match a change to this table."""
        if not route.source.covers(*self.shape.table) or (route.bound is not None and route.bound.never):
            return
        place = self._place(route)
        if place is None:
            self._unindexed[route.sink_id] = route
            return
        position, forms = place
        for form in forms:
            self._indexed.setdefault(position, {}).setdefault(form, {})[route.sink_id] = route

    def remove(self, route: Route) -> None:
        """Remove a route if it was added."""
        self._unindexed.pop(route.sink_id, None)
        place = self._place(route)
        if place is None:
            return
        position, forms = place
        index = self._indexed.get(position, {})
        for form in forms:
            bucket = index.get(form, {})
            bucket.pop(route.sink_id, None)
            if not bucket:
                index.pop(form, None)
        if not index:
            self._indexed.pop(position, None)

    def _place(self, route: Route) -> tuple[int, tuple[Value, ...]] | None:
        """Return the column and the values under which the route is indexed; None if its filter must be evaluated."""
        equality = route.bound.equality if route.bound is not None else None
        if equality is None:
            return None
        forms = wal_forms(self.shape, equality)
        return None if forms is None else (self.shape.positions.get(equality.column, 0), forms)

    def match(self, change: Change) -> tuple[list[Route], list[Failed]]:
        """Return the routes that a change must be delivered to, and those whose filter raised; raises DecodeError for a malformed row."""
        routes: list[Route] = []
        failed: list[Failed] = []
        action, lsn = change.action, change.commit_lsn
        row = change.row if self._matched_before else None
        for position, index in self._indexed.items():
            bucket = index.get(change.raw(position) if row is None else row[position])
            if bucket is not None:
                for route in bucket.values():  # the equality holds, so only the rest of the filter is evaluated
                    bound = route.bound
                    if bound is not None and action in route.actions and lsn >= route.start_lsn:
                        rest = bound.rest if action == "update" else bound.rest_of_others
                        if rest is None:
                            routes.append(route)
                        else:
                            _evaluate(route, rest, change, routes, failed)
        for route in self._unindexed.values():
            if action in route.actions and lsn >= route.start_lsn:
                if route.broken is not None:
                    failed.append((route, route.broken))
                elif route.bound is None:
                    routes.append(route)
                else:
                    _evaluate(route, route.bound.accepts, change, routes, failed)
        self._matched_before = bool(routes)
        return routes, failed


def _evaluate(route: Route, judge: Judge, change: Change, routes: list[Route], failed: list[Failed]) -> None:
    """Evaluate a filter, and add its route to `routes` or `failed` if it matches or raises."""
    try:
        if judge(change):
            routes.append(route)
    except FunctionRaised as exc:
        failed.append((route, str(exc)))


def wal_forms(shape: TableShape, equality: Equality) -> tuple[Value, ...] | None:
    """Return all values of the column, as text in the WAL or null, for which the equality holds; None if they cannot be listed.

    They can be listed if the column's type has exactly one text per value. Types are not converted: the text "1", the number 1, and true
    are all different. A filter sees nil in a column that the table does not have; the equality then holds for all rows, which cannot be
    listed, or for none.
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
        flags = {"true": True, "false": False}
        flag = flags.get(wanted) if equality.as_text else wanted
        return (b"t" if flag else b"f",) if isinstance(flag, bool) else nulls
    if base in INTEGERS or types.is_text(type_oid):
        if not isinstance(wanted, str):
            return ()
        if "\ufffd" in wanted:
            return None  # U+FFFD also stands for bytes that are not valid UTF-8
        unchanged: tuple[Value, ...] = (UNCHANGED,) if wanted == UNCHANGED.value else ()
        return (wanted.encode(errors="surrogatepass"), *nulls, *unchanged)
    return None
