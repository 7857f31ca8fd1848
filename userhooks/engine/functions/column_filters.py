"""Column filters, as in Sequin 0.9.4: decide whether a change passes. Pure.

`api/filter_lists.py` parses them from requests.
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
"""Types of the columns that can be indexed, by the type of the filter's value: an index lookup finds exactly the values equal to it."""


def bind_column_filters(filters: Sequence[ColumnFilter]) -> Bound:
    """Combine column filters into one filter, which accepts a change if all of them hold (Sequin contract, 3.5).

    A column that the row does not have matches nothing. The filter raises FunctionRaised only for a JSON value that cannot be parsed.
    The column types are those at the time of the change, even if the table has been altered since.
    """
    accepts = partial(_all_hold, tuple(filters))
    for i, comparison in sorted(
        enumerate(filters), key=lambda numbered: isinstance(numbered[1].value, str)
    ):  # strings last: they may be dates
        types = _INDEXABLE.get(type(comparison.value))
        if types is not None and comparison.operator == "==" and not comparison.field_path and comparison.field_type != "cistring":
            other_filters = (*filters[:i], *filters[i + 1 :])
            equality = Equality(comparison.column_name, comparison.value, False, frozenset(), types)
            judge = partial(_all_hold, other_filters) if other_filters else None
            return Bound(accepts, equality, judge, judge)
    return Bound(accepts)


def _all_hold(filters: tuple[ColumnFilter, ...], change: Change) -> bool:
    try:
        return all(_column_filter_holds(comparison, change) for comparison in filters)
    except (ValueError, RecursionError) as exc:
        raise FunctionRaised(f"cannot decode a column: {exc}") from exc


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
        return moment is not None and other is not None and _COMPARISONS[comparison.operator](moment, other)
    if base == NUMERIC and isinstance(value, str) and isinstance(comparison.value, (int, float)):
        return (
            _COMPARISONS[comparison.operator](Decimal(value), Decimal(comparison.value)) if value != "NaN" else comparison.operator == "!="
        )
    expected = comparison.value
    if isinstance(value, str) and isinstance(expected, str) and (comparison.field_type == "cistring" or shape.types.name(base) == "citext"):
        value, expected = value.lower(), expected.lower()
    return bool(LIBRARY[comparison.operator].run(Meter(), value, expected))


def _is_listed(value: Any, items: Any) -> bool | None:
    """Whether the value or its text equals an item or an item's text; None if either has no text."""
    try:
        meter = Meter()
        return any(terms.identical(meter, value, item) or text.to_string(meter, value) == text.to_string(meter, item) for item in items)
    except terms.Raised:
        return None


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def _moment(value: Any) -> float | None:
    """Convert ISO 8601 text to microseconds since 1970; None for any other text.

    A date means its midnight, and a time without a zone is in UTC. `infinity` and `-infinity` are accepted too.
    """
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
