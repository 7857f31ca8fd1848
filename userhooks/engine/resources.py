"""What the Management API manages, as frozen values: HTTP endpoints, functions, sinks, backfills, API keys, tables.

Request bodies are read in `api/request_bodies.py`, answers made in `api/responses.py`; HTTP is in `api/handlers.py`, persistence in
`state_store.py`. Shapes follow Sequin 0.14.6 as recorded.
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
    """One column of a table as pg_catalog shows it."""

    name: str
    type_oid: int
    type_mod: int


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the publication, with its columns in order.

    `key` names the columns that identify a row, in the index's order: those of the index that REPLICA IDENTITY USING INDEX names, else the
    primary key's, without INCLUDE columns; empty without either.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: str
    """`d` default, `f` full, `i` index, `n` nothing (pg_class.relreplident)"""
    row_filter: str | None = None
    """the publication's condition on rows, as SQL"""
    indexes: tuple[tuple[str | None, ...], ...] = ()
    """the columns of each B-tree index of all rows; None for an expression"""
    partitioned: bool = False
    """whether its rows, and their changes, are those of its partitions"""

    def unreadable(self, sort_column: str | None = None) -> str | None:
        """Return why a backfill cannot read the table, as the end of a sentence; None when it can."""
        columns = {column.name for column in self.columns}
        if not self.key:
            return "it has no primary key, by which a backfill finds its place; add one"
        if not columns.issuperset(self.key):
            return "the publication leaves out columns of its primary key; add them to its column list"
        if sort_column is not None and sort_column not in columns:
            return f"it has no column {sort_column!r} to sort by"
        return None


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Where webhooks go."""

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
    """A filter, transform, path or routing function; `code` is Elixir source."""

    id: str
    name: str
    type: str
    code: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnFilter:
    """One entry of a sink's `filters`, the shape that Sequin 0.9.4 took; all entries of a sink are ANDed.

    `operator` is one of == != > < >= <= in not_in, "is null", "is not null"; `value` is normalised to the column's type
    (float for numbers, datetime text for timestamps, list for in / not_in, None for the null tests).
    """

    column_name: str
    operator: str
    value: Any = None
    field_path: str | None = None
    field_type: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Which tables a sink reads; None means no restriction of that kind. Tables are (schema, name)."""

    include_schemas: tuple[str, ...] | None = None
    exclude_schemas: tuple[str, ...] | None = None
    include_tables: tuple[TableName, ...] | None = None
    exclude_tables: tuple[TableName, ...] | None = None

    def covers(self, schema: str, table: str) -> bool:
        """Whether changes of this table belong to the source."""
        if self.include_schemas is not None and schema not in self.include_schemas:
            return False
        if self.exclude_schemas is not None and schema in self.exclude_schemas:
            return False
        if self.include_tables is not None and (schema, table) not in self.include_tables:
            return False
        return self.exclude_tables is None or (schema, table) not in self.exclude_tables


@dataclass(frozen=True, slots=True)
class SinkTable:
    """Grouping of one table's messages: the columns whose values name the group; none means no group, no order."""

    table: TableName
    group_column_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SinkResource:
    """A webhook sink: which changes go to which endpoint, in which shape."""

    id: str
    name: str
    endpoint_id: str
    status: SinkStatus = "active"
    actions: tuple[Action, ...] = ("insert", "update", "delete")
    path: str | None = None
    batch: bool = True
    batch_size: int = 1
    filter: str | None = None
    """name of a filter function; None passes all rows"""
    filters: tuple[ColumnFilter, ...] | None = None
    """column filters of the 0.9.4 body; such a sink is answered in 0.9.4's shape"""
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
    """why the engine has paused the sink by itself"""


@dataclass(frozen=True, slots=True)
class BackfillResource:
    """One reading of a table for one sink; times are UTC ISO 8601 text as the API shows them.

    With a `sort_column` only rows from `start_position` on (in the column's text form) are read, in the order of that column.
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
    """why it has failed, or what keeps it from reading at the moment"""
    sort_column: str | None = None
    start_position: str | None = None


class BackfillRange(NamedTuple):
    """The rows that a backfill reads: a whole table, or the rows from `start_position` on in the order of `sort_column`."""

    table: TableName
    sort_column: str | None = None
    start_position: str | None = None


@dataclass(frozen=True, slots=True)
class Discarded:
    """A message that was given up: `key` is the row's primary key as text, `error` what the last attempt failed with."""

    id: int
    table: str
    key: str
    action: str
    attempts: int
    error: str
    discarded_at: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A token by its SHA-256 (hex); the token itself is kept nowhere."""

    id: str
    name: str
    token_sha256: str = field(repr=False)
    inserted_at: str


@dataclass(frozen=True, slots=True)
class DatabaseResource:
    """The one database that this engine reads, as `postgres_databases` shows it."""

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
    """All resources by id, plus the tables of the publication; the API, the console and the metrics page only read it."""

    database: DatabaseResource
    endpoints: dict[str, HttpEndpoint] = field(default_factory=dict)
    functions: dict[str, FunctionResource] = field(default_factory=dict)
    sinks: dict[str, SinkResource] = field(default_factory=dict)
    backfills: dict[str, BackfillResource] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    tables: dict[TableName, Table] = field(default_factory=dict)
