"""Expressions of functions: what is known of them beforehand, and how they are evaluated. Pure.

Where expressions come from is in `elixir.py`, what a whole function means in `functions.py`, what Elixir's operators do with values in
`terms.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from userhooks.engine import terms
from userhooks.engine.pgoutput import Value
from userhooks.engine.rendering import METADATA, Change, changes_of, record_of
from userhooks.engine.terms import Atom, Raised
from userhooks.engine.values import TimestampFormat

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Const:
    """A value that is known."""

    value: Any


@dataclass(frozen=True, slots=True)
class Argument:
    """One of the function's four arguments as a whole."""

    name: str


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """`record["column"]` or `changes["column"]`."""

    argument: str
    column: str


@dataclass(frozen=True, slots=True)
class MetadataOf:
    """`metadata.field` of a field that depends on the change."""

    field: str


@dataclass(frozen=True, slots=True)
class Local:
    """A variable, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or function of `OPERATIONS` on its operands."""

    operation: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Logic:
    """Two or more operands joined by `and` or `or`; all but the last have to be booleans."""

    operator: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`if`: condition, result, result otherwise."""

    operands: tuple[Expr, Expr, Expr]


@dataclass(frozen=True, slots=True)
class Case:
    """`case` with literals as patterns: the subject, a result for each pattern, and maybe one for anything else."""

    patterns: tuple[Any, ...]
    operands: tuple[Expr, ...]


Expr: TypeAlias = Const | Argument | ColumnOf | MetadataOf | Local | Apply | Logic | Choice | Case


@dataclass(frozen=True, slots=True)
class Program:
    """The body of a function: `steps` are evaluated in order into variables, `result` is what it answers."""

    steps: tuple[Expr, ...]
    result: Expr


OPERATIONS: dict[str, Callable[..., Any]] = {
    "==": terms.equal,
    "!=": lambda a, b: not terms.equal(a, b),
    "===": terms.identical,
    "!==": lambda a, b: not terms.identical(a, b),
    "<": lambda a, b: terms.compare(a, b) < 0,
    ">": lambda a, b: terms.compare(a, b) > 0,
    "<=": lambda a, b: terms.compare(a, b) <= 0,
    ">=": lambda a, b: terms.compare(a, b) >= 0,
    "in": terms.is_member,
    "not in": lambda a, b: not terms.is_member(a, b),
    "not": lambda a: not terms.boolean(a, "right of `not`"),
    "is_nil": lambda a: a is None,
    "to_string": terms.to_string,
    "access": terms.access,
    "field": terms.field,
    "list": lambda *items: list(items),
    "map": terms.new_map,
    "<>": terms.concatenate,
    "Map.get": terms.map_get,
    "Map.put": terms.map_put,
    "Map.take": terms.map_take,
    "Map.drop": terms.map_drop,
    "Map.merge": terms.map_merge,
}
COMPARISONS = frozenset({"==", "!=", "===", "!==", "<", ">", "<=", ">="})
QUESTIONS = COMPARISONS | {"in", "not in", "not", "is_nil"}
"""What answers true or false"""
_SOMETIMES_TOTAL = QUESTIONS | {"list"}
"""What raises only where `_is_total` says"""


# --- before any change: constants, and what can be said of all changes ---------------------------------------------------


class Equality(NamedTuple):
    """What must hold for a filter to accept: `record[column] == value`, or `to_string(record[column]) == value`.

    Provided that the columns in `scalars` hold no lists and maps, a filter whose equality does not hold is false and cannot raise.
    With `types` (oids) that is so only while the column's type is one of them.
    """

    column: str
    value: Any
    as_text: bool
    scalars: frozenset[str]
    types: frozenset[int] | None = None


Judge: TypeAlias = Callable[[Change], bool]


def fold_program(program: Program, metadata: Mapping[Atom, Any]) -> tuple[list[Expr | None], Expr]:
    """Replace what is known by its value; a step that is None needs no evaluation, nobody refers to it any more."""
    known: list[Expr] = []
    steps: list[Expr | None] = []
    for step in program.steps:
        folded = fold(step, metadata, known)
        cheap = isinstance(folded, (Const, Argument, ColumnOf, MetadataOf))
        known.append(folded if cheap or is_text_of_column(folded) else Local(len(known)))
        steps.append(None if cheap else folded)
    return steps, fold(program.result, metadata, known)


def fold(expr: Expr, metadata: Mapping[Atom, Any], known: Sequence[Expr]) -> Expr:
    """Replace what is known by its value."""
    match expr:
        case Local(number):
            return known[number]
        case Logic(name, operands):
            return _fold_logic(name, [fold(operand, metadata, known) for operand in operands])
        case Choice((condition, result, otherwise)):
            condition, result, otherwise = (fold(operand, metadata, known) for operand in (condition, result, otherwise))
            if isinstance(condition, Const):
                return result if terms.is_truthy(condition.value) else otherwise
            return Choice((condition, result, otherwise))
        case Case(patterns, operands):
            return Case(patterns, tuple(fold(operand, metadata, known) for operand in operands))
        case Apply(operation, operands):
            return _fold_apply(Apply(operation, tuple(fold(operand, metadata, known) for operand in operands)), metadata)
    return expr


def without_update(expr: Expr) -> Expr:
    """Return what is left of a folded expression for a change that is no update, of which `changes` is nil."""
    match expr:
        case ColumnOf("changes", _) | Argument("changes"):
            return Const(None)
        case Logic(name, operands):
            return _fold_logic(name, [without_update(operand) for operand in operands])
        case Apply(operation, operands):
            return _fold_apply(Apply(operation, tuple(without_update(operand) for operand in operands)), {})
    return expr


def _fold_apply(expr: Apply, metadata: Mapping[Atom, Any]) -> Expr:
    match expr:
        case Apply("access", (Argument("record" | "changes" as name), Const(key))):
            return ColumnOf(name, key) if isinstance(key, str) else Const(None)
        case Apply("field", (Argument("metadata"), Const(name))) | Apply("access", (Argument("metadata"), Const(Atom(name)))):
            if Atom(name) in metadata:
                return Const(metadata[Atom(name)])
            return MetadataOf(name) if name in METADATA else expr
    if all(isinstance(operand, Const) for operand in expr.operands):
        try:
            return Const(OPERATIONS[expr.operation](*(operand.value for operand in expr.operands if isinstance(operand, Const))))
        except (Raised, RecursionError):
            return expr  # and raises for every change
    return expr


def _fold_logic(name: str, operands: list[Expr]) -> Expr:
    """Leave out operands that decide nothing, and what comes after one that decides all."""
    neutral = name == "and"
    kept: list[Expr] = []
    for i, operand in enumerate(operands):
        if isinstance(operand, Const) and operand.value is neutral and i + 1 < len(operands):
            continue
        kept.append(operand)
        if isinstance(operand, Const) and operand.value is (not neutral):
            if all(_is_total(before) == frozenset() and _is_boolean(before) for before in kept):
                return operand
            break
    return kept[0] if len(kept) == 1 else Logic(name, tuple(kept))


def _is_boolean(expr: Expr) -> bool:
    """Whether the value can only be true or false."""
    match expr:
        case Const(value):
            return isinstance(value, bool)
        case Apply(operation, _):
            return operation in QUESTIONS
        case Logic(_, operands):
            return _is_boolean(operands[-1])
        case Choice(operands) | Case(_, operands):
            return all(map(_is_boolean, operands[1:]))
    return False


def is_text_of_column(expr: Expr) -> bool:
    match expr:
        case Apply("to_string", (ColumnOf(),)):
            return True
    return False


def _is_total(expr: Expr) -> frozenset[str] | None:
    """Return the columns that must not hold lists and maps for the expression never to raise; None when it may raise anyway."""
    match expr:
        case Const() | Argument() | ColumnOf() | MetadataOf() | Local():
            return frozenset()
        case Apply("to_string", (ColumnOf(_, column),)):
            return frozenset({column})
        case Apply("not", (operand,)) if not _is_boolean(operand):
            return None
        case Apply("in" | "not in", (_, right)) if not _is_list(right):
            return None
        case Apply(operation, _) if operation not in _SOMETIMES_TOTAL:
            return None
        case Logic(_, operands) if not all(map(_is_boolean, operands[:-1])):
            return None
        case Case():
            return None
    columns: frozenset[str] = frozenset()
    for operand in expr.operands:
        needed = _is_total(operand)
        if needed is None:
            return None
        columns |= needed
    return columns


def _is_list(expr: Expr) -> bool:
    return isinstance(expr.value, list) if isinstance(expr, Const) else isinstance(expr, Apply) and expr.operation == "list"


def split_equality(steps: Iterable[Expr | None], result: Expr) -> tuple[Equality, Expr | None] | None:
    """Find an equality that has to hold, before which nothing can raise; returns it and what else has to hold."""
    scalars: frozenset[str] = frozenset()
    for step in steps:
        needed = frozenset() if step is None else _is_total(step)
        if needed is None:
            return None
        scalars |= needed
    conjuncts = result.operands if isinstance(result, Logic) and result.operator == "and" else (result,)
    for i, conjunct in enumerate(conjuncts):
        needed = _is_total(conjunct)
        if needed is None:
            return None
        scalars |= needed
        equality = _equality(conjunct, scalars)
        if equality is not None:
            rest = (*conjuncts[:i], *conjuncts[i + 1 :])
            return equality, None if not rest else rest[0] if len(rest) == 1 else Logic("and", rest)
        if not _is_boolean(conjunct):
            return None
    return None


def _equality(expr: Expr, scalars: frozenset[str]) -> Equality | None:
    match expr:
        case Apply("==", (ColumnOf("record", column), Const(value)) | (Const(value), ColumnOf("record", column))):
            return Equality(column, value, False, scalars)
        case Apply(
            "==",
            (Apply("to_string", (ColumnOf("record", column),)), Const(value))
            | (Const(value), Apply("to_string", (ColumnOf("record", column),))),
        ):
            return Equality(column, value, True, scalars)
    return None


# --- for one change ------------------------------------------------------------------------------------------------------

Make: TypeAlias = Callable[[Change, list[Any]], T]
"""Takes the change and the variables"""
Evaluate: TypeAlias = Make[Any]


def compile_expression(expr: Expr, metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat = "iso8601") -> Evaluate:
    """Make what evaluates the expression; it raises Raised, and ValueError or RecursionError for a value that cannot be read."""
    inner = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    match expr:
        case Const(value):
            return lambda change, variables: value
        case Local(number):
            return lambda change, variables: variables[number]
        case ColumnOf("record", column):
            return lambda change, variables: _column(change, column, timestamp_format)
        case ColumnOf(_, column):
            return lambda change, variables: _old_column(change, column, timestamp_format)
        case MetadataOf(field):
            read = METADATA[field]
            return lambda change, variables: read(change)
        case Argument("action"):
            return lambda change, variables: change.action
        case Argument("record"):
            return lambda change, variables: record_of(change, timestamp_format)
        case Argument("changes"):
            return lambda change, variables: changes_of(change, timestamp_format)
        case Argument(_):
            return lambda change, variables: {**{Atom(name): read(change) for name, read in METADATA.items()}, **metadata}
        case Logic(name, operands):
            return _compile_logic(name, [inner(operand) for operand in operands])
        case Choice((condition, result, otherwise)):
            return choose(inner(condition), inner(result), inner(otherwise))
        case Case(patterns, operands):
            return choose_case(inner(operands[0]), patterns, [inner(operand) for operand in operands[1:]])
    run = OPERATIONS[expr.operation]
    if len(expr.operands) == 1:
        only = inner(expr.operands[0])
        return lambda change, variables: run(only(change, variables))
    if len(expr.operands) == 2:
        left, right = map(inner, expr.operands)
        return lambda change, variables: run(left(change, variables), right(change, variables))
    many = [inner(operand) for operand in expr.operands]
    return lambda change, variables: run(*[operand(change, variables) for operand in many])


def _compile_logic(name: str, operands: list[Evaluate]) -> Evaluate:
    *first, last = operands
    going_on = name == "and"
    where = f"left of `{name}`"

    def evaluate(change: Change, variables: list[Any]) -> Any:
        for operand in first:
            if terms.boolean(operand(change, variables), where) is not going_on:
                return not going_on
        return last(change, variables)

    return evaluate


def choose(condition: Evaluate, result: Make[T], otherwise: Make[T]) -> Make[T]:
    """Make what does as `if` does."""

    def make(change: Change, variables: list[Any]) -> T:
        return (result if terms.is_truthy(condition(change, variables)) else otherwise)(change, variables)

    return make


def choose_case(subject: Evaluate, patterns: Sequence[Any], results: Sequence[Make[T]]) -> Make[T]:
    """Make what does as `case` does."""

    def make(change: Change, variables: list[Any]) -> T:
        value = subject(change, variables)
        number = next((i for i, pattern in enumerate(patterns) if terms.identical(value, pattern)), len(patterns))
        if number == len(results):
            raise Raised(f"no clause of `case` matches {terms.inspect(value)}")
        return results[number](change, variables)

    return make


def _column(change: Change, column: str, timestamp_format: TimestampFormat) -> Any:
    shape = change.shape
    position = shape.positions.get(column)
    return None if position is None else shape.decode(position, change.raw(position), timestamp_format)


def _old_column(change: Change, column: str, timestamp_format: TimestampFormat) -> Any:
    old = old_value(change, column)
    return None if old is None else change.shape.decode(*old, timestamp_format)


def old_value(change: Change, column: str) -> tuple[int, Value] | None:
    """Return the position of a column that an update is known to have changed and its old value; None for any other."""
    old = change.replaced_row
    position = change.shape.positions.get(column)
    if old is None or position is None or old[position] == change.row[position]:
        return None
    return position, old[position]
