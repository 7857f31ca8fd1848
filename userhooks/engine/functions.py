"""Functions: filters and transforms in a part of Elixir, transforms by path, and the column filters of Sequin 0.9.4. Pure.

A filter function is parsed once (`parse`), bound to a sink's constants (`Filter.bind`), then asked about each change (`Bound.accepts`).
A transform is parsed (`parse_transform`), bound to a sink's constants, and then makes the JSON of each of its messages.
Which part of Elixir is understood is in `elixir.py`; how many sinks are matched at once in `routing.py`; what JSON looks like in
`transforms.py`.
Functions see values as the message shows them (a numeric is text, a timestamp ISO 8601 text), where Sequin's has structs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar

from userhooks.engine import terms
from userhooks.engine.elixir import FunctionError as FunctionError
from userhooks.engine.elixir import parse_code
from userhooks.engine.expressions import (
    OPERATIONS,
    Apply,
    Argument,
    Const,
    Equality,
    Expr,
    Make,
    Program,
    compile_expression,
    fold_program,
    split_equality,
    without_update,
)
from userhooks.engine.rendering import CONSUMER_FIELDS, DATABASE_FIELDS, METADATA, Change, Transform
from userhooks.engine.resources import ColumnFilter
from userhooks.engine.terms import Atom, Raised
from userhooks.engine.transforms import compile_writer
from userhooks.engine.values import BOOLEAN, DATES, EXACT_TEXTS, INTEGERS, NUMERIC, TimestampFormat

T = TypeVar("T")


class FunctionRaised(Exception):
    """A function raised, or a filter answered neither true nor false."""


Judge: TypeAlias = Callable[[Change], bool]


@dataclass(frozen=True, slots=True)
class Bound:
    """A filter of one sink: `accepts` raises FunctionRaised. `rest` is what is left to ask of an update when `equality` holds, and
    `rest_of_others` of any other change, None when nothing is.

    `never` is set when no change can pass, whatever it holds.
    """

    accepts: Judge
    equality: Equality | None = None
    rest: Judge | None = None
    rest_of_others: Judge | None = None
    never: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter function."""

    program: Program

    def bind(self, constants: Mapping[str, Any]) -> Bound:
        """Fix the part of `metadata` that is the same for all changes of a sink: maps, in which `annotations` holds plain JSON."""
        metadata = _metadata_terms(constants)
        steps, result = fold_program(self.program, metadata)
        if not any(steps) and isinstance(result, Const) and result.value is False:
            return Bound(lambda _: False, never=True)
        accepts = _judge(steps, result, metadata)
        split = split_equality(steps, result)
        if split is None:
            return Bound(accepts)
        equality, rest = split
        if rest is None:
            return Bound(accepts, equality)
        judge = _judge(steps, rest, metadata)
        is_decided = not any(steps) and without_update(rest) == Const(True)
        return Bound(accepts, equality, judge, None if is_decided else judge)


@lru_cache(maxsize=16)  # the same function for thousands of sinks
def parse(code: str, function_type: str) -> Filter:
    """Parse the code of a filter function; raises FunctionError with the line and what is wrong or not supported there."""
    if function_type != "filter":
        raise FunctionError(1, f"{function_type} functions are not supported, only filter, transform and path functions are")
    return Filter(parse_code(code, "filter"))


def _metadata_terms(constants: Mapping[str, Any]) -> dict[Atom, Any]:
    """Turn the constants into Elixir's maps: atoms as keys, but in `annotations`, which are JSON."""

    def to_term(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {Atom(k): v if k == "annotations" else to_term(v) for k, v in value.items()}
        return value

    return {Atom(name): to_term(value) for name, value in constants.items()}


def _judge(steps: Sequence[Expr | None], result: Expr, metadata: Mapping[Atom, Any]) -> Judge:
    """Compile to a function that answers true or false, or raises FunctionRaised."""
    answer = compile_expression(result, metadata)

    def judge(change: Change, variables: list[Any]) -> bool:
        value = answer(change, variables)
        if value is True or value is False:
            return value is True
        raise Raised(f"the function answered {terms.inspect(value)}, which is neither true nor false")

    return _run(steps, judge, metadata, "iso8601")


def _run(
    steps: Sequence[Expr | None], make: Make[T], metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat
) -> Callable[[Change], T]:
    """Make what evaluates the steps, then the result; it raises FunctionRaised."""
    compiled = [None if step is None else compile_expression(step, metadata, timestamp_format) for step in steps]
    plain = not any(compiled)

    def run(change: Change) -> T:
        try:
            variables: list[Any] = []
            if not plain:
                for step in compiled:  # each sees the variables before it
                    variables.append(None if step is None else step(change, variables))
            return make(change, variables)
        except (Raised, ValueError, RecursionError) as exc:
            raise FunctionRaised(str(exc)) from exc

    return run


# --- transforms --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TransformFunction:
    """A parsed transform."""

    program: Program

    def bind(self, constants: Mapping[str, Any], timestamp_format: TimestampFormat = "iso8601") -> Transform:
        """Make what gives the JSON of a sink's messages; `constants` as for filters."""
        metadata = _metadata_terms(constants)
        steps, result = fold_program(self.program, metadata)
        return _run(steps, compile_writer(result, metadata, timestamp_format), metadata, timestamp_format)


def parse_transform(code: str, kind: str) -> TransformFunction:
    """Read a function of type `transform` or `path`; raises FunctionError with the line and what is wrong or not supported there."""
    return TransformFunction(parse_code(code, "transform") if kind == "transform" else Program((), _path(code)))


def _path(path: str) -> Expr:
    """Read `record.column`, `metadata.table_name` and the like: one of the arguments, or what is in it under these keys."""
    root, *keys = path.split(".")
    if root not in ("record", "changes", "action", "metadata") or "" in keys or (root == "action" and keys):
        raise FunctionError(1, "a path is record, changes, action or metadata, or goes on below one of them like `record.id`")
    expr: Expr = Argument(root)
    fields = _METADATA_PATHS if root == "metadata" else None
    for key in keys:
        if fields is None:
            expr = Apply("access", (expr, Const(key)))
        elif key not in fields:
            raise FunctionError(1, f"`{path}` does not exist: instead of `{key}` there are {', '.join(fields)}")
        else:
            expr, fields = Apply("field", (expr, Const(key))), fields[key]
    return expr


_METADATA_PATHS: dict[str, Any] = {
    **dict.fromkeys(METADATA),
    "consumer": dict.fromkeys(CONSUMER_FIELDS),
    "database": dict.fromkeys(DATABASE_FIELDS),
    "database_name": None,
}


# --- column filters of Sequin 0.9.4 ------------------------------------------------------------------------------------------

_INDEXABLE = {int: INTEGERS, float: INTEGERS, bool: frozenset({BOOLEAN}), str: EXACT_TEXTS}
"""By the type of a filter's value: the column types whose values equal it exactly when the index says so"""


def bind_column_filters(filters: Sequence[ColumnFilter]) -> Bound:
    """Make the filter that a list of column filters means: all have to hold (Sequin contract, 3.5).

    A column that the row does not have matches nothing. The filter raises only for a JSON value that cannot be read. Nothing is taken from
    the table as it is now: changes of before and after a column's type was changed are each judged by the type that they have.
    """
    accepts = partial(_all_hold, tuple(filters))
    for i, one in sorted(enumerate(filters), key=lambda numbered: isinstance(numbered[1].value, str)):  # a text may be for a date
        types = _INDEXABLE.get(type(one.value))
        if types is not None and one.operator == "==" and not one.field_path and one.field_type != "cistring":
            rest = (*filters[:i], *filters[i + 1 :])
            equality = Equality(one.column_name, one.value, False, frozenset(), types)
            judge = partial(_all_hold, rest) if rest else None
            return Bound(accepts, equality, judge, judge)
    return Bound(accepts)


def _all_hold(filters: tuple[ColumnFilter, ...], change: Change) -> bool:
    try:
        return all(_column_filter_holds(one, change) for one in filters)
    except (ValueError, RecursionError) as exc:
        raise FunctionRaised(f"a column cannot be read: {exc}") from exc


def _column_filter_holds(one: ColumnFilter, change: Change) -> bool:
    shape = change.shape
    position = shape.positions.get(one.column_name)
    if position is None:
        return False
    value = shape.decode(position, change.raw(position))
    for key in one.field_path.split(".") if one.field_path else ():
        value = value.get(key) if isinstance(value, dict) else None
    match one.operator:
        case "is null":
            return value is None
        case "is not null":
            return value is not None
        case "in":
            return _is_listed(value, one.value) is True
        case "not_in":
            return _is_listed(value, one.value) is False
    base = shape.types.base(shape.columns[position].type_oid)
    if base in DATES or one.field_type == "datetime":
        moment, other = _moment(value), _moment(one.value)
        return moment is not None and other is not None and _ORDERS[one.operator](moment, other)
    if base == NUMERIC and isinstance(value, str) and isinstance(one.value, (int, float)):
        return _ORDERS[one.operator](Decimal(value), Decimal(one.value)) if value != "NaN" else one.operator == "!="
    wanted = one.value
    if isinstance(value, str) and isinstance(wanted, str) and (one.field_type == "cistring" or shape.types.name(base) == "citext"):
        value, wanted = value.lower(), wanted.lower()
    return bool(OPERATIONS[one.operator](value, wanted))


def _is_listed(value: Any, items: Any) -> bool | None:
    """Whether the value, or its text, is among the items or their texts; None for what has no text."""
    try:
        return terms.is_member(value, items) or terms.to_string(value) in map(terms.to_string, items)
    except Raised:
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
