"""Elixir's `Date`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.calendar import answer, bang, compared, shifted_months, strict_form
from userhooks.engine.functions.stdlib.kernel import as_integer, as_text, options
from userhooks.engine.functions.structs import MICROSECONDS_OF_DAY, moment_of
from userhooks.engine.functions.terms import Atom, Raised

_NAMES = ("Date", "NaiveDateTime", "DateTime")


def days_of(value: Any) -> int:
    """Return the days since 1970 for a Date, NaiveDateTime, or DateTime."""
    return moment_of(value, *_NAMES).microseconds // MICROSECONDS_OF_DAY


def from_iso8601(meter: Meter, text: Any) -> Any:
    days = structs.parse_date(as_text(text))
    return answer(structs.date(days) if isinstance(days, int) else days)


def new(meter: Meter, year: Any, month: Any, day: Any) -> Any:
    days = structs.days_of(as_integer(year), as_integer(month), as_integer(day))
    return answer(Atom("invalid_date") if days is None else structs.date(days))


def to_iso8601(meter: Meter, date: Any, form: Any = Atom("extended")) -> str:
    return structs.date_text(moment_of(date, *_NAMES), basic=strict_form(form))


def add(meter: Meter, date: Any, days: Any) -> Any:
    return structs.date(days_of(date) + as_integer(days))


def diff(meter: Meter, date: Any, other: Any) -> int:
    return days_of(date) - days_of(other)


def shift(meter: Meter, date: Any, duration: Any) -> Any:
    parts = options(duration)
    if set(parts) - {"year", "month", "week", "day"}:
        raise Raised("unsupported unit in the duration of a date")
    amounts = {unit: as_integer(amount) for unit, amount in parts.items()}
    days = shifted_months(days_of(date), 12 * amounts.get("year", 0) + amounts.get("month", 0))
    return structs.date(days + 7 * amounts.get("week", 0) + amounts.get("day", 0))


def compare(meter: Meter, date: Any, other: Any) -> Atom:
    return compared(days_of(date), days_of(other))


_FIRST_DAYS = ("default", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def day_of_week(meter: Meter, date: Any, first: Any = Atom("default")) -> int:
    if not isinstance(first, Atom) or first.name not in _FIRST_DAYS:
        raise Raised("no function clause matching in Date.day_of_week/2")
    start = max(_FIRST_DAYS.index(first.name), 1)
    return (days_of(date) + 4 - start) % 7 + 1  # 1970 began on a Thursday


def beginning_of_week(meter: Meter, date: Any, first: Any = Atom("default")) -> Any:
    return structs.date(days_of(date) - day_of_week(meter, date, first) + 1)


def end_of_week(meter: Meter, date: Any, first: Any = Atom("default")) -> Any:
    return structs.date(days_of(date) - day_of_week(meter, date, first) + 7)


def _parts(date: Any) -> tuple[int, int, int]:
    struct = structs.date(days_of(date))
    return struct[Atom("year")], struct[Atom("month")], struct[Atom("day")]


def day_of_year(meter: Meter, date: Any) -> int:
    year, _, _ = _parts(date)
    return days_of(date) - (structs.days_of(year, 1, 1) or 0) + 1


def beginning_of_month(meter: Meter, date: Any) -> Any:
    return structs.date(days_of(date) - _parts(date)[2] + 1)


def end_of_month(meter: Meter, date: Any) -> Any:
    year, month, day = _parts(date)
    return structs.date(days_of(date) - day + structs.days_in_month(year, month))


def days_in_month(meter: Meter, date: Any) -> int:
    year, month, _ = _parts(date)
    return structs.days_in_month(year, month)


def year_of_era(meter: Meter, date: Any) -> tuple[int, int]:
    year, _, _ = _parts(date)
    return (year, 1) if year > 0 else (1 - year, 0)


def day_of_era(meter: Meter, date: Any) -> tuple[int, int]:
    before = structs.days_of(1, 1, 1) or 0
    days = days_of(date)
    return (days - before + 1, 1) if days >= before else (before - days, 0)


def from_erl(meter: Meter, parts: Any) -> Any:
    if not (type(parts) is tuple and len(parts) == 3):
        raise Raised("no function clause matching in Date.from_erl/2")
    return new(meter, *parts)


_GREGORIAN_START = 719_528
"""Days from year 0 to 1970."""

FUNCTIONS = {
    "new": new,
    "new!": bang(new, "cannot build date"),
    "from_iso8601": from_iso8601,
    "from_iso8601!": bang(from_iso8601, "cannot parse as date"),
    "from_erl": from_erl,
    "from_erl!": bang(from_erl, "cannot convert to date"),
    "from_gregorian_days": lambda meter, days: structs.date(as_integer(days) - _GREGORIAN_START),
    "to_gregorian_days": lambda meter, date: days_of(date) + _GREGORIAN_START,
    "to_iso8601": to_iso8601,
    "to_string": lambda meter, date: structs.date_text(moment_of(date, *_NAMES)),
    "to_erl": lambda meter, date: _parts(date),
    "add": add,
    "diff": diff,
    "shift": shift,
    "compare": compare,
    "before?": lambda meter, a, b: days_of(a) < days_of(b),
    "after?": lambda meter, a, b: days_of(a) > days_of(b),
    "day_of_week": day_of_week,
    "day_of_year": day_of_year,
    "day_of_era": day_of_era,
    "year_of_era": year_of_era,
    "quarter_of_year": lambda meter, date: (_parts(date)[1] + 2) // 3,
    "days_in_month": days_in_month,
    "months_in_year": lambda meter, date: 12 + 0 * days_of(date),
    "leap_year?": lambda meter, date: structs.is_leap(_parts(date)[0]),
    "beginning_of_week": beginning_of_week,
    "end_of_week": end_of_week,
    "beginning_of_month": beginning_of_month,
    "end_of_month": end_of_month,
}
