"""Complete functions: from code to a callable that runs for each change. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from userhooks.engine.change import Change
from userhooks.engine.functions.compiler import compile_body
from userhooks.engine.functions.evaluator import Frame, Make, compile_expression
from userhooks.engine.functions.expressions import Expr
from userhooks.engine.functions.folding import fold_steps
from userhooks.engine.functions.meter import MAX_STEPS, Exhausted, Meter
from userhooks.engine.functions.parser import parse_code
from userhooks.engine.functions.terms import Atom, Raised
from userhooks.engine.functions.validator import check, unwrap
from userhooks.engine.postgres.pg_types import TimestampFormat

T = TypeVar("T")


class FunctionRaised(Exception):
    """A function raised, reached the step limit, or returned an invalid value."""


@dataclass(frozen=True, slots=True)
class Program:
    """The body of a function: expressions in sequence, and the number of their variables."""

    steps: tuple[Expr, ...]
    variables: int


def read_program(code: str) -> Program:
    """Parse, validate, and compile code; raises FunctionError with the line and the reason."""
    body = unwrap(parse_code(code))
    check(body)
    return Program(*compile_body(body))


def run_program(
    program: Program,
    metadata: Mapping[Atom, Any],
    timestamp_format: TimestampFormat,
    compile_result: Callable[[Expr], Make[T]],
) -> Callable[[Change], T]:
    """Return a callable that evaluates the program for a change; the callable raises FunctionRaised if the function fails."""
    steps, result = fold_steps(program.steps, metadata)
    return run_steps(steps, compile_result(result), program.variables, metadata, timestamp_format)


def run_steps(
    steps: list[Expr],
    make: Make[T],
    variables: int,
    metadata: Mapping[Atom, Any],
    timestamp_format: TimestampFormat,
) -> Callable[[Change], T]:
    """Return a callable that evaluates the steps and then the result; the callable raises FunctionRaised if the function fails."""
    evaluate = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    compiled = [evaluate(step) for step in steps]
    meter = Meter()
    pause = _Pause()

    def run(change: Change) -> T:
        if pause.left:
            pause.left -= 1
            raise FunctionRaised("the function took too long for an earlier change; this change is retried later")
        meter.left = MAX_STEPS
        frame = Frame(change, [None] * variables, meter, {})
        try:
            for step in compiled:
                step(frame)
            result = make(frame)
        except Exhausted as exc:
            pause.lengthen()
            raise FunctionRaised(str(exc)) from exc
        except (Raised, ValueError) as exc:
            raise FunctionRaised(str(exc)) from exc
        except RecursionError as exc:
            pause.lengthen()
            raise FunctionRaised("the function recurses too deeply, or a value is nested too deeply") from exc
        pause.length = 0
        return result

    return run


class _Pause:
    """Number of changes to skip after a function has reached the limit, so that a slow function costs little. It doubles each time."""

    __slots__ = ("left", "length")
    _LONGEST = 64

    def __init__(self) -> None:
        self.left = 0
        self.length = 0

    def lengthen(self) -> None:
        """Start the next pause: the first one skips 0 changes, and later ones skip 1, 2, 4, and so on, up to 64."""
        self.left = self.length
        self.length = min(2 * self.length or 1, self._LONGEST)
