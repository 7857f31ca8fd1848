"""What Elixir's modules of dates and times have in common: units, comparison, shifting, and formats. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import as_integer, options
from userhooks.engine.functions.structs import MICROSECONDS_OF_DAY, Moment
from userhooks.engine.functions.terms import ERROR, OK, Atom, Raised
from userhooks.engine.functions.text import inspect

_UNITS = {"day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000, "millisecond": 1000, "microsecond": 1}
_PRECISIONS = {"second": 0, "millisecond": 3, "microsecond": 6, "nanosecond": 6}


def answer(result: Any) -> Any:
    """Return `{:ok, result}`, or `{:error, reason}` for an atom."""
    return (ERROR, result) if isinstance(result, Atom) else (OK, result)


def bang(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Make the function with `!`: the result, or an error."""

    @wraps(function)
    def run(meter: Meter, *arguments: Any) -> Any:
        found = function(meter, *arguments)
        if found[0] is ERROR:
            raise Raised(f"{what}, reason: {inspect(found[1])}, got: {', '.join(map(inspect, arguments))}")
        return found[1]

    return run


def strict_form(form: Any) -> bool:
    """Return whether the form is `:basic`."""
    if form not in (Atom("basic"), Atom("extended")):
        raise Raised(f"expected :extended or :basic, got: {inspect(form)}")
    return form is Atom("basic")


def compared(a: int, b: int) -> Atom:
    """Return :lt, :eq or :gt."""
    return Atom("lt" if a < b else "gt" if a > b else "eq")


def scaled(microseconds: int, unit: Any) -> int:
    """Convert microseconds to a unit, rounding down."""
    if isinstance(unit, Atom) and unit.name in _UNITS:
        return microseconds // _UNITS[unit.name]
    if unit is Atom("nanosecond") or unit is Atom("native"):
        return microseconds * 1000
    if type(unit) is int and unit > 0:
        return microseconds * unit // 1_000_000
    raise Raised(f"unsupported time unit. Expected :day, :hour, :minute, :second, …, got {inspect(unit)}")


def microseconds(amount: Any, unit: Any) -> int:
    """Convert an amount in a unit to microseconds."""
    amount = as_integer(amount)
    if amount.bit_length() > 200:
        raise Raised("the amount is too large")
    if isinstance(unit, Atom) and unit.name in _UNITS:
        return int(amount * _UNITS[unit.name])
    if unit is Atom("nanosecond") or unit is Atom("native"):
        return int(amount // 1000)
    if type(unit) is int and unit > 0:
        return int(amount * 1_000_000 // unit)
    raise Raised(f"unsupported time unit. Expected :day, :hour, :minute, :second, …, got {inspect(unit)}")


def precision_of(unit: Any, present: int) -> int:
    """Return the digits that a moment has after something in this unit was added."""
    if isinstance(unit, Atom):
        return max(present, _PRECISIONS.get(unit.name, 0))
    return present


def added(moment: Moment, amount: Any, unit: Any) -> Moment:
    """Return a later moment."""
    more = microseconds(amount, unit)
    return moment._replace(microseconds=moment.microseconds + more, precision=precision_of(unit, moment.precision))


def truncated(moment: Moment, unit: Any) -> Moment:
    """Return the moment with fewer digits."""
    digits = _PRECISIONS.get(unit.name) if isinstance(unit, Atom) else None
    if digits is None:
        raise Raised(f"unsupported time unit, got {inspect(unit)}")
    if digits >= moment.precision:
        return moment
    step = 10 ** (6 - digits)
    return moment._replace(microseconds=moment.microseconds // step * step, precision=digits)


def shifted_months(days: int, months: int) -> int:
    """Return the same day so many months later, or the last day of that month."""
    if abs(months) > 240_000:
        raise Raised("the duration is too long")
    made = structs.date(days)
    year, month = divmod(made[Atom("year")] * 12 + made[Atom("month")] - 1 + months, 12)
    day = min(made[Atom("day")], structs.days_in_month(year, month + 1))
    found = structs.days_of(year, month + 1, day)
    if found is None:
        raise Raised("the year is not in -9999..9999")
    return found


def shifted(moment: Moment, duration: Any) -> Moment:
    """Return the moment moved by a keyword list of units."""
    parts = options(duration)
    amounts = {unit: amount if unit == "microsecond" else as_integer(amount) for unit, amount in parts.items()}
    days, of_day = divmod(moment.microseconds, MICROSECONDS_OF_DAY)
    precision = moment.precision
    more = 0
    for unit, amount in amounts.items():
        if unit == "microsecond":
            if not (type(amount) is tuple and len(amount) == 2):
                raise Raised("a duration's microsecond is a tuple of value and precision")
            more += as_integer(amount[0])
            precision = max(precision, as_integer(amount[1]))
        elif unit in _UNITS:
            more += microseconds(amount, Atom(unit))
        elif unit not in ("year", "month", "week"):
            raise Raised(f"unknown unit {unit}")
    days = shifted_months(days, 12 * amounts.get("year", 0) + amounts.get("month", 0)) + 7 * amounts.get("week", 0)
    return moment._replace(microseconds=days * MICROSECONDS_OF_DAY + of_day + more, precision=min(precision, 6))
