"""The message format: renders the message that a sink sends for a change. Pure.

Messages match those recorded from Sequin 0.14.6: keys are in the recorded order, and columns are sorted by name.
`postgres/pg_types.py` formats single values, `routing.py` decides which sink gets which change, and `delivery/request_builder.py` builds
requests.

For speed, each part of a message is rendered once and reused: a `TableShape` has the part shared by all messages of its table, a `Change`
the part shared by all sinks, and a `SinkForm` the part shared by all messages of its sink. `render` joins them.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import orjson

from userhooks.engine import exact_json
from userhooks.engine.change import LARGE_BYTES, Change
from userhooks.engine.postgres.pg_types import TimestampFormat

CONSUMER_FIELDS = ("id", "name", "annotations")
DATABASE_FIELDS = ("id", "name", "hostname", "database", "annotations")
"""Fields of `metadata.consumer` and `metadata.database`, in the order in which messages have them."""

Transform: TypeAlias = Callable[[Change], bytes]
"""A transform function: returns the JSON of a message; raises FunctionRaised."""


class Routed(NamedTuple):
    """The parts of a request that can differ per message: method, path appended to the endpoint's URL, and extra headers."""

    method: str = "POST"
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()


RouteOf: TypeAlias = Callable[[Change], Routed]
"""A routing function: returns how to send a message; raises FunctionRaised."""


class SinkForm:
    """The part shared by all messages of a sink: `consumer` and `database` of their metadata, the transform, and the routing function."""

    __slots__ = ("database_name", "head", "route", "timestamp_format", "transform")

    def __init__(
        self,
        consumer: Mapping[str, Any],
        database: Mapping[str, Any],
        timestamp_format: TimestampFormat,
        transform: Transform | None = None,
        route: RouteOf | None = None,
    ) -> None:
        self.head = b',"metadata":{"consumer":%b,"database":%b,' % (
            exact_json.dumps({name: consumer[name] for name in CONSUMER_FIELDS}),
            exact_json.dumps({name: database[name] for name in DATABASE_FIELDS}),
        )
        self.database_name = b"%b" % orjson.dumps(database["name"])  # a copy, since orjson's own result keeps 4 kB allocated per sink
        self.timestamp_format = timestamp_format
        self.transform = transform
        self.route = route


def render(change: Change, form: SinkForm) -> bytes:
    """Return the JSON of one message. Raises what the transform raises, and DecodeError for a malformed row.

    Everything that does not depend on the sink is rendered once per change.
    """
    if form.transform is not None:
        return form.transform(change)
    parts = change._parts
    if parts is None or change._parts_format != form.timestamp_format:
        parts = _render_parts(change, form.timestamp_format)
        if change.size <= LARGE_BYTES:
            change._parts, change._parts_format = parts, form.timestamp_format
    record, metadata, end = parts
    return b"".join((b'{"record":', record, form.head, metadata, form.database_name, end))


def _render_parts(change: Change, timestamp_format: TimestampFormat) -> tuple[bytes, bytes, bytes]:
    """Render the three parts of a message that do not depend on the sink: record, metadata up to the database's name, and the rest."""
    shape = change.shape
    row = change.row
    if change.action == "update":
        old = change.replaced_row
        end = b'},"action":"update","changes":%b}' % (b"{}" if old is None else shape.changes(row, old, timestamp_format))
    else:
        end = _ENDS[change.action]
    return shape.record(row, timestamp_format), _metadata(change, shape.keys(row)), end


def _metadata(change: Change, keys: bytes) -> bytes:
    """Render the metadata that does not depend on the sink."""
    shape = change.shape
    time, annotations = timestamp(change.commit_us), change.annotations or b"null"
    if change.backfill_id is not None:
        return shape.metadata_of_reads % (time, _idempotency_key(change), annotations, keys)
    index, lsn = change.commit_idx, change.commit_lsn
    identity = b2a_base64(b"%d:%d" % (lsn, index), newline=False)
    return shape.metadata % (index, lsn, time, identity, annotations, keys)


def _keys(change: Change) -> list[bytes]:
    """Return the values of the primary key as text."""
    row, positions = change.row, change.shape.key_positions
    if len(positions) == 1 and isinstance(raw := row[positions[0]], bytes):
        return [raw]
    return [raw if isinstance(raw := row[at], bytes) else b"" for at in positions]


def _idempotency_key(change: Change) -> bytes:
    if change.backfill_id is None:
        identity = b"%d:%d" % (change.commit_lsn, change.commit_idx)
    else:
        identity = b":".join([change.backfill_id.encode(), *_keys(change)])
    return b2a_base64(identity, newline=False)


_ENDS = {action: b'},"action":"%b","changes":null}' % action.encode() for action in ("insert", "delete", "read")}


@lru_cache(maxsize=64)  # all changes of a transaction have the same timestamp
def timestamp(microseconds: int) -> bytes:
    """Format microseconds since 1970 as ISO 8601 in UTC with six fractional digits, such as 2026-11-23T17:44:38.478467Z."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return b"%b.%06dZ" % (_second(seconds), fraction)


@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


METADATA: Mapping[str, Callable[[Change], Any]] = {
    "table_name": lambda change: change.shape.name,
    "commit_idx": lambda change: change.commit_idx if change.backfill_id is None else None,
    "commit_lsn": lambda change: change.commit_lsn if change.backfill_id is None else None,
    "commit_timestamp": lambda change: timestamp(change.commit_us).decode(),
    "idempotency_key": lambda change: _idempotency_key(change).decode(),
    "table_schema": lambda change: change.shape.schema,
    "transaction_annotations": lambda change: None if change.annotations is None else orjson.loads(change.annotations),
    "record_pks": lambda change: [key.decode(errors="replace") for key in _keys(change)],
    "enrichment": lambda change: None,
}
"""Fields of `metadata` that depend on the change, each with a function that returns the value that user functions see."""
