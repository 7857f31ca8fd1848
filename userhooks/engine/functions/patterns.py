"""Pattern matching: whether a value matches a pattern, and the variables that the pattern binds. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from userhooks.engine.functions.expressions import Anything, Binary, Both, Expr, Members, Pattern, Same, Segment, Sequence
from userhooks.engine.functions.terms import as_binary, as_bytes, as_key, identical, is_binary

if TYPE_CHECKING:
    from userhooks.engine.functions.evaluator import Frame

Match: TypeAlias = Callable[["Frame", Any], bool]
_Compile: TypeAlias = Callable[[Expr], Callable[["Frame"], Any]]


def compile_pattern(pattern: Pattern, evaluate: _Compile) -> Match:
    """Compile a pattern to a function that tests whether a value matches and binds the pattern's variables.

    `evaluate` compiles the expressions in the pattern.
    """
    match pattern:
        case Anything(None):
            return lambda frame, value: True
        case Anything(number, again):
            return _variable(number or 0, again)
        case Same(value):
            expected = evaluate(value)
            return lambda frame, value: identical(frame.meter, expected(frame), value)
        case Sequence():
            return _sequence(pattern, evaluate)
        case Members(pairs):
            return _members([(evaluate(key), compile_pattern(value, evaluate)) for key, value in pairs])
        case Both(first, second):
            matches, other = compile_pattern(first, evaluate), compile_pattern(second, evaluate)
            return lambda frame, value: matches(frame, value) and other(frame, value)
        case Binary(segments):
            return _binary(segments, evaluate)


def _variable(number: int, again: bool) -> Match:
    def match(frame: Frame, value: Any) -> bool:
        if again:
            return identical(frame.meter, frame.variables[number], value)
        frame.variables[number] = value
        return True

    return match


def _sequence(pattern: Sequence, evaluate: _Compile) -> Match:
    items = [compile_pattern(item, evaluate) for item in pattern.items]
    rest = None if pattern.rest is None else compile_pattern(pattern.rest, evaluate)
    kind = tuple if pattern.is_tuple else list

    def match(frame: Frame, value: Any) -> bool:
        if type(value) is not kind or len(value) < len(items) or (rest is None and len(value) > len(items)):
            return False
        for matches, item in zip(items, value, strict=False):
            if not matches(frame, item):
                return False
        if rest is None:
            return True
        frame.meter.spend(len(value) // 8)
        return rest(frame, list(value[len(items) :]))

    return match


def _members(pairs: list[tuple[Callable[[Frame], Any], Match]]) -> Match:
    def match(frame: Frame, value: Any) -> bool:
        if type(value) is not dict:
            return False
        for key, matches in pairs:
            name = as_key(frame.meter, key(frame))
            if name not in value or not matches(frame, value[name]):
                return False
        return True

    return match


def _binary(segments: tuple[Segment, ...], evaluate: _Compile) -> Match:
    parts = [
        (segment, None if segment.size is None else evaluate(segment.size), compile_pattern(segment.content, evaluate))
        for segment in segments
    ]

    def match(frame: Frame, value: Any) -> bool:
        if not is_binary(value):
            return False
        remaining = as_bytes(value)
        frame.meter.text(len(remaining))
        for segment, size, matches in parts:
            taken = _taken(segment, None if size is None else size(frame), remaining)
            if taken is None or not matches(frame, taken[0]):
                return False
            remaining = taken[1]
        return not remaining

    return match


def _taken(segment: Segment, size: Any, remaining: bytes) -> tuple[Any, bytes] | None:
    """Return a segment's value and the remaining bytes; None if the segment does not match."""
    if segment.kind == "utf8":
        for length in range(1, 5):
            try:
                return ord(remaining[:length].decode()), remaining[length:]
            except (UnicodeDecodeError, TypeError):
                continue
        return None
    if segment.kind == "binary":
        if size is None:
            return as_binary(remaining), b""
        if type(size) is not int or not 0 <= size <= len(remaining):
            return None
        return as_binary(remaining[:size]), remaining[size:]
    bits = 8 if size is None else size
    if type(bits) is not int or bits < 0 or bits % 8 or bits // 8 > len(remaining):
        return None
    number = int.from_bytes(remaining[: bits // 8], "little" if segment.little else "big", signed=segment.signed)
    return number, remaining[bits // 8 :]
