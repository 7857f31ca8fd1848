"""Conversion of Postgres values from text to JSON as Sequin writes it, and to the values that a filter function sees. No I/O.

The text form is what Postgres sends to sessions with `postgres_connections.SETTINGS`. The JSON form was recorded from live changes of
Sequin 0.14.6. Backfilled rows get the same form here, whereas Sequin formats some types differently in backfills. `message_format.py`
builds messages from the converted values.

Encoders run for each value of each message, so they rearrange the bytes of Postgres' text without parsing dates or decimals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, TypeAlias

import orjson

TimestampFormat: TypeAlias = Literal["iso8601", "unix_microsecond"]
Encoder: TypeAlias = Callable[[bytes], bytes]
Decoder: TypeAlias = Callable[[bytes], Any]
TypeRow: TypeAlias = tuple[int, str, str, int, int, str]
"""A row of pg_type: (oid, typname, typtype, element type's oid, typbasetype, element type's typdelim).

The element type's oid is 0 for types that are not arrays.
"""

_DASH, _POINT, _C = b"-.C"


# --- text and numbers ----------------------------------------------------------------------------------------------------


def text(raw: bytes) -> bytes:
    """Return any text as a JSON string.

    Bytes that are not valid UTF-8, possible in an SQL_ASCII database, become replacement characters.
    """
    try:
        return orjson.dumps(raw.decode())
    except UnicodeDecodeError:
        return orjson.dumps(raw.decode(errors="replace"))


def verbatim(raw: bytes) -> bytes:
    """Return an integer of any size unchanged."""
    return raw


def _document(raw: bytes) -> bytes:
    """Return json or jsonb unchanged, except for replacement characters in place of bytes that are not valid UTF-8, as in `text`."""
    if raw.isascii():
        return raw
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="replace").encode()
    return raw


def _vector(raw: bytes) -> bytes:
    """Return a pgvector value as a JSON array; values of unrelated types with the same name become strings."""
    try:
        return raw if isinstance(orjson.loads(raw), list) else text(raw)
    except orjson.JSONDecodeError:
        return text(raw)


def _plain(raw: bytes) -> bytes:
    """Return text as a JSON string without escaping; `raw` must not contain characters that JSON escapes."""
    return b'"%b"' % raw


def _boolean(raw: bytes) -> bytes:
    return b"true" if raw == b"t" else b"false"


def _float(raw: bytes) -> bytes:
    """Return a float as a JSON number, with `.0` added to whole numbers; NaN and the infinities become strings."""
    if raw[-1:].isdigit():
        return raw if b"." in raw or b"e" in raw else raw + b".0"
    return b'"%b"' % raw


def _bytea(raw: bytes) -> bytes:
    return b'"\\%b"' % raw  # JSON needs the backslash of `\x` escaped.


# --- dates and times -----------------------------------------------------------------------------------------------------


def _date(raw: bytes) -> bytes:
    """Return a date of any year, or an infinity, as Postgres writes it."""
    return b'"%b"' % raw


def _is_beyond_iso(raw: bytes) -> bool:
    """Return whether a timestamp keeps Postgres' text, as in Sequin: years before 1 or after 9999, and infinities."""
    return raw[4] != _DASH or raw[-1] == _C


def _timestamp_with(suffix: bytes) -> Encoder:
    """Return the encoder for timestamp (empty suffix) or timestamptz (`Z`)."""
    common_length = len(b"2026-11-23 17:44:38.478467") + (3 if suffix else 0)
    template = b'"%bT%b' + suffix + b'"'

    def encode(raw: bytes) -> bytes:
        # The common case: a four-digit year and a six-digit fraction, not BC.
        if len(raw) == common_length and raw[19] == _POINT and raw[-1] != _C:
            return template % (raw[:10], raw[11:26])
        if _is_beyond_iso(raw):
            return b'"%b"' % raw
        time, _, fraction = raw[11:].removesuffix(b"+00").partition(b".")
        return b'"%bT%b.%b%b"' % (raw[:10], time, fraction.ljust(6, b"0"), suffix)

    return encode


def _unix_microseconds(raw: bytes) -> bytes:
    """Return a timestamp or timestamptz as microseconds since 1970."""
    if _is_beyond_iso(raw):
        return b'"%b"' % raw
    seconds = days_since_1970(int(raw[:4]), int(raw[5:7]), int(raw[8:10])) * 86400
    seconds += int(raw[11:13]) * 3600 + int(raw[14:16]) * 60 + int(raw[17:19])
    fraction = raw[20:].removesuffix(b"+00") if len(raw) > 19 and raw[19] == _POINT else b""
    return b"%d" % (seconds * 1_000_000 + int(fraction.ljust(6, b"0")))


def days_since_1970(year: int, month: int, day: int) -> int:
    """Return the number of days from 1970-01-01 to a date in the proleptic Gregorian calendar.

    Years before 1 are numbered as in ISO 8601. `datetime` is not used because it ends at year 9999.
    """
    year -= month < 3  # If a year starts in March, its leap day comes last.
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719_469


def _time(raw: bytes) -> bytes:
    """Return a time or timetz without fraction and zone, as recorded from Sequin."""
    return b'"%b"' % raw[:8]


_INTERVAL = re.compile(
    rb"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?)?"
).fullmatch


def _interval(raw: bytes) -> bytes:
    match = _INTERVAL(raw)
    if match is None:
        return text(raw)  # infinite intervals, which are new in Postgres 17
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups(b"0")
    micro = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000 + int(fraction.ljust(6, b"0"))
    if sign == b"-":
        micro = -micro
    return b'{"days":%d,"microseconds":%d,"months":%d}' % (int(days), micro, int(years) * 12 + int(months))


# --- arrays --------------------------------------------------------------------------------------------------------------


def _array(delimiter: bytes, tokens: Callable[[bytes], Any], element: Encoder, raw: bytes) -> bytes:
    """Return an array of any depth as JSON arrays, ignoring explicit bounds; raises ValueError for malformed text."""
    if raw[:1] == b"[":
        raw = raw[raw.index(b"=") + 1 :]
    if b'"' not in raw and raw.find(b"{", 1) < 0 and b"NULL" not in raw.upper():
        inside = raw[1:-1]
        return b"[%b]" % b",".join([element(item) for item in inside.split(delimiter)]) if inside else b"[]"
    parts: list[bytes] = []
    depth, complete = 0, False  # `complete` is set right after an element or an array.
    for mark, quoted, bare in tokens(raw):
        if (mark in (b"", b"{")) is complete or (complete and not depth):
            raise ValueError("a malformed array")
        complete = mark in (b"", b"}")
        if mark == b"{":
            depth += 1
            parts.append(b"[")
        elif mark == b"}":
            depth -= 1
            parts.append(b"]")
        elif mark:
            parts.append(b",")
        elif bare:
            parts.append(b"null" if bare.upper() == b"NULL" else element(bare))
        else:
            parts.append(element(_UNESCAPE(rb"\1", quoted[1:-1])))
    if depth:
        raise ValueError("a malformed array")
    return b"".join(parts)


_UNESCAPE = re.compile(rb"\\(.)", re.DOTALL).sub


def _array_of(element: Encoder, delimiter: bytes) -> Encoder:
    escaped = re.escape(delimiter)
    tokens = re.compile(rb'([{}%b])|("(?:[^"\\]|\\.)*")|([^{}"%b]+)' % (escaped, escaped), re.DOTALL).findall
    return partial(_array, delimiter, tokens, element)


# --- types ---------------------------------------------------------------------------------------------------------------

BOOLEAN, _BYTEA, _INT8, _INT2, _INT4, _OID, _JSON, _JSONB = 16, 17, 20, 21, 23, 26, 114, 3802
_FLOAT4, _FLOAT8, NUMERIC, _UUID, DATE, _TIME, _TIMETZ, _INTERVAL_OID = 700, 701, 1700, 2950, 1082, 1083, 1266, 1186
TIMESTAMP, TIMESTAMPTZ = 1114, 1184
INTEGERS = frozenset({_INT2, _INT4, _INT8, _OID})
DATES = frozenset({DATE, TIMESTAMP, TIMESTAMPTZ})
TIMES = frozenset({_TIME, _TIMETZ})
EXACT_TEXTS = frozenset({25, 1043, _UUID})
"""The oids of text, varchar, and uuid, for which equal values have equal bytes."""

_ENCODERS: dict[int, Encoder] = {
    BOOLEAN: _boolean,
    _BYTEA: _bytea,
    **dict.fromkeys((_INT2, _INT4, _INT8, _OID), verbatim),
    **dict.fromkeys((_JSON, _JSONB), _document),
    **dict.fromkeys((_FLOAT4, _FLOAT8), _float),
    **dict.fromkeys((NUMERIC, _UUID), _plain),
    DATE: _date,
    **dict.fromkeys(TIMES, _time),
    TIMESTAMP: _timestamp_with(b""),
    TIMESTAMPTZ: _timestamp_with(b"Z"),
    _INTERVAL_OID: _interval,
}
"""Encoders of built-in types that are not encoded as plain text; their oids are fixed (pg_type.dat)."""
_AS_VECTOR = frozenset({"vector", "halfvec"})


class TypeCatalog:
    """The types of a database, from rows of pg_type; unknown types are treated as text."""

    def __init__(self, rows: Iterable[TypeRow]) -> None:
        self._types: dict[int, TypeRow] = {}
        self.update(rows)

    def update(self, rows: Iterable[TypeRow]) -> None:
        """Add or replace types; encoders returned earlier do not change."""
        self._types.update({row[0]: row for row in rows})

    def knows(self, type_oid: int) -> bool:
        """Return whether the type is known."""
        return type_oid in self._types

    def base(self, type_oid: int) -> int:
        """Return the oid of a domain's base type, or of the type itself."""
        row = self._types.get(type_oid)
        while row is not None and row[2] == "d":
            type_oid = row[4]
            row = self._types.get(type_oid)
        return type_oid

    def name(self, type_oid: int) -> str:
        """Return the name of a domain's base type, or of the type itself; empty for an unknown type."""
        row = self._types.get(self.base(type_oid))
        return row[1] if row is not None else ""

    def element(self, type_oid: int) -> int:
        """Return the oid of an array's element type, or of the type itself; domains are resolved."""
        base = self.base(type_oid)
        row = self._types.get(base)
        return self.element(row[3]) if row is not None and row[3] else base

    def json_encoder(self, type_oid: int, timestamp_format: TimestampFormat = "iso8601") -> Encoder:
        """Return the function that converts the type's text form to JSON."""
        base = self.base(type_oid)
        if timestamp_format == "unix_microsecond" and base in (TIMESTAMP, TIMESTAMPTZ):
            return _unix_microseconds
        encoder = _ENCODERS.get(base)
        if encoder is not None:
            return encoder
        row = self._types.get(base)
        if row is None:
            return text
        _, name, kind, element, _, delimiter = row
        if element:
            return _array_of(self.json_encoder(element, timestamp_format), delimiter.encode())
        return _vector if kind == "b" and name in _AS_VECTOR else text

    def text_encoder(self, type_oid: int) -> Encoder:
        """Return the function that converts the type's text form to a JSON string of the same text."""
        return _plain if self.base(type_oid) in INTEGERS or self.json_encoder(type_oid) is _plain else text

    def is_scalar(self, type_oid: int) -> bool:
        """Return whether the type's JSON is never an array or an object."""
        encoder = self.json_encoder(type_oid)
        return not (encoder in (_document, _vector, _interval) or isinstance(encoder, partial))

    def is_text(self, type_oid: int) -> bool:
        """Return whether values of the type are encoded in JSON as a string with their text form."""
        return self.json_encoder(type_oid) in (text, _plain)

    def decoder(self, type_oid: int) -> Decoder:
        """Return the function that converts the type's text form to the value that a filter function sees: the parsed JSON form.

        The returned function raises ValueError or RecursionError for JSON documents that Python cannot parse.
        """
        encoder = self.json_encoder(type_oid)
        if encoder is text:
            return _decode_text
        if encoder is verbatim:
            return int
        return lambda raw: json.loads(encoder(raw))


def _decode_text(raw: bytes) -> str:
    return raw.decode(errors="replace")
