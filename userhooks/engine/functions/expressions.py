"""Expressions: code whose names are resolved to variables, arguments, and library functions. Pure.

`compiler.py` creates them, `folding.py` simplifies them, and `evaluator.py` evaluates them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from userhooks.engine.functions.library import LibraryFunction


@dataclass(frozen=True, slots=True)
class Const:
    """A known value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Argument:
    """One of the function's arguments: `action`, `record`, `changes`, or `metadata`."""

    name: str


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """`record["column"]` or `changes["column"]`."""

    argument: str
    column: str


@dataclass(frozen=True, slots=True)
class MetadataOf:
    """A field of `metadata` that depends on the change."""

    field: str


@dataclass(frozen=True, slots=True)
class Local:
    """A variable, identified by a number; each binding in the code has a different one."""

    number: int


@dataclass(frozen=True, slots=True)
class Apply:
    """A call of a library function."""

    function: LibraryFunction
    operands: tuple[Expr, ...]
    line: int = 0

    @property
    def name(self) -> str:
        """The function's name, like `==` or `Map.get`."""
        return self.function.name


@dataclass(frozen=True, slots=True)
class Logic:
    """Operands joined by `and`, `or`, `&&`, or `||`; for `and` and `or`, all but the last must be booleans."""

    operator: str
    operands: tuple[Expr, ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """`if`: the condition, the result, and the alternative."""

    operands: tuple[Expr, Expr, Expr]


@dataclass(frozen=True, slots=True)
class Block:
    """Expressions in sequence; the last one gives the value."""

    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """One pattern per value, an optional guard, and the body to evaluate if the patterns match and the guard is true."""

    patterns: tuple[Pattern, ...]
    guard: Expr | None
    body: Expr


@dataclass(frozen=True, slots=True)
class Case:
    """`case`: the subject and the clauses it is matched against."""

    subject: Expr
    clauses: tuple[Clause, ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Cond:
    """`cond`: conditions, each with its result."""

    clauses: tuple[tuple[Expr, Expr], ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class With:
    """`with`: the steps, the body, and the clauses of `else`.

    A step is an expression, or a clause whose body is the expression to match.
    """

    steps: tuple[Expr | Clause, ...]
    body: Expr
    otherwise: tuple[Clause, ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Bind:
    """A match: `pattern = value`."""

    pattern: Pattern
    value: Expr
    line: int = 0


@dataclass(frozen=True, slots=True)
class Lambda:
    """An anonymous function; `size` is the number of expressions in it."""

    clauses: tuple[Clause, ...]
    size: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class Invoke:
    """A call of an anonymous function, which is the first operand."""

    operands: tuple[Expr, ...]
    line: int = 0


Expr: TypeAlias = (
    Const | Argument | ColumnOf | MetadataOf | Local | Apply | Logic | Choice | Block | Case | Cond | With | Bind | Lambda | Invoke
)


# --- patterns ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anything:
    """`_`, or a variable to bind; if `again` is true, the pattern has already bound the variable, and the values must be identical."""

    number: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Same:
    """A literal or a pinned variable, which the value must equal."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Sequence:
    """A tuple, or a list whose tail may have a pattern."""

    items: tuple[Pattern, ...]
    is_tuple: bool
    rest: Pattern | None = None


@dataclass(frozen=True, slots=True)
class Members:
    """A map that has at least these keys."""

    pairs: tuple[tuple[Expr, Pattern], ...]


@dataclass(frozen=True, slots=True)
class Both:
    """Two patterns that must both match: `pattern = pattern`."""

    first: Pattern
    second: Pattern


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a binary: its content, kind (`integer`, `binary`, or `utf8`), size, and integer format.

    The size is in bits for an integer and in bytes for a binary.
    """

    content: Any
    kind: str = "integer"
    size: Any = None
    signed: bool = False
    little: bool = False


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary, as a sequence of segments."""

    segments: tuple[Segment, ...]


Pattern: TypeAlias = Anything | Same | Sequence | Members | Both | Binary


# --- walking -------------------------------------------------------------------------------------------------------------


def rebuilt(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return a copy of the expression with `change` applied to each operand."""
    match expr:
        case Apply() | Logic() | Block() | Invoke():
            return replace(expr, operands=tuple(map(change, expr.operands)))
        case Choice((condition, result, otherwise)):
            return Choice((change(condition), change(result), change(otherwise)))
        case Case(subject, clauses, line):
            return Case(change(subject), tuple(_rebuilt(clause, change) for clause in clauses), line)
        case Cond(clauses, line):
            return Cond(tuple((change(condition), change(result)) for condition, result in clauses), line)
        case With(steps, body, otherwise, line):
            return With(
                tuple(_rebuilt(step, change) if isinstance(step, Clause) else change(step) for step in steps),
                change(body),
                tuple(_rebuilt(clause, change) for clause in otherwise),
                line,
            )
        case Bind(pattern, value, line):
            return Bind(changed_pattern(pattern, change), change(value), line)
        case Lambda(clauses, size, line):
            return Lambda(tuple(_rebuilt(clause, change) for clause in clauses), size, line)
    return expr


def _rebuilt(clause: Clause, change: Callable[[Expr], Expr]) -> Clause:
    guard = None if clause.guard is None else change(clause.guard)
    return Clause(tuple(changed_pattern(pattern, change) for pattern in clause.patterns), guard, change(clause.body))


def changed_pattern(pattern: Pattern, change: Callable[[Expr], Expr]) -> Pattern:
    """Return a copy of the pattern with `change` applied to each expression in it."""
    match pattern:
        case Same(value):
            return Same(change(value))
        case Sequence(items, is_tuple, rest):
            changed_rest = None if rest is None else changed_pattern(rest, change)
            return Sequence(tuple(changed_pattern(item, change) for item in items), is_tuple, changed_rest)
        case Members(pairs):
            return Members(tuple((change(key), changed_pattern(value, change)) for key, value in pairs))
        case Both(first, second):
            return Both(changed_pattern(first, change), changed_pattern(second, change))
        case Binary(segments):
            return Binary(
                tuple(
                    replace(
                        segment,
                        content=changed_pattern(segment.content, change),
                        size=None if segment.size is None else change(segment.size),
                    )
                    for segment in segments
                )
            )
    return pattern
