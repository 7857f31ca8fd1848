"""Filter functions: decide whether a change passes, and find the column value that a filter can be indexed by. Pure.

A filter function is parsed once (`parse`), bound to a sink's constants (`Filter.bind`), and called for each change (`Bound.accepts`).
`engine/routing.py` matches a change against many sinks at once.
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
    """A filter bound to one sink; `accepts` decides for any change, and raises FunctionRaised if the function fails.

    If `equality` is set, only changes that meet it can pass. In addition, an update must pass `rest`, and any other change must pass
    `rest_of_others`; None means that the equality is enough. If `never` is set, no change can pass.
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
        """Bind the filter to a sink; `constants` is the part of `metadata` that is the same for all of its changes.

        The values are JSON-like: nested mappings are converted to Elixir's maps, except `annotations`, which stay plain JSON.
        """
        metadata = constant_metadata(constants)
        steps, result = fold_steps(self.program.steps, metadata)
        if not steps and isinstance(result, Const) and result.value is False:
            return Bound(lambda _: False, never=True)
        split = split_equality(steps, result)
        if split is None:
            return Bound(self._judge(steps, result, metadata))
        accepts = _deferred(lambda: self._judge(steps, result, metadata))
        equality, rest = split
        if rest is None:
            return Bound(accepts, equality)
        judge = self._judge(steps, rest, metadata)
        is_decided = not steps and without_update(rest) == Const(True)
        return Bound(accepts, equality, judge, None if is_decided else judge)

    def _judge(self, steps: list[Expr], result: Expr, metadata: Mapping[Atom, Any]) -> Judge:
        """Compile the filter to a function that returns a boolean or raises FunctionRaised."""
        return run_steps(steps, _boolean(compile_expression(result, metadata)), self.program.variables, metadata, "iso8601")


def _deferred(make: Callable[[], Judge]) -> Judge:
    """Defer compiling until the first call: most filters are looked up by their equality and never called."""
    compiled: Judge | None = None

    def judge(change: Change) -> bool:
        nonlocal compiled
        if compiled is None:
            compiled = make()
        return compiled(change)

    return judge


def _boolean(evaluate: Make[Any]) -> Make[bool]:
    def make(frame: Frame) -> bool:
        value = evaluate(frame)
        if value is True or value is False:
            return value is True
        raise Raised(f"the function returned {inspect(value)}, which is not a boolean")

    return make


@lru_cache(maxsize=16)  # thousands of sinks may share one function
def parse(code: str, function_type: str) -> Filter:
    """Parse the code of a filter function; raises FunctionError with the line and the reason."""
    if function_type != "filter":
        raise FunctionError(1, f"a {function_type} function is not a filter")
    return Filter(read_program(code))
