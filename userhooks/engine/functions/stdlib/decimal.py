"""The `Decimal` library, with its default context: 28 digits, rounding half up. Pure."""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.calendar import compared
from userhooks.engine.functions.stdlib.kernel import as_integer, as_text
from userhooks.engine.functions.structs import decimal as made
from userhooks.engine.functions.structs import decimal_of, decimal_text
from userhooks.engine.functions.terms import ERROR, OK, Atom, Raised, struct_name
from userhooks.engine.functions.text import float_text, inspect

_MAX_EXPONENT = 10_000
"""Maximum absolute value of an exponent, which limits the number of zeros in a decimal's text."""
_CONTEXT = decimal.Context(
    prec=28,
    rounding=decimal.ROUND_HALF_UP,
    Emin=-999_999,
    Emax=999_999,
    traps=[decimal.DivisionByZero, decimal.InvalidOperation, decimal.Overflow],
)
_NUMBER = re.compile(r"([+-]?)(?:(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,6}))?|(inf(?:inity)?|nan))", re.ASCII | re.IGNORECASE)


def number_of(value: Any) -> Decimal:
    """Return the number that an argument represents: a Decimal, an integer, or a string. Raises Raised for anything else."""
    if struct_name(value) == "Decimal":
        number = decimal_of(value)
    elif type(value) is int:
        number = Decimal(value)
    elif type(value) is str:
        parsed = _parsed(value)
        if parsed is None or parsed[1]:
            raise Raised(f"number parsing syntax: {inspect(value)}")
        number = parsed[0]
    elif type(value) is float:
        raise Raised(f"implicit conversion of {float_text(value)} to Decimal is not allowed. Use Decimal.from_float/1")
    else:
        raise Raised("no function clause matching in Decimal.decimal/1")
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and abs(exponent) > _MAX_EXPONENT:
        raise Raised("the exponent of a decimal is too large")
    return number


def _parsed(text: str) -> tuple[Decimal, str] | None:
    match = _NUMBER.match(text)
    if match is None or len(text) > 4000:
        return None
    return Decimal(match[0].rstrip(".") if "e" not in match[0].lower() else match[0].replace(".e", "e").replace(".E", "e")), text[
        match.end() :
    ]


def _computed(compute: Callable[[], Decimal]) -> Any:
    try:
        return made(compute())
    except decimal.DivisionByZero as exc:
        raise Raised("division by zero") from exc
    except decimal.InvalidOperation as exc:
        raise Raised("invalid operation") from exc
    except decimal.Overflow as exc:
        raise Raised("the result is too large") from exc


def _binary(name: str) -> Callable[..., Any]:
    operation = getattr(_CONTEXT, name)

    def run(meter: Meter, a: Any, b: Any) -> Any:
        left, right = number_of(a), number_of(b)
        meter.spend(1 + (len(left.as_tuple().digits) + len(right.as_tuple().digits)) // 32)
        return _computed(lambda: operation(left, right))

    return run


def divide(meter: Meter, a: Any, b: Any) -> Any:
    left, right = number_of(a), number_of(b)
    if right == 0 and not left.is_nan():
        raise Raised("division by zero" if left != 0 else "0 / 0")

    return _computed(lambda: _CONTEXT.divide(left, right))


def div_int(meter: Meter, a: Any, b: Any) -> Any:
    left, right = number_of(a), number_of(b)
    if right == 0:
        raise Raised("division by zero" if left != 0 else "0 / 0")
    return _computed(lambda: _EXACT.divide_int(left, right))


_EXACT = decimal.Context(prec=4000, rounding=decimal.ROUND_HALF_UP, Emin=-999_999, Emax=999_999)


def rem(meter: Meter, a: Any, b: Any) -> Any:
    left, right = number_of(a), number_of(b)
    if right == 0:
        raise Raised("division by zero" if left != 0 else "0 / 0")
    return _computed(lambda: _EXACT.remainder(left, right))


def div_rem(meter: Meter, a: Any, b: Any) -> Any:
    return div_int(meter, a, b), rem(meter, a, b)


def compare(meter: Meter, a: Any, b: Any) -> Atom:
    left, right = number_of(a), number_of(b)
    if left.is_nan() or right.is_nan():
        raise Raised("operation on NaN")
    return compared(int(left > right), int(left < right))


def _test(order: str) -> Callable[..., Any]:
    return lambda meter, a, b: not number_of(a).is_nan() and not number_of(b).is_nan() and compare(meter, a, b) is Atom(order)


def _or_equal(order: str) -> Callable[..., Any]:
    return lambda meter, a, b: compare(meter, a, b) in (Atom(order), Atom("eq"))


def extreme(order: str) -> Callable[..., Any]:
    def run(meter: Meter, a: Any, b: Any) -> Any:
        return made(number_of(a if compare(meter, a, b) in (Atom(order), Atom("eq")) else b))

    return run


_ROUNDING = {
    "down": decimal.ROUND_DOWN,
    "up": decimal.ROUND_UP,
    "ceiling": decimal.ROUND_CEILING,
    "floor": decimal.ROUND_FLOOR,
    "half_up": decimal.ROUND_HALF_UP,
    "half_down": decimal.ROUND_HALF_DOWN,
    "half_even": decimal.ROUND_HALF_EVEN,
}


def round_(meter: Meter, value: Any, places: Any = 0, mode: Any = Atom("half_up")) -> Any:
    number, places = number_of(value), as_integer(places)
    if not isinstance(mode, Atom) or mode.name not in _ROUNDING or abs(places) > _MAX_EXPONENT:
        raise Raised("no function clause matching in Decimal.round/3")
    if not number.is_finite():
        return made(number)
    return _computed(lambda: number.quantize(Decimal((0, (1,), -places)), _ROUNDING[mode.name], _EXACT))


def normalize(meter: Meter, value: Any) -> Any:
    number = number_of(value)
    if not number.is_finite():
        return made(number)
    sign, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    if not text:
        return made(Decimal((sign, (0,), 0)))
    return made(Decimal((sign, tuple(map(int, text)), int(exponent) + len(digits) - len(text))))


def to_string(meter: Meter, value: Any, form: Any = Atom("scientific")) -> str:
    if not isinstance(form, Atom) or form.name not in ("scientific", "normal", "xsd", "raw"):
        raise Raised("no function clause matching in Decimal.to_string/2")
    if struct_name(value) != "Decimal":
        raise Raised("no function clause matching in Decimal.to_string/2")
    return decimal_text(number_of(value), form.name)


def to_integer(meter: Meter, value: Any) -> int:
    number = number_of(value)
    if not number.is_finite() or number != number.to_integral_value(context=_EXACT):
        raise Raised(f"cannot convert {inspect(value)} without losing precision. Use Decimal.round/3 first.")
    meter.bits(4 * (number.adjusted() + 1) if number else 1)
    return int(number)


def to_float(meter: Meter, value: Any) -> float:
    number = number_of(value)
    if not number.is_finite() or abs(float(number)) == float("inf"):
        raise Raised("the number cannot be converted to a float")
    return float(number)


def parse(meter: Meter, text: Any) -> Any:
    parsed = _parsed(as_text(text))
    return ERROR if parsed is None else (made(parsed[0]), parsed[1])


def cast(meter: Meter, value: Any) -> Any:
    if type(value) is float:
        return OK, from_float(meter, value)
    if type(value) is str:
        parsed = _parsed(value)
        return ERROR if parsed is None or parsed[1] else (OK, made(parsed[0]))
    if type(value) is int or struct_name(value) == "Decimal":
        return OK, made(number_of(value))
    return ERROR


def new(meter: Meter, *parts: Any) -> Any:
    if len(parts) == 3:
        sign, coefficient, exponent = parts
        if sign not in (1, -1) or as_integer(coefficient) < 0 or abs(as_integer(exponent)) > _MAX_EXPONENT:
            raise Raised("no function clause matching in Decimal.new/3")
        return made(Decimal((int(sign == -1), tuple(map(int, str(coefficient))), exponent)))
    if len(parts) != 1:
        raise Raised("no function clause matching in Decimal.new/1")
    if type(parts[0]) is float:
        raise Raised("no function clause matching in Decimal.new/1")
    return made(number_of(parts[0]))


def from_float(meter: Meter, value: Any) -> Any:
    if type(value) is not float:
        raise Raised("no function clause matching in Decimal.from_float/1")
    return made(Decimal(repr(value)))


def sqrt(meter: Meter, value: Any) -> Any:
    number = number_of(value)
    if number < 0:
        raise Raised("invalid operation: less than zero")
    return _computed(lambda: _CONTEXT.sqrt(number))


def _copied(change: Callable[[Decimal], Decimal]) -> Callable[..., Any]:
    return lambda meter, value: _computed(
        lambda: _CONTEXT.plus(change(number_of(value))) if number_of(value).is_finite() else change(number_of(value))
    )


def is_integer(meter: Meter, value: Any) -> bool:
    number = number_of(value)
    return number.is_finite() and number == number.to_integral_value(context=_EXACT)


def scale(meter: Meter, value: Any) -> int:
    return max(-int(number_of(value).as_tuple().exponent), 0)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "new": new,
    "from_float": from_float,
    "add": _binary("add"),
    "sub": _binary("subtract"),
    "mult": _binary("multiply"),
    "div": divide,
    "div_int": div_int,
    "div_rem": div_rem,
    "rem": rem,
    "sqrt": sqrt,
    "abs": _copied(Decimal.copy_abs),
    "negate": _copied(Decimal.copy_negate),
    "compare": compare,
    "cmp": compare,
    "equal?": _test("eq"),
    "eq?": _test("eq"),
    "lt?": _test("lt"),
    "gt?": _test("gt"),
    "gte?": _or_equal("gt"),
    "lte?": _or_equal("lt"),
    "max": extreme("gt"),
    "min": extreme("lt"),
    "negative?": lambda meter, value: number_of(value) < 0,
    "positive?": lambda meter, value: number_of(value) > 0,
    "integer?": is_integer,
    "nan?": lambda meter, value: number_of(value).is_nan(),
    "inf?": lambda meter, value: number_of(value).is_infinite(),
    "round": round_,
    "normalize": normalize,
    "scale": scale,
    "to_string": to_string,
    "to_integer": to_integer,
    "to_float": to_float,
    "parse": parse,
    "cast": cast,
    "is_decimal": lambda meter, value: struct_name(value) == "Decimal",
}
