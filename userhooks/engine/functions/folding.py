"""Fold constants, and find the column value that a filter can be indexed by. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from userhooks.engine.functions.expressions import (
    Anything,
    Apply,
    Argument,
    Bind,
    Choice,
    ColumnOf,
    Const,
    Expr,
    Local,
    Logic,
    MetadataOf,
    rebuilt,
)
from userhooks.engine.functions.library import UNFIT
from userhooks.engine.functions.metadata import METADATA_TERMS
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.terms import Atom, Raised, is_truthy

COMPARISONS = frozenset({"==", "!=", "===", "!==", "<", ">", "<=", ">="})
_TESTS = frozenset({"is_nil", "is_integer", "is_binary", "is_float", "is_number", "is_list", "is_map", "is_boolean", "is_atom"})
_QUESTIONS = COMPARISONS | _TESTS | {"in", "not"}
"""Functions that return a boolean."""
_SOMETIMES_TOTAL = _QUESTIONS | {"list"}
"""Functions that raise only in the cases that `_is_total` checks."""
_CONSTANT_STEPS = 1_000
"""Step limit for folding a call; a call that needs more is evaluated for each change."""


class Equality(NamedTuple):
    """A condition that a change must meet to pass a filter: `record[column] == value`.

    If `as_text` is true, the condition is `to_string(record[column]) == value`. If `types` is set, the OID of the column's type must also
    be one of them. If the condition is not met, the filter returns false and cannot raise, unless a column in `scalars` contains a list
    or a map.
    """

    column: str
    value: Any
    as_text: bool
    scalars: frozenset[str]
    types: frozenset[int] | None = None


def fold_steps(steps: Iterable[Expr], metadata: Mapping[Atom, Any]) -> tuple[list[Expr], Expr]:
    """Fold known values; returns the steps that still have to be evaluated before the result, and the result."""
    known: dict[int, Expr] = {}
    kept: list[Expr] = []
    result: Expr = Const(None)
    *first, last = steps
    for step in first:
        folded = _fold_step(fold(step, metadata, known), known)
        if folded is not None:
            kept.append(folded)
    result = fold(last, metadata, known)
    if isinstance(result, Bind) and isinstance(result.pattern, Anything):  # the variable is never read
        result = result.value
    return kept, result


def _fold_step(step: Expr, known: dict[int, Expr]) -> Expr | None:
    """Record the value of the variable that the step binds, if the value is known; returns the step, or None if it can be omitted."""
    value = step.value if isinstance(step, Bind) and isinstance(step.pattern, Anything) else step
    cheap = isinstance(value, (Const, Argument, ColumnOf, MetadataOf, Local))
    if isinstance(step, Bind) and isinstance(step.pattern, Anything) and step.pattern.number is not None and not step.pattern.again:
        if cheap or is_text_of_column(value):
            known[step.pattern.number] = value
        return None if cheap else step
    return None if cheap and not isinstance(step, Bind) else step


def fold(expr: Expr, metadata: Mapping[Atom, Any], known: Mapping[int, Expr]) -> Expr:
    """Replace subexpressions whose value is known with that value."""
    match expr:
        case Local(number):
            return known.get(number, expr)
        case Choice((condition, result, otherwise)):
            condition = fold(condition, metadata, known)
            if isinstance(condition, Const):
                return fold(result if is_truthy(condition.value) else otherwise, metadata, known)
            return Choice((condition, fold(result, metadata, known), fold(otherwise, metadata, known)))
    folded = rebuilt(expr, lambda operand: fold(operand, metadata, known))
    match folded:
        case Logic("and" | "or"):
            return _fold_logic(folded, list(folded.operands))
        case Apply():
            return _fold_apply(folded, metadata)
    return folded


def without_update(expr: Expr) -> Expr:
    """Simplify a folded expression for a change other than an update, for which `changes` is nil."""
    match expr:
        case ColumnOf("changes", _) | Argument("changes"):
            return Const(None)
        case Logic("and" | "or"):
            return _fold_logic(expr, [without_update(operand) for operand in expr.operands])
        case Apply(function, operands, line):
            return _fold_apply(Apply(function, tuple(without_update(operand) for operand in operands), line), {})
    return expr


def _fold_apply(expr: Apply, metadata: Mapping[Atom, Any]) -> Expr:
    match expr.name, expr.operands:
        case "Access.get" | "Map.get", (Argument("record"), Const(key)):
            return ColumnOf("record", key) if isinstance(key, str) else Const(None)
        case "Access.get", (Argument("changes"), Const(key)):
            return ColumnOf("changes", key) if isinstance(key, str) else Const(None)
        case ("field", (Argument("metadata"), Const(Atom(name=name)))) | ("Access.get", (Argument("metadata"), Const(Atom(name=name)))):
            if Atom(name) in metadata:
                return Const(metadata[Atom(name)])
            return MetadataOf(name) if name in METADATA_TERMS else expr
    if all(isinstance(operand, Const) for operand in expr.operands):
        try:
            values = [operand.value for operand in expr.operands if isinstance(operand, Const)]
            return Const(expr.function.run(Meter(_CONSTANT_STEPS), *values))
        except (Raised, RecursionError, *UNFIT):
            return expr  # it is evaluated for each change instead, and may raise then
    return expr


def _fold_logic(expr: Logic, operands: list[Expr]) -> Expr:
    """Drop operands that cannot affect the result, and all operands after one that decides it."""
    neutral = expr.operator == "and"
    kept: list[Expr] = []
    for i, operand in enumerate(operands):
        if isinstance(operand, Const) and operand.value is neutral and i + 1 < len(operands):
            continue
        kept.append(operand)
        if isinstance(operand, Const) and operand.value is (not neutral):
            if all(_is_total(earlier) == frozenset() and _is_boolean(earlier) for earlier in kept):
                return operand
            break
    return kept[0] if len(kept) == 1 else Logic(expr.operator, tuple(kept), expr.line)


def _is_boolean(expr: Expr) -> bool:
    """Whether the value is always a boolean."""
    match expr:
        case Const(value):
            return isinstance(value, bool)
        case Apply():
            return expr.name in _QUESTIONS
        case Logic("and" | "or", operands):
            return _is_boolean(operands[-1])
        case Choice(operands):
            return all(map(_is_boolean, operands[1:]))
    return False


def is_text_of_column(expr: Expr) -> bool:
    """Whether the expression is `to_string(record["column"])` or `to_string(changes["column"])`."""
    return isinstance(expr, Apply) and expr.name == "to_string" and isinstance(expr.operands[0], ColumnOf)


def _is_total(expr: Expr) -> frozenset[str] | None:
    """Return the columns that must not contain lists or maps so that the expression cannot raise; None if it can raise anyway."""
    operands: tuple[Expr, ...]
    match expr:
        case Const() | Argument() | ColumnOf() | MetadataOf() | Local():
            return frozenset()
        case Bind(Anything(), value):
            return _is_total(value)
        case Apply(_, (ColumnOf(_, column),)) if expr.name == "to_string":
            return frozenset({column})
        case Apply(_, operands):
            if expr.name not in _SOMETIMES_TOTAL:
                return None
            if expr.name == "not" and not _is_boolean(operands[0]):
                return None
            if expr.name == "in" and not _is_list(operands[1]):
                return None
        case Logic("and" | "or", operands):
            if not all(map(_is_boolean, operands[:-1])):
                return None
        case Choice(operands):
            pass
        case _:
            return None
    columns: frozenset[str] = frozenset()
    for operand in operands:
        needed = _is_total(operand)
        if needed is None:
            return None
        columns |= needed
    return columns


def _is_list(expr: Expr) -> bool:
    return isinstance(expr.value, list) if isinstance(expr, Const) else isinstance(expr, Apply) and expr.name == "list"


def split_equality(steps: Iterable[Expr], result: Expr) -> tuple[Equality, Expr | None] | None:
    """Find an equality that must hold and before which nothing can raise.

    Returns the equality and the rest of the condition, which is None if nothing is left. Returns None if there is no such equality.
    """
    scalars: frozenset[str] = frozenset()
    for step in steps:
        needed = _is_total(step)
        if needed is None:
            return None
        scalars |= needed
    line = result.line if isinstance(result, Logic) else 0
    conjuncts = result.operands if isinstance(result, Logic) and result.operator == "and" else (result,)
    for i, conjunct in enumerate(conjuncts):
        needed = _is_total(conjunct)
        if needed is None:
            return None
        scalars |= needed
        equality = _equality(conjunct, scalars)
        if equality is not None:
            rest = (*conjuncts[:i], *conjuncts[i + 1 :])
            return equality, None if not rest else rest[0] if len(rest) == 1 else Logic("and", rest, line)
        if not _is_boolean(conjunct):
            return None
    return None


def _equality(expr: Expr, scalars: frozenset[str]) -> Equality | None:
    if not isinstance(expr, Apply) or expr.name != "==":
        return None
    for side, other in (expr.operands, expr.operands[::-1]):
        match side, other:
            case ColumnOf("record", column), Const(value):
                return Equality(column, value, False, scalars)
            case Apply(_, (ColumnOf("record", column),)), Const(value) if is_text_of_column(side):
                return Equality(column, value, True, scalars)
    return None
