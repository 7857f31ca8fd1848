"""Elixir's `DateTime`, in UTC and with fixed offsets. Pure.

Functions that read the clock, like `utc_now`, are not available: a result depends only on the change, so that every attempt sends the
same message.
"""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.calendar import added, answer, bang, compared, microseconds, scaled, shifted, strict_form, truncated
from userhooks.engine.functions.stdlib.kernel import as_integer, as_text
from userhooks.engine.functions.structs import MICROSECONDS_OF_DAY, Moment, moment_of
from userhooks.engine.functions.terms import OK, Atom, Raised

_UTC = "Etc/UTC"
_EARLIEST, _LATEST = -377_705_116_800_000_000, 253_402_300_800_000_000
"""Start of the year -9999 and end of the year 9999, in microseconds since 1970."""


def _of(value: Any) -> Moment:
    return moment_of(value, "DateTime")


def _instant(value: Any) -> int:
    """Return a DateTime as microseconds since 1970 in UTC."""
    moment = _of(value)
    return moment.microseconds - moment.offset * 1_000_000


def from_iso8601(meter: Meter, text: Any) -> Any:
    parsed = structs.parse_moment(as_text(text))
    if isinstance(parsed, Atom):
        return answer(parsed)
    moment, offset = parsed
    if offset is None:
        return answer(Atom("missing_offset"))
    return OK, structs.datetime(moment._replace(microseconds=moment.microseconds - offset * 1_000_000)), offset


def from_unix(meter: Meter, number: Any, unit: Any = Atom("second")) -> Any:
    instant = microseconds(number, unit)
    if not _EARLIEST <= instant < _LATEST:
        return answer(Atom("invalid_unix_time"))
    precision = {Atom("millisecond"): 3, Atom("microsecond"): 6, Atom("nanosecond"): 6, Atom("native"): 6}.get(unit, 0)
    if type(unit) is int:
        precision = min(len(str(unit)) - 1, 6)
    return answer(structs.datetime(Moment(instant, precision)))


def from_naive(meter: Meter, value: Any, zone: Any) -> Any:
    if zone != _UTC:
        return answer(Atom("utc_only_time_zone_database"))
    moment = moment_of(value, "NaiveDateTime", "DateTime")
    return answer(structs.datetime(Moment(moment.microseconds, moment.precision)))


def new(meter: Meter, date: Any, time: Any, zone: Any = _UTC) -> Any:
    day, time_of_day = moment_of(date, "Date"), moment_of(time, "Time")
    if zone != _UTC:
        return answer(Atom("utc_only_time_zone_database"))
    return answer(structs.datetime(Moment(day.microseconds + time_of_day.microseconds, time_of_day.precision)))


def to_iso8601(meter: Meter, value: Any, form: Any = Atom("extended"), offset: Any = None) -> str:
    basic, moment = strict_form(form), _of(value)
    if offset is not None:
        instant = _instant(value) + as_integer(offset) * 1_000_000
        moment = moment._replace(microseconds=instant, offset=offset, zone=_UTC if offset == 0 else "")
    return f"{structs.date_text(moment, basic=basic)}T{structs.time_text(moment, basic=basic)}{structs.offset_text(moment, basic=basic)}"


def to_unix(meter: Meter, value: Any, unit: Any = Atom("second")) -> int:
    return scaled(_instant(value), unit)


def add(meter: Meter, value: Any, amount: Any, unit: Any = Atom("second")) -> Any:
    return structs.datetime(added(_of(value), amount, unit))


def diff(meter: Meter, value: Any, other: Any, unit: Any = Atom("second")) -> int:
    difference = _instant(value) - _instant(other)
    return scaled(difference, unit) if difference >= 0 else -scaled(-difference, unit)


def compare(meter: Meter, value: Any, other: Any) -> Atom:
    return compared(_instant(value), _instant(other))


def shift_zone(meter: Meter, value: Any, zone: Any) -> Any:
    if zone != _UTC:
        return answer(Atom("utc_only_time_zone_database"))
    return answer(structs.datetime(Moment(_instant(value), _of(value).precision)))


def to_gregorian_seconds(meter: Meter, value: Any) -> tuple[int, int]:
    return divmod(_instant(value) + 62_167_219_200_000_000, 1_000_000)


def to_string(meter: Meter, value: Any) -> str:
    _of(value)
    return structs.iso_text(value, " ") or ""


def shift(meter: Meter, value: Any, duration: Any) -> Any:
    if _of(value).zone != _UTC:
        raise Raised("shifting is supported only in UTC")
    return structs.datetime(shifted(_of(value), duration))


FUNCTIONS = {
    "new": new,
    "new!": bang(new, "cannot build datetime"),
    "from_iso8601": from_iso8601,
    "from_unix": from_unix,
    "from_unix!": bang(from_unix, "invalid Unix time"),
    "from_naive": from_naive,
    "from_naive!": bang(from_naive, "cannot convert to datetime"),
    "to_iso8601": to_iso8601,
    "to_unix": to_unix,
    "to_string": to_string,
    "to_date": lambda meter, value: structs.date(_of(value).microseconds // MICROSECONDS_OF_DAY),
    "to_time": lambda meter, value: structs.time(_of(value).microseconds % MICROSECONDS_OF_DAY, _of(value).precision),
    "to_naive": lambda meter, value: structs.naive(_of(value).microseconds, _of(value).precision),
    "to_gregorian_seconds": to_gregorian_seconds,
    "add": add,
    "diff": diff,
    "shift": shift,
    "compare": compare,
    "before?": lambda meter, a, b: _instant(a) < _instant(b),
    "after?": lambda meter, a, b: _instant(a) > _instant(b),
    "truncate": lambda meter, value, unit: structs.datetime(truncated(_of(value), unit)),
    "shift_zone": shift_zone,
    "shift_zone!": bang(shift_zone, "cannot shift the datetime"),
}
