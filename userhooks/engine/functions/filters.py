"""Filter functions: what they say of a change, and by what a filter can be found. Pure.

A filter function is parsed once (`parse`), bound to a sink's constants (`Filter.bind`), then asked about each change (`Bound.accepts`). How
many sinks are matched at once is in `engine/routing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from userhooks.engine.change import Change
from userhooks.engine.functions.evaluator import Frame, Make, compile_expression
from userhooks.engine.functions.expressions import Const, Expr
from userhooks.engine.functions.folding import Equality, fold_steps, split_equality, without_update
from userhooks.engine.functions.metadata import constant_metadata
from userhooks.engine.functions.program import Program, read_program, run_steps
from userhooks.engine.functions.syntax import FunctionError
from userhooks.engine.functions.terms import Atom, Raised
from userhooks.engine.functions.text import inspect

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
        metadata = constant_metadata(constants)
        steps, result = fold_steps(self.program.steps, metadata)
        if not steps and isinstance(result, Const) and result.value is False:
            return Bound(lambda _: False, never=True)
        split = split_equality(steps, result)
        if split is None:
            return Bound(self._judge(steps, result, metadata))
        accepts = _when_asked(lambda: self._judge(steps, result, metadata))
        equality, rest = split
        if rest is None:
            return Bound(accepts, equality)
        judge = self._judge(steps, rest, metadata)
        is_decided = not steps and without_update(rest) == Const(True)
        return Bound(accepts, equality, judge, None if is_decided else judge)

    def _judge(self, steps: list[Expr], result: Expr, metadata: Mapping[Atom, Any]) -> Judge:
        """Compile to a function that answers true or false, or raises FunctionRaised."""
        return run_steps(steps, _boolean(compile_expression(result, metadata)), self.program.variables, metadata, "iso8601")


def _when_asked(make: Callable[[], Judge]) -> Judge:
    """Make a judge when it is asked for the first time: most of ten thousand filters are found by their equality, and never asked."""
    made: Judge | None = None

    def judge(change: Change) -> bool:
        nonlocal made
        if made is None:
            made = make()
        return made(change)

    return judge


def _boolean(answer: Make[Any]) -> Make[bool]:
    def make(frame: Frame) -> bool:
        value = answer(frame)
        if value is True or value is False:
            return value is True
        raise Raised(f"the function answered {inspect(value)}, which is neither true nor false")

    return make


@lru_cache(maxsize=16)  # the same function for thousands of sinks
def parse(code: str, function_type: str) -> Filter:
    """Parse the code of a filter function; raises FunctionError with what is refused and why."""
    if function_type != "filter":
        raise FunctionError(1, f"a {function_type} function is not a filter")
    return Filter(read_program(code))
