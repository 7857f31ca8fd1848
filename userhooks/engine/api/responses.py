"""JSON of the Management API's resources, as recorded from Sequin 0.14.6. Pure.

The order of keys does not matter. Sinks with `filters` have the form of Sequin 0.9.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from userhooks.engine.resources import (
    ApiKey,
    BackfillResource,
    Catalog,
    DatabaseResource,
    FunctionResource,
    HttpEndpoint,
    SinkResource,
    TableName,
)


def endpoint(resource: HttpEndpoint) -> dict[str, Any]:
    """Return an HTTP endpoint, with its encrypted headers masked."""
    return {
        "id": resource.id,
        "name": resource.name,
        "url": url_of(resource),
        "headers": dict(resource.headers),
        "encrypted_headers": {name: obscured(value) for name, value in resource.encrypted_headers.items()},
    }


def url_of(endpoint: HttpEndpoint) -> str:
    """Return an endpoint's URL, without a default port."""
    port = "" if endpoint.port == (443 if endpoint.scheme == "https" else 80) else f":{endpoint.port}"
    query = f"?{endpoint.query}" if endpoint.query else ""
    fragment = f"#{endpoint.fragment}" if endpoint.fragment else ""
    return f"{endpoint.scheme}://{endpoint.host}{port}{endpoint.path or ''}{query}{fragment}"


def obscured(secret: str) -> str:
    """Mask a secret with asterisks, as Sequin does. The format was recorded only for secrets of six to nine characters."""
    n = len(secret)
    if n <= 5:
        return "*" * n
    if n <= 9:
        return secret[0] + "*" * (n - 2) + secret[-1]
    return secret[:3] + "*" * min(n - 4, 20) + secret[-1]


def sink(resource: SinkResource, catalog: Catalog) -> dict[str, Any]:
    """Return a sink, without its health."""
    return sinks([resource], catalog)[0]


def sinks(resources: Iterable[SinkResource], catalog: Catalog) -> list[dict[str, Any]]:
    """Return sinks, without their health. The backfills are scanned only once, however many sinks there are."""
    active: dict[str, list[BackfillResource]] = {}
    for candidate in catalog.backfills.values():
        if candidate.state == "active":
            active.setdefault(candidate.sink_id, []).append(candidate)
    return [_sink(resource, catalog, active.get(resource.id, [])) for resource in resources]


def _sink(sink: SinkResource, catalog: Catalog, backfills: list[BackfillResource]) -> dict[str, Any]:
    common: dict[str, Any] = {
        "id": sink.id,
        "name": sink.name,
        "status": sink.status,
        "actions": list(sink.actions),
        "destination": {
            "type": "webhook",
            "batch": sink.batch,
            "http_endpoint": catalog.endpoints[sink.endpoint_id].name,
            "http_endpoint_path": sink.path,
        },
        "batch_size": sink.batch_size,
        "database": catalog.database.name,
        "annotations": dict(sink.annotations),
        "transform": sink.transform or "none",
        "timestamp_format": sink.timestamp_format,
        "max_retry_count": sink.max_retry_count,
        "load_shedding_policy": sink.load_shedding_policy,
        "active_backfills": [backfill(active, sink) for active in backfills],
    }
    if sink.filters is not None:
        return common | _as_of_0_9_4(sink, catalog)
    return common | {
        "filter": sink.filter or "none",
        "routing": sink.routing or "none",
        "enrichment": "none",
        "message_grouping": sink.message_grouping,
        "source": {
            "include_schemas": _as_list(sink.source.include_schemas),
            "exclude_schemas": _as_list(sink.source.exclude_schemas),
            "include_tables": _table_names(sink.source.include_tables),
            "exclude_tables": _table_names(sink.source.exclude_tables),
        },
        "tables": [{"name": ".".join(entry.table), "group_column_names": list(entry.group_column_names)} for entry in sink.tables],
    }


def _as_of_0_9_4(sink: SinkResource, catalog: Catalog) -> dict[str, Any]:
    table: TableName = (sink.source.include_tables or (("", ""),))[0]
    known_table = catalog.tables.get(table)
    primary_key = list(known_table.key) if known_table else []
    group_columns = next((list(entry.group_column_names) for entry in sink.tables if entry.table == table), primary_key)
    filters: list[dict[str, Any]] = []
    for column_filter in sink.filters or ():
        entry: dict[str, Any] = {"column_name": column_filter.column_name, "operator": column_filter.operator}
        if column_filter.operator != "is not null":
            entry["comparison_value"] = column_filter.value
        field = {"field_path": column_filter.field_path, "field_type": column_filter.field_type}
        filters.append(entry | {key: value for key, value in field.items() if value is not None})
    return {"table": ".".join(table), "filters": filters, "group_column_names": group_columns}


def _as_list(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _table_names(names: tuple[TableName, ...] | None) -> list[str] | None:
    return None if names is None else [".".join(name) for name in names]


def backfill(resource: BackfillResource, sink: SinkResource) -> dict[str, Any]:
    """Return a backfill of a sink; `error` is present when it has failed or is blocked."""
    error = {} if resource.error is None else {"error": resource.error}
    return error | {
        "id": resource.id,
        "sink_consumer": sink.name,
        "table": ".".join(resource.table),
        "state": resource.state,
        "sort_column": resource.sort_column,
        "rows_initial_count": resource.rows_initial_count,
        "rows_processed_count": resource.rows_processed_count,
        "rows_ingested_count": resource.rows_ingested_count,
        "inserted_at": resource.inserted_at,
        "updated_at": resource.updated_at,
        "completed_at": resource.completed_at,
        "canceled_at": resource.canceled_at,
    }


def database(resource: DatabaseResource, status: str) -> dict[str, Any]:
    """Return the database; `status` is the status of its replication slot."""
    slot = {"id": resource.slot_id, "slot_name": resource.slot_name, "publication_name": resource.publication_name, "status": status}
    return {
        "id": resource.id,
        "name": resource.name,
        "hostname": resource.hostname,
        "port": resource.port,
        "database": resource.database,
        "username": resource.username,
        "password": obscured(resource.password),
        "ssl": False,
        "ipv6": False,
        "use_local_tunnel": False,
        "pool_size": 10,
        "queue_interval": 1000,
        "queue_target": 50,
        "replication_slots": [slot],
    }


def api_key(resource: ApiKey) -> dict[str, Any]:
    """Return an API token, without its secret."""
    return {"id": resource.id, "name": resource.name, "inserted_at": resource.inserted_at}


def function(resource: FunctionResource) -> dict[str, Any]:
    """Return a function as in the response of config/apply."""
    return {
        "name": resource.name,
        "type": resource.type,
        "description": resource.description,
        "function": {"type": resource.type, **function_code(resource)},
    }


def function_code(resource: FunctionResource) -> dict[str, Any]:
    """Return a function's code under its key, and the `sink_type` of a routing function."""
    return {code_key(resource.type): resource.code} | ({"sink_type": "webhook"} if resource.type == "routing" else {})


def code_key(function_type: str) -> str:
    """Return the key that contains the code of a function of this type in requests and responses."""
    return "path" if function_type == "path" else "code"
