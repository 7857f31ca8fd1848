"""Elixir's `Integer`. Pure."""

from __future__ import annotations

import math
import re
from typing import Any

from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import BAD_ARITHMETIC, as_integer, as_list, as_text
from userhooks.engine.functions.terms import ERROR, Raised

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _base(base: Any) -> int:
    if type(base) is int and 2 <= base <= 36:
        return base
    raise Raised(f"invalid base {base}" if type(base) is int else "argument error")


def parse(meter: Meter, text: Any, base: Any = 10) -> Any:
    digits = _DIGITS[: _base(base)]
    match = re.match(f"[+-]?[{digits}{digits.lower()}]+", as_text(text), re.ASCII)
    if match is None:
        return ERROR
    meter.digits(len(match[0]) * 4)
    return int(match[0], base), text[match.end() :]


def to_string(meter: Meter, number: Any, base: Any = 10) -> str:
    number, base = as_integer(number), _base(base)
    meter.digits(number.bit_length())
    text = "".join(_DIGITS[digit] for digit in _digits(abs(number), base))
    return f"-{text}" if number < 0 else text


def _digits(number: int, base: int) -> list[int]:
    if base == 10:
        return [int(digit) for digit in str(number)]
    result: list[int] = []
    while number or not result:
        number, digit = divmod(number, base)
        result.append(digit)
    return result[::-1]


def digits(meter: Meter, number: Any, base: Any = 10) -> list[int]:
    number = as_integer(number)
    meter.spend(number.bit_length())
    sign = -1 if number < 0 else 1
    return [sign * digit for digit in _digits(abs(number), as_integer(base) if type(base) is int and base >= 2 else _base(base))]


def undigits(meter: Meter, digit_list: Any, base: Any = 10) -> int:
    number = 0
    for digit in as_list(digit_list):
        if as_integer(digit) >= as_integer(base):
            raise Raised(f"invalid digit {digit} in base {base}")
        number = number * base + digit
        meter.bits(number.bit_length())
    return number


def floor_div(meter: Meter, a: Any, b: Any) -> int:
    if as_integer(b, BAD_ARITHMETIC) == 0:
        raise Raised(BAD_ARITHMETIC)
    return int(as_integer(a, BAD_ARITHMETIC) // b)


def mod(meter: Meter, a: Any, b: Any) -> int:
    return int(a - floor_div(meter, a, b) * b)


def ceil_div(meter: Meter, a: Any, b: Any) -> int:
    return -floor_div(meter, -as_integer(a, BAD_ARITHMETIC), b)


def power(meter: Meter, base: Any, exponent: Any) -> int:
    base, exponent = as_integer(base), as_integer(exponent)
    if exponent < 0:
        raise Raised("no function clause matching in Integer.pow/2")
    meter.bits(base.bit_length() * exponent if abs(base) > 1 else 1)
    return int(base ** (exponent if abs(base) > 1 else min(exponent, 2 + exponent % 2)))


def extended_gcd(meter: Meter, a: Any, b: Any) -> tuple[int, int, int]:
    old, new = (as_integer(a), 1, 0), (as_integer(b), 0, 1)
    while new[0]:
        meter.spend()
        times = old[0] // new[0]
        old, new = new, (old[0] - times * new[0], old[1] - times * new[1], old[2] - times * new[2])
    return old if old[0] >= 0 else (-old[0], -old[1], -old[2])


FUNCTIONS = {
    "parse": parse,
    "to_string": to_string,
    "to_charlist": lambda meter, number, base=10: list(map(ord, to_string(meter, number, base))),
    "digits": digits,
    "undigits": undigits,
    "floor_div": floor_div,
    "ceil_div": ceil_div,
    "mod": mod,
    "pow": power,
    "gcd": lambda meter, a, b: math.gcd(as_integer(a), as_integer(b)),
    "extended_gcd": extended_gcd,
}
"""`is_even` and `is_odd` are missing, because they are macros, and code cannot `require` a module."""
