"""A JSON parser that accepts every text of RFC 8259's grammar, for bodies that orjson rejects or in which it would drop repeated
names. Pure.

It has no limits on depth or magnitude: it accepts integers of any length, exponents out of a float's range, and lone surrogates in escapes.
Callers interpret the values.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_SPACE = r"[ \t\n\r]*+"
_STRING = r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_VALUE = re.compile(rf"{_SPACE}(?:(?P<open>[{{\[])|(?P<string>{_STRING})|(?P<number>{_NUMBER})|(?P<word>true|false|null))")
_NAME = re.compile(rf"{_SPACE}({_STRING}){_SPACE}:")
_NEXT = re.compile(rf"{_SPACE}([,}}\]])")
_BLANK = re.compile(_SPACE)
_WORDS = {"true": True, "false": False, "null": None}

_INTEGER_DIGITS = 4_000
"""Maximum number of digits of an integer. Longer integers are returned as text.

Python refuses to convert very long ones (`sys.set_int_max_str_digits`).
"""


class NotJson(ValueError):
    """The text is not valid JSON; the message says what is wrong, and where."""


class Repeated(list[Any]):
    """All values of a name that occurs more than once in an object."""


class Parsed(NamedTuple):
    """A parsed value, and a name that occurs more than once in one of its objects, if any."""

    value: Any
    repeated: str | None


def parse(text: str) -> Parsed:
    """Parse a JSON text; raises NotJson. Lone surrogates become their escapes (`\\ud800`), so that every string can be encoded."""
    place, repeated = 0, None
    containers: list[Any] = []
    names: list[str] = []
    while True:
        match = _VALUE.match(text, place)
        if match is None:
            raise _wrong(text, place, "a value")
        place = match.end()
        kind, part = match.lastgroup, match[match.lastgroup or 0]
        value: Any
        if kind == "open":
            value = {} if part == "{" else []
            closing = _NEXT.match(text, place)
            if closing is None or closing[1] != ("}" if part == "{" else "]"):
                containers.append(value)
                if part == "{":
                    name, place = _name(text, place)
                    names.append(name)
                continue
            place = closing.end()
        else:
            value = _scalar(kind, part)
        while containers:
            inside = containers[-1]
            if type(inside) is list:
                inside.append(value)
            elif (name := names.pop()) in inside:
                repeated = name
                if type(inside[name]) is not Repeated:
                    inside[name] = Repeated([inside[name]])
                inside[name].append(value)
            else:
                inside[name] = value
            end = "]" if type(inside) is list else "}"
            following = _NEXT.match(text, place)
            if following is None or following[1] not in (",", end):
                raise _wrong(text, place, f"',' or '{end}'")
            place = following.end()
            if following[1] == ",":
                if end == "}":
                    name, place = _name(text, place)
                    names.append(name)
                break
            value = containers.pop()
        else:
            end_of_text = _BLANK.match(text, place)
            if end_of_text is not None and end_of_text.end() != len(text):
                raise _wrong(text, place, "the end")
            return Parsed(value, repeated)


def _scalar(kind: str | None, token: str) -> Any:
    if kind == "string":
        return _string(token)
    if kind == "word":
        return _WORDS[token]
    if token.lstrip("-").isdigit():
        return int(token) if len(token) <= _INTEGER_DIGITS else token
    return float(token)


def _string(token: str) -> str:
    if "\\" not in token:
        return token[1:-1]
    decoded: str = json.loads(token)
    return decoded.encode("utf-8", "backslashreplace").decode()


def _name(text: str, place: int) -> tuple[str, int]:
    match = _NAME.match(text, place)
    if match is None:
        raise _wrong(text, place, "a name in double quotes and ':'")
    return _string(match[1]), match.end()


def _wrong(text: str, place: int, expected: str) -> NotJson:
    blank = _BLANK.match(text, place)
    place = place if blank is None else blank.end()
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    what = f"{text[place : place + 20]!r} instead of {expected}" if place < len(text) else f"the text ends where {expected} should be"
    return NotJson(f"line {line}, column {column}: {what}")
