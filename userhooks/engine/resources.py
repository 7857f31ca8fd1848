"""The Management API's resources as frozen values: HTTP endpoints, functions, sinks, backfills, API keys, tables.

Fields are as recorded from Sequin 0.14.6. `api/request_bodies.py` parses requests, `api/responses.py` builds responses,
`api/handlers.py` serves HTTP, and `state_store.py` saves resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

SinkStatus = Literal["active", "paused", "disabled"]
BackfillState = Literal["active", "paused", "completed", "cancelled", "failed"]
Action = Literal["insert", "update", "delete"]
TableName = tuple[str, str]
"""(schema, table)"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, as in pg_catalog."""

    name: str
    type_oid: int
    type_mod: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the publication, with its columns in order.

    `key` lists the columns that identify a row: the columns of the index set with REPLICA IDENTITY USING INDEX, or else of the primary
    key, in the index's order and without INCLUDE columns. If the table has neither, `key` is empty.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: str
    """`d` default, `f` full, `i` index, `n` nothing (pg_class.relreplident)"""
    row_filter: str | None = None
    """the publication's row filter, as SQL"""
    indexes: tuple[tuple[str | None, ...], ...] = ()
    """the columns of each B-tree index that covers all rows; None stands for an expression"""
    partitioned: bool = False
    """whether the table is partitioned, so that its rows and their changes are in its partitions"""

    def unreadable(self, sort_column: str | None = None) -> str | None:
        """Return why a backfill cannot read the table, as a clause whose subject is \"it\"; None if one can."""
        columns = {column.name for column in self.columns}
        if not self.key:
            return "it has no primary key, which a backfill needs to keep its place; add one"
        if not columns.issuperset(self.key):
            return "the publication omits columns of its primary key; add them to the column list"
        if sort_column is not None and sort_column not in columns:
            return f"it has no column {sort_column!r} to sort by"
        return None


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """An HTTP endpoint: the URL that webhooks are sent to, and their headers."""

    id: str
    name: str
    scheme: str
    host: str
    port: int
    path: str | None = None
    query: str | None = None
    fragment: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    encrypted_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class FunctionResource:
    """A filter, transform, path, or routing function; `code` is Elixir source."""

    id: str
    name: str
    type: str
    code: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnFilter:
    """An entry of a sink's `filters`, in the form that Sequin 0.9.4 accepted; a change must match all entries.

    `operator` is one of `==`, `!=`, `>`, `<`, `>=`, `<=`, `in`, `not_in`, `is null`, and `is not null`. `value` is normalized to the
    column's type: a float for numbers, text for timestamps, a list for `in` and `not_in`, None for the null tests.
    """

    column_name: str
    operator: str
    value: Any = None
    field_path: str | None = None
    field_type: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The tables that a sink reads. None means no restriction of that kind; tables are (schema, name) pairs."""

    include_schemas: tuple[str, ...] | None = None
    exclude_schemas: tuple[str, ...] | None = None
    include_tables: tuple[TableName, ...] | None = None
    exclude_tables: tuple[TableName, ...] | None = None

    def covers(self, schema: str, table: str) -> bool:
        """Return whether the source includes this table."""
        if self.include_schemas is not None and schema not in self.include_schemas:
            return False
        if self.exclude_schemas is not None and schema in self.exclude_schemas:
            return False
        if self.include_tables is not None and (schema, table) not in self.include_tables:
            return False
        return self.exclude_tables is None or (schema, table) not in self.exclude_tables


@dataclass(frozen=True, slots=True)
class SinkTable:
    """Groups a table's messages by the values of columns; if no columns are given, messages have no group and no order."""

    table: TableName
    group_column_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SinkResource:
    """A webhook sink: which changes go to which endpoint, and in what form."""

    id: str
    name: str
    endpoint_id: str
    status: SinkStatus = "active"
    actions: tuple[Action, ...] = ("insert", "update", "delete")
    path: str | None = None
    batch: bool = True
    batch_size: int = 1
    filter: str | None = None
    """name of a filter function; None accepts all changes"""
    filters: tuple[ColumnFilter, ...] | None = None
    """column filters from a request in Sequin 0.9.4's format; the API returns such a sink in that format"""
    transform: str | None = None
    routing: str | None = None
    source: Source = Source()
    tables: tuple[SinkTable, ...] = ()
    message_grouping: bool = True
    max_retry_count: int | None = None
    load_shedding_policy: str = "pause_on_full"
    timestamp_format: Literal["iso8601", "unix_microsecond"] = "iso8601"
    annotations: Mapping[str, Any] = field(default_factory=dict)
    paused_because: str | None = None
    """why the engine itself paused the sink; None if it did not"""


@dataclass(frozen=True, slots=True)
class BackfillResource:
    """A backfill of one table for one sink; times are UTC in ISO 8601, as the API shows them.

    With a `sort_column`, it reads only rows from `start_position` (the column's value as text) onward, in the order of that column.
    """

    id: str
    sink_id: str
    table: TableName
    state: BackfillState
    inserted_at: str
    updated_at: str
    rows_initial_count: int | None = None
    rows_processed_count: int = 0
    rows_ingested_count: int = 0
    completed_at: str | None = None
    canceled_at: str | None = None
    error: str | None = None
    """why the backfill failed, or what currently keeps it from reading"""
    sort_column: str | None = None
    start_position: str | None = None


class BackfillRange(NamedTuple):
    """The rows that a backfill reads: the whole table, or the rows from `start_position` onward in the order of `sort_column`."""

    table: TableName
    sort_column: str | None = None
    start_position: str | None = None


@dataclass(frozen=True, slots=True)
class Discarded:
    """A discarded message: `key` is the row's primary key as text, `error` the error of the last attempt."""

    id: int
    table: str
    key: str
    action: str
    attempts: int
    error: str
    discarded_at: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, which stores only the SHA-256 (hex) of its token."""

    id: str
    name: str
    token_sha256: str = field(repr=False)
    inserted_at: str


@dataclass(frozen=True, slots=True)
class DatabaseResource:
    """The one database that this engine reads, as the API returns it under `postgres_databases`."""

    id: str
    name: str
    hostname: str
    port: int
    database: str
    username: str
    password: str = field(repr=False)
    slot_id: str
    slot_name: str
    publication_name: str


@dataclass
class Catalog:
    """All resources by id, and the tables of the publication. The API, the console, and the metrics page only read it."""

    database: DatabaseResource
    endpoints: dict[str, HttpEndpoint] = field(default_factory=dict)
    functions: dict[str, FunctionResource] = field(default_factory=dict)
    sinks: dict[str, SinkResource] = field(default_factory=dict)
    backfills: dict[str, BackfillResource] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    tables: dict[TableName, Table] = field(default_factory=dict)
