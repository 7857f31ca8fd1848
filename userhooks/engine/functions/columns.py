"""Column values as functions see them: numerics, dates, and times are structs, everything else is its JSON value. Pure.

As in Sequin, the text that Postgres sends is cast to these types, and arrays are cast element by element. Text that cannot be cast stays
text.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from userhooks.engine.change import Change, See
from userhooks.engine.functions import structs
from userhooks.engine.postgres.pg_types import DATE, DATES, NUMERIC, TIMES, Decoder, TimestampFormat
from userhooks.engine.postgres.pgoutput import UNCHANGED, Value
from userhooks.engine.table_shape import TableShape


def value_of(shape: TableShape, position: int, raw: Value, timestamp_format: TimestampFormat) -> Any:
    """Return a column's value; raises ValueError or RecursionError for JSON that Python cannot parse."""
    if raw is None:
        return None
    if raw is UNCHANGED:
        return UNCHANGED.value
    key = (position, timestamp_format)
    decoder = shape.seen.get(key)
    if decoder is None:
        decoder = shape.seen[key] = _decoder(shape, position, timestamp_format)
    return decoder(raw)


def _decoder(shape: TableShape, position: int, timestamp_format: TimestampFormat) -> Decoder:
    type_oid = shape.columns[position].type_oid
    element = shape.types.element(type_oid)
    cast = _CASTS.get(element)
    if cast is None and element not in DATES:
        return shape.types.decoder(type_oid)
    encode = shape.types.json_encoder(type_oid, timestamp_format)

    def decode(raw: bytes) -> Any:
        value = json.loads(encode(raw))
        return value if cast is None else _cast_all(cast, value)

    return decode


def _cast_all(cast: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_cast_all(cast, item) for item in value]
    return cast(value) if isinstance(value, str) else value


def _numeric(text: str) -> Any:
    return structs.decimal(Decimal(text))


def _date(text: str) -> Any:
    days = structs.parse_date(text)
    return structs.date(days) if isinstance(days, int) else text


def _time(text: str) -> Any:
    time_of_day = structs.parse_time(text)
    return structs.time(*time_of_day) if isinstance(time_of_day, tuple) else text


def timestamp_struct(text: str) -> Any:
    """Return a timestamp's text as a struct: DateTime if it has a zone, otherwise NaiveDateTime. Other text is returned unchanged."""
    parsed = structs.parse_moment(text)
    if not isinstance(parsed, tuple):
        return text
    moment, offset = parsed
    return structs.naive(moment.microseconds, moment.precision) if offset is None else structs.datetime(moment)


_CASTS: dict[int, Any] = {
    NUMERIC: _numeric,
    DATE: _date,
    **dict.fromkeys(TIMES, _time),
    **dict.fromkeys(DATES - {DATE}, timestamp_struct),
}


def column_of(change: Change, column: str, timestamp_format: TimestampFormat) -> Any:
    """Return `record[column]`."""
    shape = change.shape
    position = shape.positions.get(column)
    return None if position is None else value_of(shape, position, change.raw(position), timestamp_format)


def old_column_of(change: Change, column: str, timestamp_format: TimestampFormat) -> Any:
    """Return `changes[column]`."""
    old = old_value(change, column)
    return None if old is None else value_of(change.shape, *old, timestamp_format)


def old_value(change: Change, column: str) -> tuple[int, Value] | None:
    """Return the position and old value of a column that an update is known to have changed; otherwise None."""
    old = change.replaced_row
    position = change.shape.positions.get(column)
    if old is None or position is None or old[position] == change.row[position]:
        return None
    return position, old[position]


def seeing(timestamp_format: TimestampFormat) -> See:
    """Return the function that reads each value of a whole record or of `changes`."""
    return lambda shape, position, raw: value_of(shape, position, raw, timestamp_format)
