"""Parsing of the Management API's request bodies into resources. Pure.

There are two stages, as recorded from Sequin 0.14.6. The parser reads the keys in alphabetical order and stops at the first error. The
validation then reports all invalid fields in one response.

It is long because each field has its own check and error message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from userhooks.engine import exact_json
from userhooks.engine.api.api_errors import BLANK, ApiError, bad_request, invalid, not_found, refused
from userhooks.engine.api.filter_lists import column_filters
from userhooks.engine.resources import (
    BackfillRange,
    BackfillState,
    Catalog,
    HttpEndpoint,
    SinkResource,
    SinkTable,
    Source,
    Table,
    TableName,
)

NAME = re.compile(r"[a-zA-Z0-9_\-.]+")
BAD_NAME = "Can only contain alphanumeric characters, underscores, hyphens, or dots"
_HOST = re.compile(r"[a-zA-Z0-9.-]+")
_PATH = re.compile(r"[a-zA-Z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_MAX_ANNOTATIONS = 8192
_MAX_LENGTH = 255
"""Maximum length in characters of an endpoint's name, and of its URL's host, path, query, and fragment. Sequin answers 500 if longer."""
_MAX_RETRY_COUNT = 2**31 - 1


# --- HTTP endpoints ----------------------------------------------------------------------------------------------------

_IGNORED = frozenset({"id", "inserted_at", "updated_at", "account_id"})
_TUNNEL_KEYS = frozenset({"local", "path", "webhook.site"})
"""Keys for tunnels and for webhook.site, which need a service on the internet."""


def endpoint_from(body: Mapping[str, Any], existing: HttpEndpoint | None, id: str, taken: set[str]) -> HttpEndpoint:  # noqa: A002
    """Return a new endpoint with this id, or a changed copy of `existing`. Raise ApiError if the body is invalid.

    `taken` contains the names of all other endpoints.
    """
    for key in sorted(body):
        if key in _TUNNEL_KEYS:
            raise refused(f"`{key}` is not supported by the local engine; set `url`")
        if key not in _IGNORED and key not in ("name", "url", "headers", "encrypted_headers"):
            raise refused(f"Unknown field: {key}")
    errors: dict[str, Any] = {}
    if "name" in body or existing is None:
        errors |= _name_errors(body.get("name"), taken)
        if not errors and len(body["name"]) > _MAX_LENGTH:
            errors["name"] = [f"should be at most {_MAX_LENGTH} character(s)"]
    fields: dict[str, Any] = {}
    if "url" in body:
        if not isinstance(body["url"], str):
            raise invalid({"url": ["must be a string"]})
        fields, url_errors = _url_parts(body["url"])
        errors |= url_errors
    elif existing is None and not errors:
        errors |= {"scheme": [BLANK], "host": [BLANK]}
    for key in ("headers", "encrypted_headers"):
        if key in body:
            fields[key] = _headers(body[key], key)
    if errors:
        raise invalid(errors)
    if "name" in body:
        fields["name"] = body["name"]
    return replace(existing, **fields) if existing is not None else HttpEndpoint(id=id, **fields)


def _name_errors(name: Any, taken: set[str]) -> dict[str, Any]:
    if name is None or name == "":
        return {"name": [BLANK]}
    if not isinstance(name, str):
        return {"name": ["is invalid"]}
    if not NAME.fullmatch(name):
        return {"name": [BAD_NAME]}
    return {"name": ["has already been taken"]} if name in taken else {}


def _url_parts(url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if url[:1] <= " ":  # urlsplit would strip a leading space
        return {}, {"scheme": [BLANK], "host": [BLANK]}
    try:
        parts = urlsplit(url)
    except ValueError:
        return {}, {"host": ["must be a valid hostname"]}
    try:
        port = parts.port
    except ValueError:
        return {}, {"port": ["must be less than 65536" if re.fullmatch(r".*:\d+", parts.netloc, re.ASCII) else "is invalid"]}
    errors: dict[str, Any] = {}
    host = parts.netloc.rpartition("@")[2]
    host = host.partition(":")[0] if not host.startswith("[") else host  # `parts.hostname` would be in lower case
    if not parts.scheme:
        errors["scheme"] = [BLANK]
    elif parts.scheme not in ("http", "https"):
        errors["scheme"] = ["is invalid"]
    if not host:
        errors["host"] = [BLANK]
    elif not _HOST.fullmatch(host):
        errors["host"] = ["must be a valid hostname"]
    if port == 0:
        errors["port"] = ["must be greater than 0"]
    fields: dict[str, Any] = {
        "scheme": parts.scheme,
        "host": host,
        "port": port or (443 if parts.scheme == "https" else 80),
        "path": parts.path or None,
        "query": parts.query or None,
        "fragment": parts.fragment or None,
    }
    for name in ("host", "path", "query", "fragment"):
        if len(fields[name] or "") > _MAX_LENGTH:
            errors[name] = [f"should be at most {_MAX_LENGTH} character(s)"]
    return fields, errors


def _headers(value: Any, key: str) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(header, dict) and {"key", "value"} <= header.keys() for header in value):
        value = {header["key"]: header["value"] for header in value}
    if key == "headers" and not isinstance(value, dict | list):
        raise refused("Invalid headers configuration. Must be a list of key-value pairs.")
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise refused(f"{key} must be an object with string values, or a list of objects with key and value")
    for name, text in value.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(text):
            raise refused(f"{key} contains a header that cannot be sent: {name!r}")
        if name.lower() == "content-encoding" and text.strip().lower() not in ("gzip", "identity"):
            raise refused(f"{key} sets a content-encoding that the local engine does not support. Use `gzip`, or omit the header.")
    return dict(value)


# --- sinks -------------------------------------------------------------------------------------------------------------

_SINK_IGNORED = _IGNORED | {
    "consumer_start",
    "active_backfill",
    "active_backfills",
    "message_kind",
    "replication_slot_id",
    "sequence_id",
}
_STATUSES = ("active", "paused", "disabled")
_ACTIONS = ("insert", "update", "delete")


class _SinkRequest:
    """A sink's body after the parser stage: the parsed `fields`, and the `errors` that the validation will report."""

    def __init__(self, body: Mapping[str, Any], catalog: Catalog, existing: SinkResource | None) -> None:
        self.body = body
        self.catalog = catalog
        self.existing = existing
        self.fields: dict[str, Any] = {}
        self.errors: dict[str, Any] = {}
        for key in sorted(body):
            if key in _SINK_IGNORED:
                continue
            parser: Callable[[Any], None] | None = getattr(self, f"_{key}", None) if key in _SINK_KEYS else None
            if parser is None:
                raise refused(f"Unknown field: {key}")
            parser(body[key])

    def _actions(self, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, list) or any(action not in _ACTIONS for action in value):
            self.errors["actions"] = ["is invalid"]
        else:
            self.fields["actions"] = tuple(value)

    def _annotations(self, value: Any) -> None:
        try:
            size = len(exact_json.dumps(value)) if isinstance(value, dict) else None
        except TypeError:  # nested too deeply
            size = None
        if size is None:
            self.errors["annotations"] = ["is invalid"]
        elif size > _MAX_ANNOTATIONS:
            self.errors["annotations"] = [f"should be at most {_MAX_ANNOTATIONS} byte(s)"]
        else:
            self.fields["annotations"] = value

    def _batch_size(self, value: Any) -> None:
        if not _is_integer(value) or not 1 <= value <= 1000:
            raise refused("batch_size must be a positive integer <= 1000")
        self.fields["batch_size"] = value

    def _database(self, value: Any) -> None:
        if value != self.catalog.database.name:
            raise not_found("database")

    def _destination(self, value: Any) -> None:
        if value is None:
            raise refused("`sink` is required on sink consumers.")
        if not isinstance(value, dict) or value.get("type") != "webhook":
            raise refused('destination must be an object with "type": "webhook"; the local engine supports no other type')
        name = value.get("http_endpoint")
        # newest first: with 100,000 endpoints, the one named here was usually created just before
        endpoint = next((e for e in reversed(self.catalog.endpoints.values()) if e.name == name), None)
        if endpoint is None:
            raise not_found("http endpoint")
        path = value.get("http_endpoint_path") or None
        batch = value.get("batch", True)
        if isinstance(batch, str):
            batch = {"true": True, "false": False}.get(batch, batch)
        errors: dict[str, Any] = {}
        if path is not None and not isinstance(path, str):
            errors["http_endpoint_path"] = ["is invalid"]
        elif path is not None and not path.startswith(("/", "?", "#")):
            errors["http_endpoint_path"] = ["must start with '/', '?', '#', or be blank"]
        elif path is not None and (not path.startswith("/") or len(path) > 2000 or not _PATH.fullmatch(path)):
            errors["http_endpoint_path"] = ["must be a valid URL path or empty"]
        if not isinstance(batch, bool):
            errors["batch"] = ["is invalid"]
        if errors:
            self.errors["sink"] = errors
        self.fields |= {"endpoint_id": endpoint.id, "path": path, "batch": batch}

    def _function(self, key: str, value: Any) -> None:
        if value is None or value == "none":
            self.fields[key] = None
            return
        if isinstance(value, int | float):
            raise bad_request()
        function = next((f for f in self.catalog.functions.values() if f.name == value), None)
        if function is None:
            raise refused(f"Function '{value}' not found.")
        if function.type != key and (key, function.type) != ("transform", "path"):
            raise refused(f"Function '{value}' is a {function.type} function and cannot be used as {key}")
        self.fields[key] = value

    def _filter(self, value: Any) -> None:
        self._function("filter", value)

    def _transform(self, value: Any) -> None:
        self._function("transform", value)

    def _unsupported(self, key: str, value: Any) -> None:
        if value is not None and value != "none":
            raise refused(f"Function '{value}' not found.")

    def _routing(self, value: Any) -> None:
        self._function("routing", value)

    def _enrichment(self, value: Any) -> None:
        self._unsupported("enrichment", value)

    def _filters(self, value: Any) -> None:
        self.fields["filters"] = column_filters(value, self._single_table())

    def _single_table(self) -> Table:
        """Return the sink's only table: the body's `table`, or the existing sink's if the body has no table, source, or schema."""
        if "table" in self.body:
            return self.catalog.tables[self._table_name(self.body["table"])]
        tables = self.existing.source.include_tables if self.existing is not None else None
        if tables is None or len(tables) != 1 or "source" in self.body or "schema" in self.body:
            raise refused('filters need a single table; set "table": "schema.table"')
        if tables[0] not in self.catalog.tables:
            raise self._unknown_table(".".join(tables[0]))
        return self.catalog.tables[tables[0]]

    def _initial_backfill(self, value: Any) -> None:
        if not isinstance(value, (bool, list)):
            raise refused("initial_backfill must be true, false, or a list of table configurations")

    def _load_shedding_policy(self, value: Any) -> None:
        if value not in ("pause_on_full", "discard_on_full"):
            raise refused("load_shedding_policy must be one of: 'pause_on_full', 'discard_on_full'")
        self.fields["load_shedding_policy"] = value

    def _max_retry_count(self, value: Any) -> None:
        if value is None:
            return
        if not _is_integer(value) or value < 0:
            raise refused("max_retry_count must be a non-negative integer")
        if value == 0:
            self.errors["max_retry_count"] = ["must be greater than 0"]
        elif value > _MAX_RETRY_COUNT:
            self.errors["max_retry_count"] = [f"must be at most {_MAX_RETRY_COUNT}"]
        self.fields["max_retry_count"] = value

    def _message_grouping(self, value: Any) -> None:
        if not isinstance(value, bool) and value not in ("true", "false"):
            raise refused("message_grouping must be a boolean")
        self.fields["message_grouping"] = value in (True, "true")

    def _name(self, value: Any) -> None:
        self.fields["name"] = value

    def _schema(self, value: Any) -> None:
        self._needs_database()
        if not isinstance(value, str):
            raise refused("schema must be a string")
        self.fields["source"] = Source(include_schemas=(value,))

    def _source(self, value: Any) -> None:
        self._needs_database()
        if value is None:
            self.errors["source"] = [BLANK]
            return
        if not isinstance(value, dict):
            raise refused("source must be an object")
        source: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for key, names in value.items():
            if key not in ("include_schemas", "exclude_schemas", "include_tables", "exclude_tables"):
                raise refused(f"Unknown field: {key}")
            if names is None:
                continue
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise refused(f"{key} must be a list of names")
            if not names:
                errors[key.replace("tables", "table_oids")] = ["should have at least 1 item(s)"]
            source[key] = tuple(self._table_name(name) for name in names) if key.endswith("tables") else tuple(names)
        if "include_schemas" in source and "exclude_schemas" in source:
            errors["include_schemas"] = ["cannot be set when exclude_schemas is set"]
        if "include_tables" in source and "exclude_tables" in source:
            errors["exclude_table_oids"] = ["cannot be set when include_table_oids is set"]
        if errors:
            self.errors["source"] = errors
        self.fields["source"] = Source(**source)

    def _status(self, value: Any) -> None:
        if value is None:
            return
        if value not in _STATUSES:
            self.errors["status"] = ["is invalid"]
        else:
            self.fields["status"] = value

    def _table(self, value: Any) -> None:
        self._needs_database()
        self.fields["source"] = Source(include_tables=(self._table_name(value),))

    def _tables(self, value: Any) -> None:
        self._needs_database()
        if value is None:
            self.errors["source_tables"] = ["is invalid"]
            return
        if not isinstance(value, list):
            raise refused("Invalid `tables` attribute: must be a list of maps.")
        if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in value):
            raise refused("tables must be a list of objects with a name")
        tables = []
        for entry in value:
            name = self._table_name(entry["name"])
            columns = entry.get("group_column_names") or []
            known = {column.name for column in self.catalog.tables[name].columns}
            if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
                raise refused(f"group_column_names of {entry['name']} must be a list of column names")
            for column in columns:
                if column not in known:
                    missing = f"No `postgres column` found matching params: `table={'.'.join(name)}, column={column}`"
                    raise refused(f"Failed to parse tables: Not found: {missing}")
            tables.append(SinkTable(name, tuple(columns)))
        self.fields["tables"] = tuple(tables)

    def _timestamp_format(self, value: Any) -> None:
        if value not in ("iso8601", "unix_microsecond"):
            self.errors["timestamp_format"] = ["is invalid"]
        else:
            self.fields["timestamp_format"] = value

    def _needs_database(self) -> None:
        if "database" not in self.body:
            raise not_found("database")

    def _table_name(self, text: Any) -> TableName:
        schema, _, name = str(text).rpartition(".")
        table = (schema or "public", name)
        if table not in self.catalog.tables:
            raise self._unknown_table(text)
        return table

    def _unknown_table(self, text: Any) -> ApiError:
        return refused(f"Table '{text}' not found in database '{self.catalog.database.name}'")


_SINK_KEYS = frozenset(
    {
        "actions",
        "annotations",
        "batch_size",
        "database",
        "destination",
        "enrichment",
        "filter",
        "filters",
        "initial_backfill",
        "load_shedding_policy",
        "max_retry_count",
        "message_grouping",
        "name",
        "routing",
        "schema",
        "source",
        "status",
        "table",
        "tables",
        "timestamp_format",
        "transform",
    }
)


def sink_from(body: Mapping[str, Any], catalog: Catalog, existing: SinkResource | None, id: str, taken: set[str]) -> SinkResource:  # noqa: A002
    """Return a new sink with this id, or a changed copy of `existing`. Raise ApiError if the body is invalid.

    `taken` contains the names of all other sinks.
    """
    request = _SinkRequest(body, catalog, existing)
    fields, errors = request.fields, request.errors
    if "name" in body or existing is None:
        errors |= _name_errors(body.get("name"), taken)
    if existing is None and "endpoint_id" not in fields and "sink" not in errors:
        errors["sink"] = [BLANK]
    if existing is None and "database" not in body:
        errors["replication_slot_id"] = [BLANK]
    batch = fields.get("batch", existing.batch if existing else True)
    size = fields.get("batch_size", existing.batch_size if existing else 1)
    if not batch and size != 1:
        errors["batch_size"] = ["batch_size must be 1 when batch is false for webhook sinks"]
    if errors:
        raise invalid(errors)
    sink = replace(existing, **fields) if existing is not None else SinkResource(id=id, **fields)
    if not sink.message_grouping and any(table.group_column_names for table in sink.tables):
        raise invalid({"message_grouping": ["cannot be false while tables have group_column_names"]})
    _check_column_filters(sink, existing, "filters" in body)
    return sink


def _check_column_filters(sink: SinkResource, existing: SinkResource | None, in_body: bool) -> None:
    """Check that column filters are used without a filter function, and only with the table that they were set for.

    Anything else might let other users' rows through. `in_body` says whether the request sets `filters`.
    """
    if sink.filters is None:
        return
    if sink.filter is not None:
        raise refused("a sink has `filter` or `filters`, not both; to switch, delete the sink and create it again")
    if existing is not None and not in_body and sink.source != existing.source:
        raise refused("set `filters` together with the new table; the current ones apply only to the current table")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- backfills ---------------------------------------------------------------------------------------------------------

_TRANSITIONS = {"active": ("paused", "completed", "failed", "cancelled"), "paused": ("active", "cancelled")}


def backfill_from(body: Mapping[str, Any], sink: SinkResource, catalog: Catalog) -> tuple[TableName, BackfillState]:
    """Return the table and the initial state of a new backfill. Raise ApiError if the body is invalid."""
    _check_backfill_keys(body)
    table = _backfill_table(body, sink, catalog)
    obstacle = catalog.tables[table].unreadable()
    if obstacle is not None:
        raise refused(f"Table {'.'.join(table)} cannot be read by a backfill: {obstacle}")
    state = body.get("state", "active")
    if state not in ("active", "paused"):
        raise invalid({"state": ["is invalid"]})
    for other in catalog.backfills.values():
        if (other.sink_id, other.table) == (sink.id, table) and other.state in ("active", "paused"):
            raise invalid({"sink_consumer_id": ["already has an active backfill"]})
    return table, state


def initial_backfills(value: Any, sink: SinkResource, catalog: Catalog) -> list[BackfillRange]:
    """Return the backfills that a new sink's `initial_backfill` requests; true requests one of every table in the sink's source.

    Raise ApiError if the value is invalid.
    """
    if value is None or value is False:
        return []
    if value is True:
        ranges = [BackfillRange(name) for name in catalog.tables if sink.source.covers(*name)]
    elif isinstance(value, list):
        ranges = [_backfill_range(entry, sink, catalog) for entry in value]
    else:
        raise refused("initial_backfill must be true, false, or a list of table configurations")
    for backfill in ranges:
        obstacle = catalog.tables[backfill.table].unreadable(backfill.sort_column)
        if obstacle is not None:
            raise refused(f"Table {'.'.join(backfill.table)} cannot be read by a backfill: {obstacle}")
    if len({backfill.table for backfill in ranges}) < len(ranges):
        raise refused("initial_backfill lists a table twice")
    return ranges


def _backfill_range(entry: Any, sink: SinkResource, catalog: Catalog) -> BackfillRange:
    if not isinstance(entry, dict) or not entry.get("table"):
        raise refused("initial_backfill needs a `table` in each of its table configurations")
    for key in sorted(entry):
        if key not in ("table", "type", "sort_column", "start_position"):
            raise refused(f"Unknown field: {key}")
    table = _backfill_table(entry, sink, catalog)
    sort_column, start = entry.get("sort_column"), entry.get("start_position")
    if entry.get("type", "full") == "full" and sort_column is None and start is None:
        return BackfillRange(table)
    if entry.get("type") != "partial":
        raise refused(f"initial_backfill of {entry['table']}: `type` must be `full`, or `partial` with `sort_column` and `start_position`")
    if not isinstance(sort_column, str) or not isinstance(start, str | int | float) or isinstance(start, bool):
        raise refused(f"initial_backfill of {entry['table']}: `partial` needs a `sort_column` and a `start_position`, a string or a number")
    return BackfillRange(table, sort_column, str(start))


def _check_backfill_keys(body: Mapping[str, Any]) -> None:
    for key in sorted(body):
        if key not in ("table", "state") and key not in _IGNORED:
            raise refused(f"Unknown field: {key}")


def _backfill_table(body: Mapping[str, Any], sink: SinkResource, catalog: Catalog) -> TableName:
    name = body.get("table")
    if name is None:
        tables = sink.source.include_tables
        if tables is None or len(tables) != 1:
            raise refused("Table reference is required")
        table = tables[0]
    else:
        schema, _, name = str(name).rpartition(".")
        table = (schema or "public", name)
    if table not in catalog.tables:
        raise refused(f"Table {'.'.join(table)} not found")
    if not sink.source.covers(*table):
        raise refused(f"Table {'.'.join(table)} not in sink's source configuration")
    return table


def backfill_state(body: Mapping[str, Any], current: BackfillState) -> BackfillState:
    """Return the requested state of a backfill. Raise ApiError if the body or the transition is invalid."""
    _check_backfill_keys(body)
    state: BackfillState = body.get("state", current)
    if state is None:
        raise invalid({"state": [BLANK]})
    if state not in ("active", "paused", "completed", "cancelled", "failed"):
        raise invalid({"state": ["is invalid"]})
    allowed = _TRANSITIONS.get(current, ())
    if state != current and state not in allowed:
        text = ", ".join(allowed) or "none"
        raise invalid({"state": [f"Invalid state transition from {current} to {state}. Valid transitions: {text}"]})
    return state
