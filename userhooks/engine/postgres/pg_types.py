"""Postgres values: from their text form to JSON as Sequin writes it, and to what a filter function sees. Pure.

The text form is that of sessions with `connections.SETTINGS`. The JSON form is that of Sequin's live changes (recorded from 0.14.6); rows
of a backfill get the same form here, where Sequin's differ for some types. How values become messages is in `message_format.py`.

Encoders work on bytes: they rearrange Postgres' text, and make no dates or decimals of it, since they run for each value of each message.
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
"""(oid, typname, typtype, element type's oid, typbasetype, delimiter): only a true array has an element type, and its typdelim"""

_DASH, _POINT, _C = b"-.C"


# --- text and numbers ----------------------------------------------------------------------------------------------------


def text(raw: bytes) -> bytes:
    """Any text, as a JSON string; bytes that are no UTF-8 (a database in SQL_ASCII) become replacement characters."""
    try:
        return orjson.dumps(raw.decode())
    except UnicodeDecodeError:
        return orjson.dumps(raw.decode(errors="replace"))


def verbatim(raw: bytes) -> bytes:
    """Return integers of any size as they are."""
    return raw


def _document(raw: bytes) -> bytes:
    """Return json and jsonb as they are; bytes that are not UTF-8 (a database in SQL_ASCII) become replacement characters."""
    if raw.isascii():
        return raw
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="replace").encode()
    return raw


def _vector(raw: bytes) -> bytes:
    """Return pgvector's vectors as JSON arrays, and another type's values of the same name as strings."""
    try:
        return raw if isinstance(orjson.loads(raw), list) else text(raw)
    except orjson.JSONDecodeError:
        return text(raw)


def _plain(raw: bytes) -> bytes:
    """Text that cannot hold a character which JSON escapes."""
    return b'"%b"' % raw


def _boolean(raw: bytes) -> bytes:
    return b"true" if raw == b"t" else b"false"


def _float(raw: bytes) -> bytes:
    """Postgres' shortest form is a JSON number, but for NaN and the infinities; whole numbers get `.0`, so that they stay floats."""
    if raw[-1:].isdigit():
        return raw if b"." in raw or b"e" in raw else raw + b".0"
    return b'"%b"' % raw


def _bytea(raw: bytes) -> bytes:
    return b'"\\%b"' % raw  # one backslash for JSON before the one that is there


# --- dates and times -----------------------------------------------------------------------------------------------------


def _date(raw: bytes) -> bytes:
    """Encode a date of any year, or an infinity, as Postgres writes it."""
    return b'"%b"' % raw


def _is_beyond_iso(raw: bytes) -> bool:
    """Whether a date or timestamp keeps the text that Postgres has for it, as at Sequin: years before 1 and after 9999, infinities."""
    return raw[4] != _DASH or raw[-1] == _C


def _timestamp_with(suffix: bytes) -> Encoder:
    """Make the encoder for timestamp (no suffix) or timestamptz (`Z`)."""
    common = len(b"2026-11-23 17:44:38.478467") + (3 if suffix else 0)
    template = b'"%bT%b' + suffix + b'"'

    def encode(raw: bytes) -> bytes:
        if len(raw) == common and raw[19] == _POINT and raw[-1] != _C:  # most: a year of four digits, a fraction of six, not BC
            return template % (raw[:10], raw[11:26])
        if _is_beyond_iso(raw):
            return b'"%b"' % raw
        time, _, fraction = raw[11:].removesuffix(b"+00").partition(b".")
        return b'"%bT%b.%b%b"' % (raw[:10], time, fraction.ljust(6, b"0"), suffix)

    return encode


def _unix_microseconds(raw: bytes) -> bytes:
    """Encode timestamp and timestamptz as microseconds since 1970."""
    if _is_beyond_iso(raw):
        return b'"%b"' % raw
    seconds = days_since_1970(int(raw[:4]), int(raw[5:7]), int(raw[8:10])) * 86400
    seconds += int(raw[11:13]) * 3600 + int(raw[14:16]) * 60 + int(raw[17:19])
    fraction = raw[20:].removesuffix(b"+00") if len(raw) > 19 and raw[19] == _POINT else b""
    return b"%d" % (seconds * 1_000_000 + int(fraction.ljust(6, b"0")))


def days_since_1970(year: int, month: int, day: int) -> int:
    """Count days in the proleptic Gregorian calendar, years before 1 as ISO 8601 numbers them; `datetime` ends at 9999."""
    year -= month < 3  # a year that begins in March has its leap day at the end
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719_469


def _time(raw: bytes) -> bytes:
    """time and timetz: neither fraction nor zone, as recorded."""
    return b'"%b"' % raw[:8]


_INTERVAL = re.compile(
    rb"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?)?"
).fullmatch


def _interval(raw: bytes) -> bytes:
    match = _INTERVAL(raw)
    if match is None:
        return text(raw)  # the infinities of Postgres 17
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups(b"0")
    micro = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000 + int(fraction.ljust(6, b"0"))
    if sign == b"-":
        micro = -micro
    return b'{"days":%d,"microseconds":%d,"months":%d}' % (int(days), micro, int(years) * 12 + int(months))


# --- arrays --------------------------------------------------------------------------------------------------------------


def _array(delimiter: bytes, tokens: Callable[[bytes], Any], element: Encoder, raw: bytes) -> bytes:
    """Encode an array of any depth as JSON arrays, without bounds that do not start at 1. Raises ValueError for malformed text."""
    if raw[:1] == b"[":
        raw = raw[raw.index(b"=") + 1 :]
    if b'"' not in raw and raw.find(b"{", 1) < 0 and b"NULL" not in raw.upper():
        inside = raw[1:-1]
        return b"[%b]" % b",".join([element(item) for item in inside.split(delimiter)]) if inside else b"[]"
    parts: list[bytes] = []
    depth, complete = 0, False  # complete: an element or a whole array has just ended
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
"""text, varchar and uuid: a string that is equal to another is the same bytes"""

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
"""Built-in types whose form is not the plain text; their oids are fixed (pg_type.dat)."""
_AS_VECTOR = frozenset({"vector", "halfvec"})


class TypeCatalog:
    """The types of a database, from rows of pg_type; a type that is not in it is taken for text."""

    def __init__(self, rows: Iterable[TypeRow]) -> None:
        self._types: dict[int, TypeRow] = {}
        self.update(rows)

    def update(self, rows: Iterable[TypeRow]) -> None:
        """Take over newer rows; encoders that were handed out before stay as they are."""
        self._types.update({row[0]: row for row in rows})

    def knows(self, type_oid: int) -> bool:
        """Whether the type was among the rows."""
        return type_oid in self._types

    def base(self, type_oid: int) -> int:
        """Return the type under a domain, or the type itself."""
        row = self._types.get(type_oid)
        while row is not None and row[2] == "d":
            type_oid = row[4]
            row = self._types.get(type_oid)
        return type_oid

    def name(self, type_oid: int) -> str:
        """Return the name of the type under a domain, or of the type itself; empty for an unknown one."""
        row = self._types.get(self.base(type_oid))
        return row[1] if row is not None else ""

    def element(self, type_oid: int) -> int:
        """Return the type of an array's elements, or the type itself, without domains."""
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
        """Return what turns the type's text form into a JSON string of just that."""
        return _plain if self.base(type_oid) in INTEGERS or self.json_encoder(type_oid) is _plain else text

    def is_scalar(self, type_oid: int) -> bool:
        """Whether the JSON of the type is never a list or an object."""
        encoder = self.json_encoder(type_oid)
        return not (encoder in (_document, _vector, _interval) or isinstance(encoder, partial))

    def is_text(self, type_oid: int) -> bool:
        """Whether the JSON of the type is its text as a string."""
        return self.json_encoder(type_oid) in (text, _plain)

    def decoder(self, type_oid: int) -> Decoder:
        """Return what turns the type's text form into the value that a filter function sees: that of the JSON form.

        It raises ValueError or RecursionError for a JSON document that Python cannot read.
        """
        encoder = self.json_encoder(type_oid)
        if encoder is text:
            return _decode_text
        if encoder is verbatim:
            return int
        return lambda raw: json.loads(encoder(raw))


def _decode_text(raw: bytes) -> str:
    return raw.decode(errors="replace")
