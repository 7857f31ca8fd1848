"""Which sinks a change belongs to. Pure; what they do with it is in `delivery.py`.

Sinks whose filter demands `column == constant` stand in an index by that constant, so a change costs one look-up per distinct column,
however many sinks there are. The others are asked one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from userhooks.engine.functions import Bound, Equality, FunctionRaised, to_string
from userhooks.engine.rendering import Change, TableShape
from userhooks.engine.resources import Action, Source, TableName


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One sink as routing sees it: `target` is handed back for every change that the sink is owed.

    `bound` None means no filter; `broken` says why a named filter cannot be used. Changes that committed before `start_lsn` are not the
    sink's.
    """

    sink_id: str
    target: Any
    source: Source
    actions: tuple[Action, ...]
    start_lsn: int
    bound: Bound | None
    broken: str | None


Failed = list[tuple[Route, str]]


class Router:
    """All routes; tables are learnt as they come by."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._tables: dict[TableName, TableRoutes] = {}

    def add(self, route: Route) -> None:
        """Put a sink in force, in place of what was in force for it."""
        self.remove(route.sink_id)
        self._routes[route.sink_id] = route
        for table, routes in self._tables.items():
            if route.source.covers(*table):
                routes.add(route)

    def remove(self, sink_id: str) -> None:
        """Take a sink out of force; one that is not there is fine."""
        route = self._routes.pop(sink_id, None)
        if route is not None:
            for routes in self._tables.values():
                routes.remove(route)

    def for_table(self, shape: TableShape) -> TableRoutes:
        """Return the routes of a table as it looks now."""
        routes = self._tables.get(shape.table)
        if routes is None or routes.shape is not shape:
            routes = self._tables[shape.table] = TableRoutes(shape)
            for route in self._routes.values():
                if route.source.covers(*shape.table):
                    routes.add(route)
        return routes


class TableRoutes:
    """The routes that one table's changes may take."""

    def __init__(self, shape: TableShape) -> None:
        self.shape = shape
        self._indexes: dict[tuple[str, bool], _Index] = {}
        self._general: dict[str, Route] = {}

    def add(self, route: Route) -> None:
        """Add a route, to an index when its filter allows."""
        index = self._index_of(route)
        if index is None:
            self._general[route.sink_id] = route
        else:
            index.routes.setdefault(_typed(_equality(route).key), {})[route.sink_id] = route

    def remove(self, route: Route) -> None:
        """Remove a route that was added."""
        index = self._index_of(route)
        if index is None:
            self._general.pop(route.sink_id, None)
            return
        key = _typed(_equality(route).key)
        listed = index.routes.get(key, {})
        listed.pop(route.sink_id, None)
        if not listed:
            index.routes.pop(key, None)

    def _index_of(self, route: Route) -> _Index | None:
        equality = route.bound.equality if route.bound is not None else None
        position = self.shape.positions.get(equality.column) if equality is not None else None
        if equality is None or position is None or route.broken is not None:
            return None
        if equality.via_to_string and not self.shape.types.is_scalar(self.shape.columns[position].type_oid):
            return None
        name = (equality.column, equality.via_to_string)
        index = self._indexes.get(name)
        if index is None:
            index = self._indexes[name] = _Index(self._key(equality, position), {})
        return index

    def _key(self, equality: Equality, position: int) -> Callable[[Change], Any]:
        shape, column, via = self.shape, equality.column, equality.via_to_string
        if via and shape.types.is_text_itself(shape.columns[position].type_oid):

            def text(change: Change) -> Any:
                raw = change.row[position]
                return raw.decode() if isinstance(raw, bytes) else _of(shape.value(change.row, column), via=True)

            return text
        return lambda change: _of(shape.value(change.row, column), via=via)

    def match(self, change: Change) -> tuple[list[Route], Failed]:
        """Return the routes that are owed the change, and those whose filter failed on it, with what it said."""
        matched: list[Route] = []
        failed: Failed = []
        for index in self._indexes.values():
            candidates = index.routes.get(index.key(change))
            if candidates:
                for route in candidates.values():
                    _try(route, change, matched, failed)
        for route in self._general.values():
            _try(route, change, matched, failed)
        return matched, failed


@dataclass(slots=True)
class _Index:
    key: Callable[[Change], Any]
    routes: dict[Any, dict[str, Route]]


def _try(route: Route, change: Change, matched: list[Route], failed: Failed) -> None:
    if change.action not in route.actions or change.commit_lsn < route.start_lsn:
        return
    if route.broken is not None:
        failed.append((route, route.broken))
    elif route.bound is None:
        matched.append(route)
    else:
        try:
            if route.bound.accepts(change):
                matched.append(route)
        except FunctionRaised as exc:
            failed.append((route, str(exc)))


def _equality(route: Route) -> Equality:
    if route.bound is None or route.bound.equality is None:
        raise ValueError("the route has no equality")
    return route.bound.equality


def _of(term: Any, *, via: bool) -> Any:
    return to_string(term) if via else _typed(term)


def _typed(term: Any) -> Any:
    """A term as a dictionary key: true is not 1, while 1 is 1.0 as in Elixir; what is no scalar equals no constant."""
    if isinstance(term, bool):
        return (term,)
    return ("no scalar",) if isinstance(term, (dict, list)) else term
