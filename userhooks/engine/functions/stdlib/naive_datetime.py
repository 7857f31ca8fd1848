"""Elixir's `NaiveDateTime`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.calendar import added, answer, bang, compared, scaled, shifted, strict_form, truncated
from userhooks.engine.functions.stdlib.kernel import as_text
from userhooks.engine.functions.structs import MICROSECONDS_OF_DAY, Moment, moment_of
from userhooks.engine.functions.terms import Atom, Raised

_NAMES = ("NaiveDateTime", "DateTime")
_GREGORIAN_START = 62_167_219_200_000_000
"""Microseconds from year 0 to 1970."""


def _of(value: Any) -> Moment:
    return moment_of(value, *_NAMES)


def _made(moment: Moment) -> Any:
    return structs.naive(moment.microseconds, moment.precision)


def from_iso8601(meter: Meter, text: Any) -> Any:
    parsed = structs.parse_moment(as_text(text))
    return answer(parsed if isinstance(parsed, Atom) else _made(parsed[0]))


def new(meter: Meter, *parts: Any) -> Any:
    if len(parts) == 2:
        day, time_of_day = moment_of(parts[0], "Date"), moment_of(parts[1], "Time")
        return answer(_made(time_of_day._replace(microseconds=day.microseconds + time_of_day.microseconds)))
    if len(parts) not in (6, 7):
        raise Raised("no function clause matching in NaiveDateTime.new/2")
    days, clock = structs.days_of(*parts[:3]), structs.time_of(*parts[3:])
    if days is None or clock is None:
        return answer(Atom("invalid_date" if days is None else "invalid_time"))
    return answer(_made(Moment(days * MICROSECONDS_OF_DAY + clock[0], clock[1])))


def to_iso8601(meter: Meter, value: Any, form: Any = Atom("extended")) -> str:
    basic = strict_form(form)
    return f"{structs.date_text(_of(value), basic=basic)}T{structs.time_text(_of(value), basic=basic)}"


def add(meter: Meter, value: Any, amount: Any, unit: Any = Atom("second")) -> Any:
    return _made(added(_of(value), amount, unit))


def diff(meter: Meter, value: Any, other: Any, unit: Any = Atom("second")) -> int:
    return _toward_zero(_of(value).microseconds - _of(other).microseconds, unit)


def _toward_zero(difference: int, unit: Any) -> int:
    return scaled(difference, unit) if difference >= 0 else -scaled(-difference, unit)


def compare(meter: Meter, value: Any, other: Any) -> Atom:
    return compared(_of(value).microseconds, _of(other).microseconds)


def to_gregorian_seconds(meter: Meter, value: Any) -> tuple[int, int]:
    return divmod(_of(value).microseconds + _GREGORIAN_START, 1_000_000)


def beginning_of_day(meter: Meter, value: Any) -> Any:
    moment = _of(value)
    return structs.naive(moment.microseconds // MICROSECONDS_OF_DAY * MICROSECONDS_OF_DAY, moment.precision)


def end_of_day(meter: Meter, value: Any) -> Any:
    moment = _of(value)
    last = moment.microseconds // MICROSECONDS_OF_DAY * MICROSECONDS_OF_DAY + MICROSECONDS_OF_DAY - 10 ** (6 - moment.precision)
    return structs.naive(last, moment.precision)


FUNCTIONS = {
    "new": new,
    "new!": bang(new, "cannot build naive datetime"),
    "from_iso8601": from_iso8601,
    "from_iso8601!": bang(from_iso8601, "cannot parse as naive datetime"),
    "to_iso8601": to_iso8601,
    "to_string": lambda meter, value: f"{structs.date_text(_of(value))} {structs.time_text(_of(value))}",
    "to_date": lambda meter, value: structs.date(_of(value).microseconds // MICROSECONDS_OF_DAY),
    "to_time": lambda meter, value: structs.time(_of(value).microseconds % MICROSECONDS_OF_DAY, _of(value).precision),
    "to_gregorian_seconds": to_gregorian_seconds,
    "add": add,
    "diff": diff,
    "shift": lambda meter, value, duration: _made(shifted(_of(value), duration)),
    "compare": compare,
    "before?": lambda meter, a, b: _of(a).microseconds < _of(b).microseconds,
    "after?": lambda meter, a, b: _of(a).microseconds > _of(b).microseconds,
    "truncate": lambda meter, value, unit: _made(truncated(_of(value), unit)),
    "beginning_of_day": beginning_of_day,
    "end_of_day": end_of_day,
}
