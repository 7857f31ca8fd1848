"""A sink's filter, transform, and routing functions, bound to the sink's constants. Pure.

`functions/` parses and evaluates functions; `routing.py` decides which sinks a change goes to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from userhooks.engine import functions
from userhooks.engine.change import Change
from userhooks.engine.message_format import SinkForm
from userhooks.engine.resources import Catalog, DatabaseResource, FunctionResource, SinkResource

T = TypeVar("T")


def constants(sink: SinkResource, database: DatabaseResource) -> dict[str, Any]:
    """Return the part of `metadata` that is the same for all changes of a sink."""
    return {
        "consumer": {"id": sink.id, "name": sink.name, "annotations": dict(sink.annotations)},
        "database": {
            "id": database.id,
            "name": database.name,
            "annotations": {},
            "database": database.database,
            "hostname": database.hostname,
        },
        "database_name": database.name,
    }


def bound_filter(sink: SinkResource, catalog: Catalog) -> tuple[functions.Bound | None, str | None]:
    """Return a sink's filter, or None if it accepts every change, and the reason why it is unusable, or None."""
    if sink.filters is not None:
        return functions.bind_column_filters(sink.filters), None
    if sink.filter is None:
        return None, None
    function = _function(sink.filter, catalog)
    if function is None:
        return None, f"the filter function {sink.filter!r} does not exist"
    try:
        return functions.parse(function.code, "filter").bind(constants(sink, catalog.database)), None
    except functions.FunctionError as exc:
        return None, f"the filter function {sink.filter!r} cannot be used: {exc}"


def pending_filter(sink: SinkResource, catalog: Catalog, bound: functions.Bound | None, broken: str | None) -> Callable[[Change], bool]:
    """Return the check that pending messages must pass under the sink's current settings; rows of a cancelled backfill never pass.

    The check raises FunctionRaised if the filter raises or is unusable.
    """

    def is_wanted(change: Change) -> bool:
        if change.backfill_id is not None:
            backfill = catalog.backfills.get(change.backfill_id)
            if backfill is None or backfill.state == "cancelled":
                return False
        elif change.action not in sink.actions:
            return False
        if not sink.source.covers(*change.shape.table):
            return False
        if broken is not None:
            raise functions.FunctionRaised(broken)
        return True if bound is None else bound.accepts(change)

    return is_wanted


def sink_form(sink: SinkResource, catalog: Catalog) -> SinkForm:
    """Return the form of a sink's messages. If a function is unusable, the form's version of it raises FunctionRaised for every message."""
    fixed = constants(sink, catalog.database)
    transform = _bound(sink.transform, catalog, lambda f: functions.parse_transform(f.code, f.type).bind(fixed, sink.timestamp_format))
    route = _bound(sink.routing, catalog, lambda f: functions.parse_route(f.code).bind(fixed, sink.timestamp_format))
    return SinkForm(fixed["consumer"], fixed["database"], sink.timestamp_format, transform, route)


def _bound(name: str | None, catalog: Catalog, bind: Callable[[FunctionResource], Callable[[Change], T]]) -> Callable[[Change], T] | None:
    if name is None:
        return None
    function = _function(name, catalog)
    broken = f"the function {name!r} does not exist"
    if function is not None:
        try:
            return bind(function)
        except functions.FunctionError as exc:
            broken = f"the function {name!r} cannot be used: {exc}"

    def raising(change: Change) -> T:
        raise functions.FunctionRaised(broken)

    return raising


def _function(name: str, catalog: Catalog) -> FunctionResource | None:
    return next((function for function in catalog.functions.values() if function.name == name), None)
