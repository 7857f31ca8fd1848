"""Postgres' text form of values as JSON bytes, as Sequin writes them, and as what a filter function sees. Pure.

Which type becomes what: Sequin contract 6.4, held against recorded webhooks. The live form holds for reads, too: a row looks the same
whether it comes as a change or from a backfill. Dates and times need the session settings below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import orjson

SESSION_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
"""What every session that reads values sets, so that the text forms are those that this module knows."""

TimestampFormat = Literal["iso8601", "unix_microsecond"]
Encoder = Callable[[bytes], bytes]


class TypeCatalog:
    """What is known of Postgres' types; `rows` are (oid, name, typtype, typcategory, element oid, base oid) of pg_type."""

    def __init__(self, rows: Iterable[tuple[int, str, str, str, int, int]]) -> None:
        self._types: dict[int, tuple[str, str, str, int, int]] = {}
        self.update(rows)

    def update(self, rows: Iterable[tuple[int, str, str, str, int, int]]) -> None:
        """Learn types, or learn them anew."""
        self._types.update({oid: (name, kind, category, element, base) for oid, name, kind, category, element, base in rows})

    def knows(self, oid: int) -> bool:
        """Whether the type is known; an unknown one is shown as text."""
        return oid in self._types

    def json_encoder(self, oid: int, timestamps: TimestampFormat = "iso8601") -> Encoder:
        """Return the function from a value's text form to its JSON."""
        name, kind, category, element, base = self._types.get(oid, ("text", "b", "S", 0, 0))
        if kind == "d":
            return self.json_encoder(base, timestamps)
        if category == "A" and element and name not in ("int2vector", "oidvector"):
            return _array_encoder(self.json_encoder(element, timestamps))
        if kind != "b":
            return _string
        if timestamps == "unix_microsecond" and name in ("timestamp", "timestamptz"):
            return _unix_microseconds
        return _ENCODERS.get(name, _string)

    def decoder(self, oid: int) -> Callable[[bytes], Any]:
        """Return the function from a value's text form to the value that a filter function sees: the one that stands in the JSON."""
        encode = self.json_encoder(oid)
        if encode is _integer:
            return int
        if encode is _string:
            return bytes.decode
        return lambda raw: orjson.loads(encode(raw))

    def is_scalar(self, oid: int) -> bool:
        """Whether `to_string` of such a value cannot fail: it is a number, a boolean or text, never a map or a list."""
        return self.json_encoder(oid) in _SCALARS

    def is_text_itself(self, oid: int) -> bool:
        """Whether `to_string` of such a value is its text form in Postgres."""
        return self.json_encoder(oid) in (_integer, _string, _quoted)


def _string(raw: bytes) -> bytes:
    return orjson.dumps(raw.decode())


def _quoted(raw: bytes) -> bytes:
    """For text forms in which nothing needs an escape."""
    return b'"' + raw + b'"'


def _integer(raw: bytes) -> bytes:
    return raw


def _raw_json(raw: bytes) -> bytes:
    return raw


def _boolean(raw: bytes) -> bytes:
    return b"true" if raw == b"t" else b"false"


def _float(raw: bytes) -> bytes:
    return raw if raw[-1:].isdigit() else b'"' + raw + b'"'  # NaN, Infinity, -Infinity


def _bytea(raw: bytes) -> bytes:
    return b'"\\' + raw + b'"'


def _timestamptz(raw: bytes) -> bytes:
    if raw[-3:] != b"+00":
        return b'"' + raw + b'"'  # infinity, -infinity, or a year BC, which ISO 8601 has no common form for
    return b'"' + _six_digits(raw[:-3]) + b'Z"'


def _timestamp(raw: bytes) -> bytes:
    return b'"' + (_six_digits(raw) if raw[-1:].isdigit() else raw) + b'"'


def _six_digits(raw: bytes) -> bytes:
    whole, _, fraction = raw.partition(b".")
    return whole.replace(b" ", b"T") + b"." + fraction.ljust(6, b"0")


_STAMP = re.compile(rb"(\d{4,})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:\+00)?")


def _unix_microseconds(raw: bytes) -> bytes:
    """Microseconds since 1970, a timestamp without zone taken as UTC."""
    found = _STAMP.fullmatch(raw)
    if found is None:
        return b'"' + raw + b'"'
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction = int((found.group(7) or b"").ljust(6, b"0"))
    seconds = _days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
    return b"%d" % (seconds * 1_000_000 + fraction)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar, for any year from 1 (Python's own dates end with 9999)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _time(raw: bytes) -> bytes:
    return b'"' + raw[:8] + b'"'  # Sequin drops the fraction and the zone of live values (recorded)


_INTERVAL = re.compile(rb"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d+))?S)?)?")


def _interval(raw: bytes) -> bytes:
    found = _INTERVAL.fullmatch(raw)
    if found is None:
        return _string(raw)
    years, months, days, hours, minutes, sign, seconds, fraction = found.groups()
    micro = int(seconds or 0) * 1_000_000 + int((fraction or b"").ljust(6, b"0"))
    micro = -micro if sign else micro
    micro += (int(hours or 0) * 3600 + int(minutes or 0) * 60) * 1_000_000
    return b'{"days":%d,"microseconds":%d,"months":%d}' % (int(days or 0), micro, int(years or 0) * 12 + int(months or 0))


def _array_encoder(encode: Encoder) -> Encoder:
    """Postgres documentation, 8.15.6: braces, commas, NULL, quotes with backslashes, and sometimes the bounds first."""

    def array(raw: bytes) -> bytes:
        at = raw.index(b"=") + 1 if raw[:1] == b"[" else 0
        out: list[bytes] = []
        size = len(raw)
        while at < size:
            char = raw[at : at + 1]
            if char == b"{":
                out.append(b"[")
                at += 1
            elif char == b"}":
                out.append(b"]")
                at += 1
            elif char == b",":
                out.append(b",")
                at += 1
            elif char == b'"':
                end = at + 1
                while raw[end] != 0x22:
                    end += 2 if raw[end] == 0x5C else 1
                out.append(encode(_unescaped(raw[at + 1 : end])))
                at = end + 1
            else:
                end = at
                while raw[end] not in b",}":
                    end += 1
                text = raw[at:end]
                out.append(b"null" if text == b"NULL" else encode(text))
                at = end
        return b"".join(out)

    return array


_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(rb"\1", text) if b"\\" in text else text


_ENCODERS: Mapping[str, Encoder] = {
    "bool": _boolean,
    "int2": _integer,
    "int4": _integer,
    "int8": _integer,
    "oid": _integer,
    "float4": _float,
    "float8": _float,
    "numeric": _quoted,
    "uuid": _quoted,
    "date": _quoted,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "time": _time,
    "timetz": _time,
    "interval": _interval,
    "json": _raw_json,
    "jsonb": _raw_json,
    "bytea": _bytea,
    "vector": _raw_json,
}
_SCALARS = frozenset({_string, _quoted, _integer, _boolean, _timestamp, _timestamptz, _time, _bytea})
