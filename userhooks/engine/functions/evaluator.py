"""Compile expressions to Python functions that evaluate them for one change. Pure.

A compiled function takes a `Frame`: the change, the variables, and the meter that limits the work. The functions that code may call are
in `stdlib/`. It is long because each kind of expression has its own function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar

from userhooks.engine.change import Change, changes_of, record_of
from userhooks.engine.functions import patterns, text
from userhooks.engine.functions.columns import column_of, old_column_of, seeing
from userhooks.engine.functions.expressions import (
    Anything,
    Apply,
    Argument,
    Bind,
    Block,
    Case,
    Choice,
    Clause,
    ColumnOf,
    Cond,
    Const,
    Expr,
    Invoke,
    Lambda,
    Local,
    Logic,
    MetadataOf,
    With,
)
from userhooks.engine.functions.library import UNFIT
from userhooks.engine.functions.metadata import METADATA_TERMS, metadata_of
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.terms import Atom, Closure, Raised, is_truthy
from userhooks.engine.postgres.pg_types import TimestampFormat

T = TypeVar("T")


class Frame:
    """State of one evaluation: the change, the variables by number, the meter, and in `seen` the parts of the change read so far."""

    __slots__ = ("change", "meter", "seen", "variables")

    def __init__(self, change: Change, variables: list[Any], meter: Meter, seen: dict[Any, Any]) -> None:
        self.change = change
        self.variables = variables
        self.meter = meter
        self.seen = seen


Make: TypeAlias = Callable[[Frame], T]
Evaluate: TypeAlias = Make[Any]
Compile: TypeAlias = Callable[[Expr], Make[T]]


def compile_expression(expr: Expr, metadata: Mapping[Atom, Any], timestamp_format: TimestampFormat = "iso8601") -> Evaluate:
    """Compile an expression to a function of a frame.

    The function raises Raised for an Elixir exception, and ValueError or RecursionError for a column that cannot be decoded.
    """
    inner = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    see = seeing(timestamp_format)
    match expr:
        case Const(value):
            return lambda frame: value
        case Local(number):
            return lambda frame: frame.variables[number]
        case ColumnOf("record", column):
            return _once(expr, lambda change: column_of(change, column, timestamp_format))
        case ColumnOf(_, column):
            return _once(expr, lambda change: old_column_of(change, column, timestamp_format))
        case MetadataOf(field):
            return _once(expr, METADATA_TERMS[field])
        case Argument("action"):
            return lambda frame: frame.change.action
        case Argument("record"):
            return _once(expr, lambda change: record_of(change, see))
        case Argument("changes"):
            return _once(expr, lambda change: changes_of(change, see))
        case Argument(_):
            return _once(expr, lambda change: metadata_of(change, metadata))
        case Apply():
            return _compile_apply(expr, inner)
        case Logic():
            return _compile_logic(expr, inner)
        case Invoke():
            return _compile_invoke(expr, inner)
        case Lambda():
            return _compile_lambda(expr, inner)
        case Bind(pattern, value, line):
            return _compile_bind(pattern, inner(value), inner, line)
        case With():
            return _compile_with(expr, inner)
    branches = compile_branches(expr, inner, inner)
    if branches is None:
        raise TypeError(expr)
    return branches


@lru_cache(maxsize=4096)  # shared by all sinks
def _name(expr: Expr) -> str:
    return repr(expr)


def _once(expr: Expr, read: Callable[[Change], Any]) -> Evaluate:
    """Return a function that reads a part of the change at most once per evaluation, because a json value may be large."""
    name = _name(expr)

    def evaluate(frame: Frame) -> Any:
        seen = frame.seen
        if name in seen:
            return seen[name]
        value = seen[name] = read(frame.change)
        return value

    return evaluate


def compile_branches(expr: Expr, evaluate: Compile[Any], branch: Compile[T]) -> Make[T] | None:
    """Compile an expression whose value is that of one of its branches, such as `if` or `case`; returns None for any other expression.

    `branch` compiles the branches, and `evaluate` compiles everything else.
    """
    match expr:
        case Choice((condition, result, otherwise)):
            return choose(evaluate(condition), branch(result), branch(otherwise))
        case Case(subject, clauses, line):
            return _compile_case(evaluate(subject), clauses, evaluate, branch, line)
        case Cond(clauses, line):
            return _compile_cond([(evaluate(condition), branch(result)) for condition, result in clauses], line)
        case Block(operands):
            return _compile_block([evaluate(operand) for operand in operands[:-1]], branch(operands[-1]))
    return None


def at_line(raised: Raised, line: int) -> Raised:
    """Set the line of an error unless an inner expression has set it."""
    if raised.line is None and line:
        raised.line = line
    return raised


def _no_clause(expr: Apply) -> Raised:
    return at_line(Raised(f"no function clause matching in {expr.name}/{len(expr.operands)}"), expr.line)


_LIGHT = frozenset(
    "== != === !== < > <= >= in not is_nil field Access.get Map.get to_string <> list map tuple is_integer is_binary is_list is_map".split()
)
"""Library functions that are called without weighing arguments and result.

They spend steps themselves, or their work is bounded by the size of the code.
"""


def _compile_apply(expr: Apply, inner: Compile[Any]) -> Evaluate:
    if expr.name in _LIGHT:
        return _compile_light(expr, inner)
    run, line = expr.function.run, expr.line
    operands = [inner(operand) for operand in expr.operands]

    def evaluate(frame: Frame) -> Any:
        meter = frame.meter
        values = [operand(frame) for operand in operands]
        try:
            for value in values:
                meter.weigh(value)
            meter.spend()
            result = run(meter, *values)
            meter.weigh(result)
        except Raised as exc:
            raise at_line(exc, line) from None
        except UNFIT as exc:
            raise _no_clause(expr) from exc
        return result

    return evaluate


def _nothing(frame: Frame) -> None:
    """Stand in for a missing operand."""


def _compile_light(expr: Apply, inner: Compile[Any]) -> Evaluate:
    run, line = expr.function.run, expr.line
    operands = [inner(operand) for operand in expr.operands]
    first, second = (*operands, _nothing, _nothing)[:2]

    def unary(frame: Frame) -> Any:
        value = first(frame)
        try:
            return run(frame.meter, value)
        except Raised as exc:
            raise at_line(exc, line) from None
        except UNFIT as exc:
            raise _no_clause(expr) from exc

    def binary(frame: Frame) -> Any:
        value, other = first(frame), second(frame)
        try:
            return run(frame.meter, value, other)
        except Raised as exc:
            raise at_line(exc, line) from None
        except UNFIT as exc:
            raise _no_clause(expr) from exc

    def variadic(frame: Frame) -> Any:
        values = [operand(frame) for operand in operands]
        try:
            return run(frame.meter, *values)
        except Raised as exc:
            raise at_line(exc, line) from None
        except UNFIT as exc:
            raise _no_clause(expr) from exc

    return {1: unary, 2: binary}.get(len(operands), variadic)


def _compile_logic(expr: Logic, inner: Compile[Any]) -> Evaluate:
    *first, last = [inner(operand) for operand in expr.operands]
    name, line = expr.operator, expr.line
    continues_on = name in ("and", "&&")

    def strict(frame: Frame) -> Any:
        for operand in first:
            value = operand(frame)
            if value is not continues_on:
                if value is not (not continues_on):
                    raise at_line(Raised(f'expected a boolean on left-side of "{name}", got:\n\n    {text.inspect(value)}\n'), line)
                return value
        return last(frame)

    def loose(frame: Frame) -> Any:
        for operand in first:
            value = operand(frame)
            if is_truthy(value) is not continues_on:
                return value
        return last(frame)

    return strict if name in ("and", "or") else loose


def choose(condition: Evaluate, result: Make[T], otherwise: Make[T]) -> Make[T]:
    """Compile `if`: the result or the alternative, depending on the condition."""

    def make(frame: Frame) -> T:
        return (result if is_truthy(condition(frame)) else otherwise)(frame)

    return make


def _compile_block(first: Sequence[Evaluate], last: Make[T]) -> Make[T]:
    def make(frame: Frame) -> T:
        for evaluate in first:
            evaluate(frame)
        return last(frame)

    return make


def _compile_cond(clauses: Sequence[tuple[Evaluate, Make[T]]], line: int) -> Make[T]:
    def make(frame: Frame) -> T:
        for condition, result in clauses:
            if is_truthy(condition(frame)):
                return result(frame)
        raise at_line(Raised("no cond clause evaluated to a truthy value"), line)

    return make


Compiled: TypeAlias = tuple[list[patterns.Match], Evaluate | None, Make[T]]


def _compile_clauses(clauses: Iterable[Clause], evaluate: Compile[Any], branch: Compile[T]) -> list[Compiled[T]]:
    return [
        (
            [patterns.compile_pattern(pattern, evaluate) for pattern in clause.patterns],
            None if clause.guard is None else evaluate(clause.guard),
            branch(clause.body),
        )
        for clause in clauses
    ]


def _matches(matches: Sequence[patterns.Match], guard: Evaluate | None, frame: Frame, values: Sequence[Any]) -> bool:
    for match, value in zip(matches, values, strict=True):
        if not match(frame, value):
            return False
    if guard is None:
        return True
    try:
        return guard(frame) is True
    except Raised as exc:
        if frame.meter.left < 0:
            raise
        del exc
        return False  # as in Elixir, a guard that raises does not match


def _compile_case(subject: Evaluate, clauses: Iterable[Clause], evaluate: Compile[Any], branch: Compile[T], line: int) -> Make[T]:
    compiled = _compile_clauses(clauses, evaluate, branch)

    def make(frame: Frame) -> T:
        value = subject(frame)
        for match, guard, result in compiled:
            frame.meter.spend()
            if _matches(match, guard, frame, (value,)):
                return result(frame)
        raise at_line(Raised(f"no case clause matching:\n\n    {text.inspect(value)}\n"), line)

    return make


def _compile_bind(pattern: Any, value: Evaluate, inner: Compile[Any], line: int) -> Evaluate:
    if isinstance(pattern, Anything) and pattern.number is not None and not pattern.again:
        number = pattern.number

        def assign(frame: Frame) -> Any:
            frame.variables[number] = result = value(frame)
            return result

        return assign
    match = patterns.compile_pattern(pattern, inner)

    def bind(frame: Frame) -> Any:
        result = value(frame)
        if not match(frame, result):
            raise at_line(Raised(f"no match of right hand side value:\n\n    {text.inspect(result)}\n"), line)
        return result

    return bind


def _compile_with(expr: With, inner: Compile[Any]) -> Evaluate:
    steps: list[tuple[patterns.Match | None, Evaluate | None, Evaluate]] = []
    for step in expr.steps:
        if isinstance(step, Clause):
            guard = None if step.guard is None else inner(step.guard)
            steps.append((patterns.compile_pattern(step.patterns[0], inner), guard, inner(step.body)))
        else:
            steps.append((None, None, inner(step)))
    body, otherwise, line = inner(expr.body), _compile_clauses(expr.otherwise, inner, inner), expr.line

    def evaluate(frame: Frame) -> Any:
        for match, guard, step in steps:
            value = step(frame)
            if match is not None and not _matches((match,), guard, frame, (value,)):
                break
        else:
            return body(frame)
        for patterns_, guard, result in otherwise:
            if _matches(patterns_, guard, frame, (value,)):
                return result(frame)
        if otherwise:
            raise at_line(Raised(f"no with clause matching:\n\n    {text.inspect(value)}\n"), line)
        return value

    return evaluate


def _compile_lambda(expr: Lambda, inner: Compile[Any]) -> Evaluate:
    compiled, size, line = _compile_clauses(expr.clauses, inner, inner), expr.size, expr.line
    arity = len(expr.clauses[0].patterns)

    def evaluate(frame: Frame) -> Closure:
        captured = frame.variables.copy()
        meter = frame.meter
        meter.spend(len(captured) // 16)

        def run(*arguments: Any) -> Any:
            meter.spend(size)
            call_frame = Frame(frame.change, captured.copy(), meter, frame.seen)
            for match, guard, result in compiled:
                if _matches(match, guard, call_frame, arguments):
                    return result(call_frame)
            raise at_line(Raised("no function clause matching in an anonymous function"), line)

        return Closure(arity, run)

    return evaluate


def _compile_invoke(expr: Invoke, inner: Compile[Any]) -> Evaluate:
    function, *operands = [inner(operand) for operand in expr.operands]
    line = expr.line

    def evaluate(frame: Frame) -> Any:
        closure = function(frame)
        arguments = [operand(frame) for operand in operands]
        try:
            if not isinstance(closure, Closure):
                raise Raised(f"expected a function, got:\n\n    {text.inspect(closure)}\n")
            return closure(*arguments)
        except Raised as exc:
            raise at_line(exc, line) from None

    return evaluate
