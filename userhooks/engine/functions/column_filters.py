"""The column filters of Sequin 0.9.4: whether a change passes them. Pure.

How a request's list of them is read is in `api/filter_lists.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from userhooks.engine.change import Change
from userhooks.engine.functions import terms, text
from userhooks.engine.functions.filters import Bound
from userhooks.engine.functions.folding import Equality
from userhooks.engine.functions.library import LIBRARY
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.program import FunctionRaised
from userhooks.engine.postgres.pg_types import BOOLEAN, DATES, EXACT_TEXTS, INTEGERS, NUMERIC
from userhooks.engine.resources import ColumnFilter

_INDEXABLE = {int: INTEGERS, float: INTEGERS, bool: frozenset({BOOLEAN}), str: EXACT_TEXTS}
"""By the type of a filter's value: the column types whose values equal it exactly when the index says so"""


def bind_column_filters(filters: Sequence[ColumnFilter]) -> Bound:
    """Make the filter that a list of column filters means: all have to hold (Sequin contract, 3.5).

    A column that the row does not have matches nothing. The filter raises only for a JSON value that cannot be read. Nothing is taken from
    the table as it is now: changes of before and after a column's type was changed are each judged by the type that they have.
    """
    accepts = partial(_all_hold, tuple(filters))
    for i, comparison in sorted(enumerate(filters), key=lambda numbered: isinstance(numbered[1].value, str)):  # a text may be for a date
        types = _INDEXABLE.get(type(comparison.value))
        if types is not None and comparison.operator == "==" and not comparison.field_path and comparison.field_type != "cistring":
            rest = (*filters[:i], *filters[i + 1 :])
            equality = Equality(comparison.column_name, comparison.value, False, frozenset(), types)
            judge = partial(_all_hold, rest) if rest else None
            return Bound(accepts, equality, judge, judge)
    return Bound(accepts)


def _all_hold(filters: tuple[ColumnFilter, ...], change: Change) -> bool:
    try:
        return all(_column_filter_holds(comparison, change) for comparison in filters)
    except (ValueError, RecursionError) as exc:
        raise FunctionRaised(f"a column cannot be read: {exc}") from exc


def _column_filter_holds(comparison: ColumnFilter, change: Change) -> bool:
    shape = change.shape
    position = shape.positions.get(comparison.column_name)
    if position is None:
        return False
    value = shape.decode(position, change.raw(position))
    for key in comparison.field_path.split(".") if comparison.field_path else ():
        value = value.get(key) if isinstance(value, dict) else None
    match comparison.operator:
        case "is null":
            return value is None
        case "is not null":
            return value is not None
        case "in":
            return _is_listed(value, comparison.value) is True
        case "not_in":
            return _is_listed(value, comparison.value) is False
    base = shape.types.base(shape.columns[position].type_oid)
    if base in DATES or comparison.field_type == "datetime":
        moment, other = _moment(value), _moment(comparison.value)
        return moment is not None and other is not None and _ORDERS[comparison.operator](moment, other)
    if base == NUMERIC and isinstance(value, str) and isinstance(comparison.value, (int, float)):
        return _ORDERS[comparison.operator](Decimal(value), Decimal(comparison.value)) if value != "NaN" else comparison.operator == "!="
    wanted = comparison.value
    if isinstance(value, str) and isinstance(wanted, str) and (comparison.field_type == "cistring" or shape.types.name(base) == "citext"):
        value, wanted = value.lower(), wanted.lower()
    return bool(LIBRARY[comparison.operator].run(Meter(), value, wanted))


def _is_listed(value: Any, items: Any) -> bool | None:
    """Whether the value, or its text, is among the items or their texts; None for what has no text."""
    try:
        meter = Meter()
        return any(terms.identical(meter, value, item) or text.to_string(meter, value) == text.to_string(meter, item) for item in items)
    except terms.Raised:
        return None


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def _moment(value: Any) -> float | None:
    """Return the microseconds since 1970 of ISO 8601 text: a date is its midnight, a time without zone is UTC; None for anything else."""
    if value in ("infinity", "-infinity"):
        return math.inf if value == "infinity" else -math.inf
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
