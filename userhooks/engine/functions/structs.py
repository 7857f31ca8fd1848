"""Construct, read, and format the Elixir structs that functions use. Pure.

A struct is a map whose `STRUCT` key names its module, as in Elixir. The functions that work on structs are in `stdlib/`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, NamedTuple

from userhooks.engine.functions.terms import STRUCT, Atom, Raised, struct_name
from userhooks.engine.postgres.pg_types import days_since_1970

_ISO = Atom("Elixir.Calendar.ISO")
_CALENDAR = Atom("calendar")
_YEAR, _MONTH, _DAY = Atom("year"), Atom("month"), Atom("day")
_HOUR, _MINUTE, _SECOND, _MICROSECOND = Atom("hour"), Atom("minute"), Atom("second"), Atom("microsecond")
_SIGN, _COEF, _EXP = Atom("sign"), Atom("coef"), Atom("exp")
_ZONE, _ABBR, _UTC_OFFSET, _STD_OFFSET = Atom("time_zone"), Atom("zone_abbr"), Atom("utc_offset"), Atom("std_offset")
_NAN, _INF = Atom("NaN"), Atom("inf")
_REGEX_SOURCE, _REGEX_OPTIONS = Atom("source"), Atom("opts")
URI_FIELDS = ("scheme", "authority", "userinfo", "host", "port", "path", "query", "fragment")
MICROSECONDS_OF_DAY = 86_400_000_000


def make(name: str, **fields: Any) -> dict[Any, Any]:
    """Return a struct with the given fields."""
    return {STRUCT: Atom(f"Elixir.{name}"), **{Atom(key): value for key, value in fields.items()}}


# --- decimals ------------------------------------------------------------------------------------------------------------

_DECIMAL = Atom("Elixir.Decimal")


def decimal(number: Decimal) -> dict[Any, Any]:
    """Return a Decimal struct."""
    sign, digits, exponent = number.as_tuple()
    coef: Any = int("".join(map(str, digits)) or "0")
    if not isinstance(exponent, int):
        coef, exponent = (_INF if exponent == "F" else _NAN), 0
    return {STRUCT: _DECIMAL, _SIGN: -1 if sign else 1, _COEF: coef, _EXP: exponent}


def decimal_of(value: dict[Any, Any]) -> Decimal:
    """Return the number in a Decimal struct; raises Raised if the struct is malformed."""
    sign, coef, exponent = value.get(_SIGN), value.get(_COEF), value.get(_EXP)
    if sign not in (1, -1):
        raise Raised("not a decimal")
    if coef is _NAN:
        return Decimal("NaN")
    if coef is _INF:
        return Decimal("-Infinity" if sign == -1 else "Infinity")
    if type(coef) is not int or coef < 0 or type(exponent) is not int:
        raise Raised("not a decimal")
    return Decimal((int(sign == -1), tuple(map(int, str(coef))), exponent))


def decimal_text(number: Decimal, form: str = "scientific") -> str:
    """Format a decimal in one of Elixir's formats: scientific, normal, xsd, or raw."""
    sign, digits, exponent = number.as_tuple()
    prefix = "-" * sign
    if not isinstance(exponent, int):
        return prefix + ("Infinity" if exponent == "F" else "NaN")
    text = "".join(map(str, digits))
    if form == "raw":
        return prefix + text + (f"E{exponent:+d}" if exponent else "")
    if form == "scientific":
        return str(number)
    if form == "xsd":
        return prefix + _xsd(text, exponent)
    if exponent >= 0:
        return prefix + text + "0" * exponent
    text = text.rjust(1 - exponent, "0")
    return f"{prefix}{text[:exponent]}.{text[exponent:]}"


def _xsd(text: str, exponent: int) -> str:
    if exponent >= 0:
        return text + "0" * exponent + ".0"
    text = text.rjust(1 - exponent, "0")
    return f"{text[:exponent]}.{text[exponent:].rstrip('0') or '0'}"


# --- dates and times -----------------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A date, a time, or both: microseconds since 1970 in local time, and the number of fractional digits of the second."""

    microseconds: int
    precision: int = 0
    offset: int = 0
    """Seconds east of UTC."""
    zone: str = "Etc/UTC"
    abbreviation: str = "UTC"


def date(days: int) -> dict[Any, Any]:
    """Return the Date struct for a number of days since 1970."""
    year, month, day = _civil(days)
    return {STRUCT: Atom("Elixir.Date"), _CALENDAR: _ISO, _YEAR: year, _MONTH: month, _DAY: day}


def _civil(days: int) -> tuple[int, int, int]:
    """Return the year, month, and day for a number of days since 1970: the inverse of `days_since_1970`."""
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (month <= 2)
    if not -9999 <= year <= 9999:
        raise Raised("the year is outside -9999..9999")
    return year, month, day


def _time_fields(time_of_day: int, precision: int) -> dict[Any, Any]:
    seconds, fraction = divmod(time_of_day, 1_000_000)
    return {_HOUR: seconds // 3600, _MINUTE: seconds // 60 % 60, _SECOND: seconds % 60, _MICROSECOND: (fraction, precision)}


def time(time_of_day: int, precision: int) -> dict[Any, Any]:
    """Return the Time struct for a number of microseconds since midnight."""
    return {STRUCT: Atom("Elixir.Time"), _CALENDAR: _ISO, **_time_fields(time_of_day, precision)}


def naive(microseconds: int, precision: int) -> dict[Any, Any]:
    """Return the NaiveDateTime struct for a number of microseconds since 1970."""
    days, time_of_day = divmod(microseconds, MICROSECONDS_OF_DAY)
    return {**date(days), STRUCT: Atom("Elixir.NaiveDateTime"), **_time_fields(time_of_day, precision)}


def datetime(moment: Moment) -> dict[Any, Any]:
    """Return the DateTime struct for a moment, whose microseconds are in its zone's local time."""
    return {
        **naive(moment.microseconds, moment.precision),
        STRUCT: Atom("Elixir.DateTime"),
        _ZONE: moment.zone,
        _ABBR: moment.abbreviation,
        _UTC_OFFSET: moment.offset,
        _STD_OFFSET: 0,
    }


_DAYS_OF_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_leap(year: int) -> bool:
    """Whether the year is a leap year."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in_month(year: int, month: int) -> int:
    """Return the number of days in a month."""
    return 29 if month == 2 and is_leap(year) else _DAYS_OF_MONTHS[month - 1]


def days_of(year: Any, month: Any, day: Any) -> int | None:
    """Return the days since 1970 for a date; None if the date does not exist."""
    if not all(type(part) is int for part in (year, month, day)):
        return None
    if not (-9999 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= days_in_month(year, month)):
        return None
    return days_since_1970(year, month, day)


def time_of(hour: Any, minute: Any, second: Any, microsecond: Any = (0, 0)) -> tuple[int, int] | None:
    """Return the microseconds since midnight and the precision of a time; None if the time does not exist."""
    if type(microsecond) is int:
        microsecond = (microsecond, 6)
    if not (type(microsecond) is tuple and len(microsecond) == 2):
        return None
    fraction, precision = microsecond
    if not all(type(part) is int for part in (hour, minute, second, fraction, precision)):
        return None
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60 and 0 <= fraction < 1_000_000 and 0 <= precision <= 6):
        return None
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction, precision


def moment_of(value: Any, *names: str) -> Moment:
    """Return the moment in a struct with one of these names; raises Raised for anything else, as Elixir does."""
    name = struct_name(value)
    if name not in names:
        raise Raised("no function clause matching")
    days: int | None = 0
    time_of_day: tuple[int, int] | None = (0, 0)
    if name != "Time":
        days = days_of(value.get(_YEAR), value.get(_MONTH), value.get(_DAY))
    if name != "Date":
        time_of_day = time_of(value.get(_HOUR), value.get(_MINUTE), value.get(_SECOND), value.get(_MICROSECOND))
    if days is None or time_of_day is None:
        raise Raised(f"not a valid {name}")
    moment = Moment(days * MICROSECONDS_OF_DAY + time_of_day[0], time_of_day[1])
    if name != "DateTime":
        return moment
    offset, daylight_offset = value.get(_UTC_OFFSET), value.get(_STD_OFFSET)
    zone, abbreviation = value.get(_ZONE), value.get(_ABBR)
    if not (type(offset) is int and type(daylight_offset) is int and isinstance(zone, str) and isinstance(abbreviation, str)):
        raise Raised("not a valid DateTime")
    return moment._replace(offset=offset + daylight_offset, zone=zone, abbreviation=abbreviation)


def date_text(moment: Moment, *, basic: bool = False) -> str:
    """Format the date as ISO 8601; `basic` omits the separators."""
    year, month, day = _civil(moment.microseconds // MICROSECONDS_OF_DAY)
    dash = "" if basic else "-"
    return f"{'-' * (year < 0)}{abs(year):04d}{dash}{month:02d}{dash}{day:02d}"


def time_text(moment: Moment, *, basic: bool = False) -> str:
    """Format the time as ISO 8601; `basic` omits the separators."""
    seconds, fraction = divmod(moment.microseconds % MICROSECONDS_OF_DAY, 1_000_000)
    fraction_text = f".{fraction:06d}"[: moment.precision + 1] if moment.precision else ""
    colon = "" if basic else ":"
    return f"{seconds // 3600:02d}{colon}{seconds // 60 % 60:02d}{colon}{seconds % 60:02d}{fraction_text}"


def offset_text(moment: Moment, *, basic: bool = False) -> str:
    """Format the zone's offset as ISO 8601; `basic` omits the separator."""
    if moment.offset == 0 and moment.zone == "Etc/UTC":
        return "Z"
    minutes = abs(moment.offset) // 60
    return f"{'-' if moment.offset < 0 else '+'}{minutes // 60:02d}{'' if basic else ':'}{minutes % 60:02d}"


_DATE = r"(-?\d{4})-(\d\d)-(\d\d)"
_TIME = r"(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?"
_DATE_ONLY = re.compile(_DATE).fullmatch
_TIME_ONLY = re.compile(f"T?{_TIME}(?:Z|[+-]\\d\\d(?::?\\d\\d)?)?").fullmatch
_BOTH = re.compile(f"{_DATE}[T ]{_TIME}(Z|[+-]\\d\\d(?::?\\d\\d)?)?").fullmatch


def parse_date(text: str) -> int | Atom:
    """Return the days since 1970 for an ISO 8601 date, or an atom with the reason why it is invalid."""
    match = _DATE_ONLY(text)
    if match is None or not text.isascii():
        return Atom("invalid_format")
    days = days_of(*map(int, match.groups()))
    return Atom("invalid_date") if days is None else days


def _parse_time(parts: tuple[Any, ...]) -> tuple[int, int] | None:
    hour, minute, second, fraction = parts
    digits = (fraction or "")[:6]
    return time_of(int(hour), int(minute), int(second), (int(digits.ljust(6, "0")), len(digits)))


def parse_time(text: str) -> tuple[int, int] | Atom:
    """Return microseconds since midnight and precision for an ISO 8601 time, or an atom with the reason why it is invalid."""
    match = _TIME_ONLY(text)
    if match is None or not text.isascii():
        return Atom("invalid_format")
    return _parse_time(match.groups()) or Atom("invalid_time")


def parse_moment(text: str) -> tuple[Moment, int | None] | Atom:
    """Parse an ISO 8601 date and time.

    Returns the moment and its offset in seconds, which is None if the text has no offset, or an atom with the reason why it is invalid.
    """
    match = _BOTH(text)
    if match is None or not text.isascii():
        return Atom("invalid_format")
    *parts, zone = match.groups()
    days, time_of_day = days_of(*map(int, parts[:3])), _parse_time(tuple(parts[3:]))
    if days is None:
        return Atom("invalid_date")
    if time_of_day is None:
        return Atom("invalid_time")
    offset = None
    if zone is not None:
        sign, digits = (-1 if zone[0] == "-" else 1), zone[1:].replace(":", "").ljust(4, "0")
        offset = 0 if zone == "Z" else sign * (int(digits[:2]) * 3600 + int(digits[2:]) * 60)
        if zone != "Z" and not (int(digits[:2]) < 24 and int(digits[2:]) < 60):
            return Atom("invalid_format")
    return Moment(days * MICROSECONDS_OF_DAY + time_of_day[0], time_of_day[1]), offset


# --- text ----------------------------------------------------------------------------------------------------------------


def text_of(value: dict[Any, Any]) -> str | None:
    """Return a struct's text; None for a plain map or a struct without a text form."""
    name = struct_name(value)
    if name == "Decimal":
        return decimal_text(decimal_of(value))
    if name == "URI":
        return uri_text(value)
    return iso_text(value, " ")


def iso_text(value: dict[Any, Any], between: str = "T") -> str | None:
    """Format a date or time struct as ISO 8601; returns None for any other map."""
    name = struct_name(value)
    if name == "Date":
        return date_text(moment_of(value, name))
    if name == "Time":
        return time_text(moment_of(value, name))
    if name not in ("NaiveDateTime", "DateTime"):
        return None
    moment = moment_of(value, name)
    text = date_text(moment) + between + time_text(moment)
    if name == "NaiveDateTime":
        return text
    if moment.zone != "Etc/UTC" and between == " ":
        return f"{text}{offset_text(moment)} {moment.abbreviation} {moment.zone}"
    return text + offset_text(moment)


_SIGILS = {"Date": "D", "Time": "T", "NaiveDateTime": "N", "DateTime": "U"}


def inspected(value: dict[Any, Any]) -> str | None:
    """Return a struct in the form that `inspect` writes; None if `inspect` lists the struct's fields."""
    name = struct_name(value)
    try:
        if name == "Decimal":
            return f'Decimal.new("{decimal_text(decimal_of(value))}")'
        if name in _SIGILS:
            return f"~{_SIGILS[name]}[{text_of(value)}]"
    except Raised:
        return None
    if name == "Regex" and isinstance(value.get(_REGEX_SOURCE), str):
        return f"~r/{value[_REGEX_SOURCE]}/{value.get(_REGEX_OPTIONS)}"
    return None


def uri_text(uri: dict[Any, Any]) -> str:
    """Assemble the text of a URI struct."""
    parts = {name: uri.get(Atom(name)) for name in URI_FIELDS}
    if any(value is not None and type(value) is not str for name, value in parts.items() if name != "port"):
        raise Raised("a component of the URI is not a string")
    text = "" if parts["scheme"] is None else f"{parts['scheme']}:"
    if parts["host"] is not None:
        host = f"[{parts['host']}]" if ":" in parts["host"] else parts["host"]
        user = "" if parts["userinfo"] is None else f"{parts['userinfo']}@"
        default = DEFAULT_PORTS.get(parts["scheme"] or "")
        port = "" if parts["port"] is None or parts["port"] == default else f":{parts['port']}"
        text += f"//{user}{host}{port}"
    elif parts["authority"] is not None:
        text += f"//{parts['authority']}"
    text += parts["path"] or ""
    text += "" if parts["query"] is None else f"?{parts['query']}"
    return text + ("" if parts["fragment"] is None else f"#{parts['fragment']}")


DEFAULT_PORTS = {"ftp": 21, "sftp": 22, "tftp": 69, "http": 80, "https": 443, "ldap": 389, "ws": 80, "wss": 443}
