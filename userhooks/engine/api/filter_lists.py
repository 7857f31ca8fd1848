"""The `filters` of a sink, as Sequin took them up to 0.9.4: a request's list in normal form, or a refusal. Pure.

How they are evaluated is in `functions/column_filters.py`. A filter that is not understood is refused: without it every row would pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from userhooks.engine.api.api_errors import BLANK, invalid, refused
from userhooks.engine.resources import ColumnFilter, Table

_OPERATORS = {
    "=": "==",
    "==": "==",
    "!=": "!=",
    ">": ">",
    "<": "<",
    ">=": ">=",
    "<=": "<=",
    "in": "in",
    "not in": "not_in",
    "not_in": "not_in",
}
_NULL_TESTS = {"is null": "is null", "not null": "is not null", "is not null": "is not null"}
_NUMBERS = frozenset({20, 21, 23, 700, 701, 1700})
_INSTANTS = frozenset({1082, 1114, 1184})
_JSON = frozenset({114, 3802})
_BOOLEAN = 16
_KINDS = ("string", "cistring", "number", "boolean", "datetime", "list", "null")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
_NO_INSTANT = "must be a valid UTC datetime in ISO 8601 format (e.g., 2023-04-13T14:30:00Z)"


def column_filters(value: Any, table: Table) -> tuple[ColumnFilter, ...]:
    """Read a `filters` list in 0.9.4's normal form; one that is empty or malformed is refused, since without it every row would pass."""
    if not isinstance(value, list) or not value:
        raise refused("filters must be a list with at least one filter; leaving it empty would send every row")
    filters: list[ColumnFilter] = []
    errors: list[dict[str, Any]] = []
    for one in value:
        if not isinstance(one, dict) or not isinstance(one.get("column_name"), str):
            raise refused("each filter must be an object with column_name, operator and comparison_value")
        column = next((c for c in table.columns if c.name == one["column_name"]), None)
        if column is None:
            raise refused(f"Column '{one['column_name']}' not found in table '{table.schema}.{table.name}'")
        field_path, field_type = one.get("field_path"), one.get("field_type")
        if field_path is not None and (not isinstance(field_path, str) or column.type_oid not in _JSON):
            raise refused("field_path is the dotted path of a value inside a json or jsonb column")
        if field_type is not None and field_type not in _KINDS:
            raise refused(f"field_type must be one of: {', '.join(_KINDS)}")
        error, parsed = _column_filter(one, column.type_oid)
        errors.append(error)
        if parsed is not None:
            filters.append(parsed)
    if any(errors):
        raise invalid({"sequence_filter": {"column_filters": errors}})
    return tuple(filters)


def _column_filter(one: Mapping[str, Any], type_oid: int) -> tuple[dict[str, Any], ColumnFilter | None]:
    operator = one.get("operator")
    if operator is None or operator == "":
        return {"operator": [BLANK]}, None
    if not isinstance(operator, str):
        raise refused("the operator of a filter must be a text")
    more = {"field_path": one.get("field_path"), "field_type": one.get("field_type")}
    if operator in _NULL_TESTS:
        return {}, ColumnFilter(one["column_name"], _NULL_TESTS[operator], None, **more)
    if operator not in _OPERATORS:
        raise refused(f"the operator {operator!r} is not supported; there are: {', '.join([*_OPERATORS, *_NULL_TESTS])}")
    value = one.get("comparison_value")
    if value is None or value == "":
        return {"value": {"value": [BLANK]}}, None
    parsed, error = _filter_value(_OPERATORS[operator], value, type_oid, one.get("field_type"))
    if error:
        return {"value": {"value": [error]}}, None
    return {}, ColumnFilter(one["column_name"], _OPERATORS[operator], parsed, **more)


def _filter_value(operator: str, value: Any, type_oid: int, field_type: str | None) -> tuple[Any, str]:
    if operator in ("in", "not_in"):
        good = isinstance(value, list) and value and not any(isinstance(item, (list, dict)) for item in value)
        return (value, "") if good else (None, "is invalid")
    kind = field_type or (
        "number" if type_oid in _NUMBERS else "datetime" if type_oid in _INSTANTS else "boolean" if type_oid == _BOOLEAN else "string"
    )
    if kind == "number":
        return _number(value)
    if kind == "datetime":
        return (value, "") if isinstance(value, str) and _is_instant(value) else (None, _NO_INSTANT)
    if kind == "boolean":
        words = {"true": True, "false": False}
        value = words.get(value, value) if isinstance(value, str) else value
        return (value, "") if isinstance(value, bool) else (None, "is invalid")
    return (value, "") if isinstance(value, str) else (None, "is invalid")


def _number(value: Any) -> tuple[float | None, str]:
    """The number as 0.9.4 kept it, a float; one that a float cannot hold would stand for its neighbour, which may be another user."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not _NUMBER.fullmatch(str(value)):
        return None, "is invalid"
    exact = Decimal(str(value))
    number = float(exact)
    if not math.isfinite(number):
        return None, "is invalid"
    if exact == exact.to_integral_value() and Decimal(number) != exact:
        return None, "is too large to be compared exactly; use a filter function"
    return number, ""


def _is_instant(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
