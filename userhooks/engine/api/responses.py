"""Resources as the Management API shows them. Pure. Key order is free; shapes are Sequin 0.14.6's (recorded), those of sinks with
`filters` 0.9.4's."""

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


def endpoint(one: HttpEndpoint) -> dict[str, Any]:
    """An HTTP endpoint; encrypted headers are obscured, default ports left out of the URL."""
    return {
        "id": one.id,
        "name": one.name,
        "url": url_of(one),
        "headers": dict(one.headers),
        "encrypted_headers": {name: obscured(value) for name, value in one.encrypted_headers.items()},
    }


def url_of(one: HttpEndpoint) -> str:
    """The endpoint's URL."""
    port = "" if one.port == (443 if one.scheme == "https" else 80) else f":{one.port}"
    query = f"?{one.query}" if one.query else ""
    fragment = f"#{one.fragment}" if one.fragment else ""
    return f"{one.scheme}://{one.host}{port}{one.path or ''}{query}{fragment}"


def obscured(secret: str) -> str:
    """A secret with stars, as Sequin shows it (recorded for six to nine characters)."""
    n = len(secret)
    if n <= 5:
        return "*" * n
    if n <= 9:
        return secret[0] + "*" * (n - 2) + secret[-1]
    return secret[:3] + "*" * min(n - 4, 20) + secret[-1]


def sink(one: SinkResource, catalog: Catalog) -> dict[str, Any]:
    """A sink, without its health."""
    return sinks([one], catalog)[0]


def sinks(those: Iterable[SinkResource], catalog: Catalog) -> list[dict[str, Any]]:
    """Sinks, without their health; the backfills are looked through once for all of them."""
    active: dict[str, list[BackfillResource]] = {}
    for one in catalog.backfills.values():
        if one.state == "active":
            active.setdefault(one.sink_id, []).append(one)
    return [_sink(one, catalog, active.get(one.id, [])) for one in those]


def _sink(one: SinkResource, catalog: Catalog, backfills: list[BackfillResource]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": one.id,
        "name": one.name,
        "status": one.status,
        "actions": list(one.actions),
        "destination": {
            "type": "webhook",
            "batch": one.batch,
            "http_endpoint": catalog.endpoints[one.endpoint_id].name,
            "http_endpoint_path": one.path,
        },
        "batch_size": one.batch_size,
        "database": catalog.database.name,
        "annotations": dict(one.annotations),
        "transform": one.transform or "none",
        "timestamp_format": one.timestamp_format,
        "max_retry_count": one.max_retry_count,
        "load_shedding_policy": one.load_shedding_policy,
        "active_backfills": [backfill(b, one) for b in backfills],
    }
    if one.filters is not None:
        return answer | _as_of_0_9_4(one, catalog)
    return answer | {
        "filter": one.filter or "none",
        "routing": one.routing or "none",
        "enrichment": "none",
        "message_grouping": one.message_grouping,
        "source": {
            "include_schemas": _listed(one.source.include_schemas),
            "exclude_schemas": _listed(one.source.exclude_schemas),
            "include_tables": _tables(one.source.include_tables),
            "exclude_tables": _tables(one.source.exclude_tables),
        },
        "tables": [{"name": ".".join(t.table), "group_column_names": list(t.group_column_names)} for t in one.tables],
    }


def _as_of_0_9_4(one: SinkResource, catalog: Catalog) -> dict[str, Any]:
    table: TableName = (one.source.include_tables or (("", ""),))[0]
    known = catalog.tables.get(table)
    grouped = next((list(t.group_column_names) for t in one.tables if t.table == table), list(known.key) if known else [])
    filters: list[dict[str, Any]] = []
    for f in one.filters or ():
        shown: dict[str, Any] = {"column_name": f.column_name, "operator": f.operator}
        if f.operator != "is not null":
            shown["comparison_value"] = f.value
        filters.append(shown | {k: v for k, v in (("field_path", f.field_path), ("field_type", f.field_type)) if v is not None})
    return {"table": ".".join(table), "filters": filters, "group_column_names": grouped}


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _tables(names: tuple[TableName, ...] | None) -> list[str] | None:
    return None if names is None else [".".join(name) for name in names]


def backfill(one: BackfillResource, of: SinkResource) -> dict[str, Any]:
    """A backfill of a sink; `error` is there when it has failed or is kept from reading."""
    why = {} if one.error is None else {"error": one.error}
    return why | {
        "id": one.id,
        "sink_consumer": of.name,
        "table": ".".join(one.table),
        "state": one.state,
        "sort_column": one.sort_column,
        "rows_initial_count": one.rows_initial_count,
        "rows_processed_count": one.rows_processed_count,
        "rows_ingested_count": one.rows_ingested_count,
        "inserted_at": one.inserted_at,
        "updated_at": one.updated_at,
        "completed_at": one.completed_at,
        "canceled_at": one.canceled_at,
    }


def database(one: DatabaseResource, status: str) -> dict[str, Any]:
    """The one database."""
    slot = {"id": one.slot_id, "slot_name": one.slot_name, "publication_name": one.publication_name, "status": status}
    return {
        "id": one.id,
        "name": one.name,
        "hostname": one.hostname,
        "port": one.port,
        "database": one.database,
        "username": one.username,
        "password": obscured(one.password),
        "ssl": False,
        "ipv6": False,
        "use_local_tunnel": False,
        "pool_size": 10,
        "queue_interval": 1000,
        "queue_target": 50,
        "replication_slots": [slot],
    }


def api_key(one: ApiKey) -> dict[str, Any]:
    """A token, by its name only."""
    return {"id": one.id, "name": one.name, "inserted_at": one.inserted_at}


def function(one: FunctionResource) -> dict[str, Any]:
    """A function as config/apply answers it."""
    return {
        "name": one.name,
        "type": one.type,
        "description": one.description,
        "function": {"type": one.type, **function_code(one)},
    }


def function_code(one: FunctionResource) -> dict[str, Any]:
    """The code of a function under its name, and for routing the kind of sink that it is for."""
    return {code_key(one.type): one.code} | ({"sink_type": "webhook"} if one.type == "routing" else {})


def code_key(function_type: str) -> str:
    """Return what the code of such a function is called in requests and answers."""
    return "path" if function_type == "path" else "code"
