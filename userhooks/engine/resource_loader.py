"""Loads the engine's state at startup: resources, pending messages on disk, and counts.

Resources are saved by `sink_registry.py`, `api_keys.py`, and `backfill/`.
"""

from __future__ import annotations

from array import array

from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.resources import ApiKey, BackfillResource, Catalog, FunctionResource, HttpEndpoint, SinkResource
from userhooks.engine.sink_registry import SinkRegistry
from userhooks.engine.state_store import StateStore, Stored


def load_resources(catalog: Catalog, store: StateStore, registry: SinkRegistry, backfills: Backfills) -> None:
    """Load all stored resources into the catalog and activate the sinks; backfills start once the slot is being read."""
    sinks: list[tuple[SinkResource, Stored]] = []
    for stored in store.load():
        resource = stored.resource
        if isinstance(resource, HttpEndpoint):
            catalog.endpoints[resource.id] = resource
        elif isinstance(resource, FunctionResource):
            catalog.functions[resource.id] = resource
        elif isinstance(resource, ApiKey):
            catalog.api_keys[resource.id] = resource
        elif isinstance(resource, BackfillResource):
            backfills.restore(resource, stored.cursor)
        else:
            registry.enter(resource)
            sinks.append((resource, stored))
    for sink, stored in sinks:
        registry.put_in_force(sink, stored.number, catalog.endpoints[sink.endpoint_id], start_lsn=stored.start_lsn)


def load_pending(store: StateStore, deliveries: Deliveries, backlog: Backlog, types: TypeCatalog) -> None:
    """Give each delivery its stored messages and its counts."""
    backlog.restore_shapes(types)
    rows_of: dict[int, array[int]] = {}
    for row, number in store.backlog():
        rows_of.setdefault(number, array("q")).append(row)
    discarded = store.discarded_count()
    counts = {each.sink: each for each in store.counts()}
    for delivery in deliveries.values():
        delivery.discarded = discarded.get(delivery.queue.number, 0)
        if (saved := counts.get(delivery.queue.number)) is not None:
            delivery.restore_counts(saved)
        rows = rows_of.get(delivery.queue.number, ())
        if delivery.sink.status == "disabled":  # the engine was killed before it could delete the sink's messages
            backlog.done(rows)
        else:
            delivery.restore(rows)
