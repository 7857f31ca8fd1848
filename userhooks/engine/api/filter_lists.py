"""Parsing of a sink's `filters` list, which Sequin supported up to 0.9.4. Pure.

`functions/column_filters.py` evaluates the filters. An invalid filter is refused, because ignoring it could let every row pass.
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
_DATETIMES = frozenset({1082, 1114, 1184})
_JSON = frozenset({114, 3802})
_BOOLEAN = 16
_KINDS = ("string", "cistring", "number", "boolean", "datetime", "list", "null")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
_BAD_DATETIME = "must be a valid UTC datetime in ISO 8601 format (e.g., 2023-04-13T14:30:00Z)"


def column_filters(value: Any, table: Table) -> tuple[ColumnFilter, ...]:
    """Parse a `filters` list on columns of `table`; raise ApiError if the list is empty or a filter is invalid."""
    if not isinstance(value, list) or not value:
        raise refused("filters must be a list of at least one filter; an empty list would send every row")
    filters: list[ColumnFilter] = []
    errors: list[dict[str, Any]] = []
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("column_name"), str):
            raise refused("each filter must be an object with column_name, operator and comparison_value")
        column = next((c for c in table.columns if c.name == entry["column_name"]), None)
        if column is None:
            raise refused(f"Column '{entry['column_name']}' not found in table '{table.schema}.{table.name}'")
        field_path, field_type = entry.get("field_path"), entry.get("field_type")
        if field_path is not None and (not isinstance(field_path, str) or column.type_oid not in _JSON):
            raise refused("field_path must be the dotted path of a value in a json or jsonb column")
        if field_type is not None and field_type not in _KINDS:
            raise refused(f"field_type must be one of: {', '.join(_KINDS)}")
        error, parsed = _column_filter(entry, column.type_oid)
        errors.append(error)
        if parsed is not None:
            filters.append(parsed)
    if any(errors):
        raise invalid({"sequence_filter": {"column_filters": errors}})
    return tuple(filters)


def _column_filter(entry: Mapping[str, Any], type_oid: int) -> tuple[dict[str, Any], ColumnFilter | None]:
    operator = entry.get("operator")
    if operator is None or operator == "":
        return {"operator": [BLANK]}, None
    if not isinstance(operator, str):
        raise refused("a filter's operator must be a string")
    field = {"field_path": entry.get("field_path"), "field_type": entry.get("field_type")}
    if operator in _NULL_TESTS:
        return {}, ColumnFilter(entry["column_name"], _NULL_TESTS[operator], None, **field)
    if operator not in _OPERATORS:
        raise refused(f"the operator {operator!r} is not supported; use one of: {', '.join([*_OPERATORS, *_NULL_TESTS])}")
    value = entry.get("comparison_value")
    if value is None or value == "":
        return {"value": {"value": [BLANK]}}, None
    parsed, error = _filter_value(_OPERATORS[operator], value, type_oid, entry.get("field_type"))
    if error:
        return {"value": {"value": [error]}}, None
    return {}, ColumnFilter(entry["column_name"], _OPERATORS[operator], parsed, **field)


def _filter_value(operator: str, value: Any, type_oid: int, field_type: str | None) -> tuple[Any, str]:
    if operator in ("in", "not_in"):
        valid = isinstance(value, list) and value and not any(isinstance(item, (list, dict)) for item in value)
        return (value, "") if valid else (None, "is invalid")
    kind = field_type or (
        "number" if type_oid in _NUMBERS else "datetime" if type_oid in _DATETIMES else "boolean" if type_oid == _BOOLEAN else "string"
    )
    if kind == "number":
        return _number(value)
    if kind == "datetime":
        return (value, "") if isinstance(value, str) and _is_datetime(value) else (None, _BAD_DATETIME)
    if kind == "boolean":
        booleans = {"true": True, "false": False}
        value = booleans.get(value, value) if isinstance(value, str) else value
        return (value, "") if isinstance(value, bool) else (None, "is invalid")
    return (value, "") if isinstance(value, str) else (None, "is invalid")


def _number(value: Any) -> tuple[float | None, str]:
    """Return the number as a float, as Sequin 0.9.4 stored it, and an error text, which is empty if the number is valid.

    An integer that a float cannot represent exactly is an error, since the rounded number might be another user's id.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not _NUMBER.fullmatch(str(value)):
        return None, "is invalid"
    exact = Decimal(str(value))
    number = float(exact)
    if not math.isfinite(number):
        return None, "is invalid"
    if exact == exact.to_integral_value() and Decimal(number) != exact:
        return None, "is too large to be compared exactly; use a filter function"
    return number, ""


def _is_datetime(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
