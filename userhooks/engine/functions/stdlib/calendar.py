"""Common parts of Elixir's date and time modules: units, comparison, shifting, and formats. Pure."""

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
    """Return `{:ok, result}`, or `{:error, reason}` if the result is an atom."""
    return (ERROR, result) if isinstance(result, Atom) else (OK, result)


def bang(function: Callable[..., Any], message: str) -> Callable[..., Any]:
    """Return the `!` variant of a function, which returns the bare result or raises Raised with `message` and the reason."""

    @wraps(function)
    def run(meter: Meter, *arguments: Any) -> Any:
        outcome = function(meter, *arguments)
        if outcome[0] is ERROR:
            raise Raised(f"{message}, reason: {inspect(outcome[1])}, got: {', '.join(map(inspect, arguments))}")
        return outcome[1]

    return run


def strict_form(form: Any) -> bool:
    """Whether the form is `:basic`; raises Raised unless it is `:basic` or `:extended`."""
    if form not in (Atom("basic"), Atom("extended")):
        raise Raised(f"expected :extended or :basic, got: {inspect(form)}")
    return form is Atom("basic")


def compared(a: int, b: int) -> Atom:
    """Return `:lt`, `:eq`, or `:gt`."""
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
    """Return the precision of a moment after an amount in this unit has been added; `present` is the precision before."""
    if isinstance(unit, Atom):
        return max(present, _PRECISIONS.get(unit.name, 0))
    return present


def added(moment: Moment, amount: Any, unit: Any) -> Moment:
    """Return the moment moved by an amount of a unit."""
    delta = microseconds(amount, unit)
    return moment._replace(microseconds=moment.microseconds + delta, precision=precision_of(unit, moment.precision))


def truncated(moment: Moment, unit: Any) -> Moment:
    """Return the moment truncated to the precision of a unit."""
    digits = _PRECISIONS.get(unit.name) if isinstance(unit, Atom) else None
    if digits is None:
        raise Raised(f"unsupported time unit, got {inspect(unit)}")
    if digits >= moment.precision:
        return moment
    step = 10 ** (6 - digits)
    return moment._replace(microseconds=moment.microseconds // step * step, precision=digits)


def shifted_months(days: int, months: int) -> int:
    """Move a date, in days since 1970, by a number of months. If the resulting month has no such day, return its last day."""
    if abs(months) > 240_000:
        raise Raised("the duration is too long")
    date = structs.date(days)
    year, month = divmod(date[Atom("year")] * 12 + date[Atom("month")] - 1 + months, 12)
    day = min(date[Atom("day")], structs.days_in_month(year, month + 1))
    shifted_days = structs.days_of(year, month + 1, day)
    if shifted_days is None:
        raise Raised("the year is outside -9999..9999")
    return shifted_days


def shifted(moment: Moment, duration: Any) -> Moment:
    """Return the moment shifted by a duration, which is a keyword list of units."""
    parts = options(duration)
    amounts = {unit: amount if unit == "microsecond" else as_integer(amount) for unit, amount in parts.items()}
    days, time_of_day = divmod(moment.microseconds, MICROSECONDS_OF_DAY)
    precision = moment.precision
    delta = 0
    for unit, amount in amounts.items():
        if unit == "microsecond":
            if not (type(amount) is tuple and len(amount) == 2):
                raise Raised("the microsecond of a duration must be a tuple of value and precision")
            delta += as_integer(amount[0])
            precision = max(precision, as_integer(amount[1]))
        elif unit in _UNITS:
            delta += microseconds(amount, Atom(unit))
        elif unit not in ("year", "month", "week"):
            raise Raised(f"unknown unit {unit}")
    days = shifted_months(days, 12 * amounts.get("year", 0) + amounts.get("month", 0)) + 7 * amounts.get("week", 0)
    return moment._replace(microseconds=days * MICROSECONDS_OF_DAY + time_of_day + delta, precision=min(precision, 6))
