"""Whole functions: from code to what runs for each change. Pure."""

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
    """A function raised, reached the bound, or did not answer what it has to."""


@dataclass(frozen=True, slots=True)
class Program:
    """The body of a function: expressions one after the other, and how many variables they have."""

    steps: tuple[Expr, ...]
    variables: int


def read_program(code: str) -> Program:
    """Read a function's code; raises FunctionError with what is refused and why."""
    body = unwrap(parse_code(code))
    check(body)
    return Program(*compile_body(body))


def run_program(
    program: Program,
    metadata: Mapping[Atom, Any],
    timestamp_format: TimestampFormat,
    compile_result: Callable[[Expr], Make[T]],
) -> Callable[[Change], T]:
    """Make what evaluates a program for a change; it raises FunctionRaised."""
    steps, result = fold_steps(program.steps, metadata)
    return run_steps(steps, compile_result(result), program.variables, metadata, timestamp_format)


def run_steps(
    steps: list[Expr],
    make: Make[T],
    variables: int,
    metadata: Mapping[Atom, Any],
    timestamp_format: TimestampFormat,
) -> Callable[[Change], T]:
    """Make what evaluates the steps, then the result; it raises FunctionRaised."""
    evaluate = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
    compiled = [evaluate(step) for step in steps]
    meter = Meter()
    pause = _Pause()

    def run(change: Change) -> T:
        if pause.left:
            pause.left -= 1
            raise FunctionRaised("the function did too much for an earlier change; for this one it is tried again later")
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
            raise FunctionRaised("the function calls itself too often, or a value is nested too deeply") from exc
        pause.length = 0
        return result

    return run


class _Pause:
    """How many changes a function is not asked about after it has reached the bound, so that it costs little: twice as many each time."""

    __slots__ = ("left", "length")
    _LONGEST = 64

    def __init__(self) -> None:
        self.left = 0
        self.length = 0

    def lengthen(self) -> None:
        """Begin a pause."""
        self.left = self.length
        self.length = min(2 * self.length or 1, self._LONGEST)
