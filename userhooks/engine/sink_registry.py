"""Creates, changes, and deletes sinks and the endpoints and functions that they use. Changes are stored before they take effect.

API keys are in `api_keys.py`, backfills in `backfill/`; `resource_loader.py` loads everything at startup, and `api/` parses requests.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.resources import Catalog, FunctionResource, HttpEndpoint, SinkResource
from userhooks.engine.routing import Route, Router
from userhooks.engine.sink_functions import bound_filter, pending_filter, sink_form
from userhooks.engine.state_store import StateStore

log = logging.getLogger(__name__)

_PAUSE_RETRY_SECONDS = 1.0
_TURN_SECONDS = 0.002
_GONE = "The endpoint answered 410 Gone, so the sink is paused. Change the endpoint's URL or set the sink to active again."


class SinkRegistry:
    """The active resources. A caller that changes one must take the lock `writing` before it checks the request.

    `write` runs a method of the store on the store's thread, `wal_end` asks Postgres for the WAL insert position, and `new_delivery`
    creates a SinkDelivery from a sink, its endpoint, its form, and its number.
    """

    def __init__(
        self,
        catalog: Catalog,
        deliveries: Deliveries,
        *,
        router: Router,
        backfills: Backfills,
        backlog: Backlog,
        store: StateStore,
        write: Callable[..., Awaitable[Any]],
        wal_end: Callable[[], Awaitable[int]],
        new_delivery: Callable[..., SinkDelivery],
    ) -> None:
        self.writing = asyncio.Lock()
        """Held while a resource is changed, from reading its old state until the change takes effect, so that no change is overwritten."""
        self._catalog = catalog
        self._deliveries = deliveries
        self._router = router
        self._backfills = backfills
        self._backlog = backlog
        self._store = store
        self._write = write
        self._wal_end = wal_end
        self._new_delivery = new_delivery
        self._start_lsns: dict[str, int] = {}
        self._sinks_at: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """endpoint id -> ids of the sinks that use it"""
        self._has_new_sinks = False

    # --- endpoints and functions ---------------------------------------------------------------------------------------

    async def save_endpoint(self, endpoint: HttpEndpoint) -> None:
        """Create or replace an endpoint; pending messages go to the new address at once."""
        await self._write(self._store.save, endpoint)
        self._catalog.endpoints[endpoint.id] = endpoint
        async for sink in self._in_turns(list(self._sinks_at[endpoint.id])):
            self._configure(sink)

    async def delete_endpoints(self, endpoint_ids: Sequence[str]) -> None:
        """Delete endpoints that no sink uses, all or none."""
        await self._write(self._store.delete, endpoint_ids)
        for endpoint_id in endpoint_ids:
            self._catalog.endpoints.pop(endpoint_id, None)
            self._sinks_at.pop(endpoint_id, None)

    def sinks_at(self, endpoint_id: str) -> int:
        """Return how many sinks use an endpoint."""
        return len(self._sinks_at.get(endpoint_id, ()))

    async def save_function(self, function: FunctionResource) -> None:
        """Create or replace a function; sinks that use it run the new code starting with the next change."""
        await self._write(self._store.save, function)
        self._catalog.functions[function.id] = function
        async for sink in self._in_turns(list(self._catalog.sinks)):
            if sink.filter == function.name:
                self._route(sink)
                self._deliveries[sink.id].queue.filter_again()
            if function.name in (sink.filter, sink.transform, sink.routing):
                self._configure(sink)

    async def _in_turns(self, sink_ids: Sequence[str]) -> AsyncIterator[SinkResource]:
        """Yield sinks in their current state; deliveries run in between, since processing ten thousand sinks takes seconds."""
        until = time.perf_counter() + _TURN_SECONDS
        for sink_id in sink_ids:
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + _TURN_SECONDS
            sink = self._catalog.sinks.get(sink_id)
            if sink is not None:
                yield sink

    # --- sinks ---------------------------------------------------------------------------------------------------------

    async def save_sink(self, sink: SinkResource) -> None:
        """Create or replace a sink by id; raises DatabaseUnavailable, in which case nothing has changed.

        A new or re-enabled sink is added to routing before the WAL insert position is read. It gets every change with a commit LSN at or
        above that position, and none below.
        """
        before = self._catalog.sinks.get(sink.id)
        if sink.status == "active":
            sink = replace(sink, paused_because=None)
        if sink.status != "disabled" and (before is None or before.status == "disabled"):
            if before is None:
                await self.create((), [sink])
            else:
                await self._enable(sink, before)
            return
        if before is not None and sink.status == "disabled":
            await self._disable(sink)
            return
        number = await self._write(self._store.save, sink)
        self.enter(sink)
        if before is None:
            self.put_in_force(sink, number, self._catalog.endpoints[sink.endpoint_id])
            return
        self._route(sink)
        if _selection(before) != _selection(sink):
            self._deliveries[sink.id].queue.filter_again()
        self._configure(sink)
        self._backfills.poke(sink.id)

    async def create(self, endpoints: Sequence[HttpEndpoint], sinks: Sequence[SinkResource]) -> None:
        """Create endpoints and enabled sinks, all or none. Raises DatabaseUnavailable and sqlite3.Error.

        Creating hundreds takes as many disk syncs as creating one.
        """
        catalog = self._catalog
        known = catalog.endpoints | {endpoint.id: endpoint for endpoint in endpoints}
        reserved = await self._write(self._store.reserve, len(sinks))
        numbers = {sink.id: number for sink, number in zip(sinks, reserved, strict=True)}
        try:
            for sink in sinks:
                self.put_in_force(sink, numbers[sink.id], known[sink.endpoint_id], held=True)
            start_lsn = await self._wal_end()
            await self._write(self._store.save_all, [*endpoints, *sinks], start_lsn=start_lsn, numbers=numbers)
        except BaseException:
            for sink in sinks:
                self._router.remove(sink.id)
                self._start_lsns.pop(sink.id, None)
                delivery = self._deliveries.pop(sink.id, None)
                if delivery is not None:
                    delivery.drop()
            raise
        for endpoint in endpoints:
            catalog.endpoints[endpoint.id] = endpoint
        for sink in sinks:
            self.enter(sink)
            self._live_from(sink, start_lsn)

    async def _enable(self, sink: SinkResource, before: SinkResource) -> None:
        """Enable a disabled sink as if it were new."""
        self._start_lsns[sink.id] = 0
        delivery = self._deliveries[sink.id]
        delivery.hold()
        self._configure(sink)
        self._route(sink)
        try:
            start_lsn = await self._wal_end()
            await self._write(self._store.save, sink, start_lsn=start_lsn)
        except BaseException:
            self._router.remove(sink.id)
            delivery.drop()
            self._configure(before)
            raise
        self.enter(sink)
        self._live_from(sink, start_lsn)

    async def _disable(self, sink: SinkResource) -> None:
        """Drop the sink's pending messages at once, and cancel its backfills."""
        async with self._backfills.halted([sink.id]) as cancelled:
            await self._write(self._store.save_all, [sink, *cancelled])
            self.enter(sink)
            for backfill in cancelled:
                self._catalog.backfills[backfill.id] = backfill
            self._router.remove(sink.id)
            self._configure(sink)
            self._deliveries[sink.id].drop()

    def _live_from(self, sink: SinkResource, start_lsn: int) -> None:
        self._start_lsns[sink.id] = start_lsn
        self._route(sink)
        self._deliveries[sink.id].release(start_lsn)

    async def delete_sinks(self, sink_ids: Sequence[str]) -> None:
        """Delete sinks with their backfills and all pending messages, all or none."""
        deleted = set(sink_ids)
        catalog = self._catalog
        async with self._backfills.halted(deleted):
            backfills = [backfill.id for backfill in catalog.backfills.values() if backfill.sink_id in deleted]
            await self._write(self._store.delete, [*sink_ids, *backfills])
            for sink_id in sink_ids:
                self._router.remove(sink_id)
                delivery = self._deliveries.pop(sink_id)
                sink = catalog.sinks.pop(sink_id)
                del self._sinks_at[sink.endpoint_id][sink_id]
                delivery.sink = replace(delivery.sink, status="disabled")
                delivery.drop()
                delivery.close()
                self._start_lsns.pop(sink_id, None)
            for backfill_id in backfills:
                catalog.backfills.pop(backfill_id, None)

    async def pause_gone(self, delivery: SinkDelivery) -> None:
        """Pause a sink whose endpoint answered 410, unless the sink was changed or deleted since; retry until the store is writable."""
        failed = False
        while True:
            async with self.writing:
                if not delivery.gone:
                    return
                sink = self._catalog.sinks[delivery.sink.id]
                try:
                    await self.save_sink(replace(sink, status="paused", paused_because=_GONE))
                except sqlite3.Error as exc:
                    if not failed:
                        log.error("sink %s cannot be paused in the store; retrying: %s", sink.name, exc)
                    failed = True
                else:
                    log.warning("sink %s: %s", sink.name, _GONE)
                    return
            await asyncio.sleep(_PAUSE_RETRY_SECONDS)

    async def redeliver(self, sink_id: str, ids: Sequence[int] | None) -> int:
        """Redeliver discarded messages, all or those with the given ids; return their number."""
        return await self._backlog.redeliver(self._deliveries[sink_id], ids)

    # --- active sinks --------------------------------------------------------------------------------------------------

    def enter(self, sink: SinkResource) -> None:
        """Put a sink into the catalog, replacing its earlier version."""
        before = self._catalog.sinks.get(sink.id)
        if before is not None:
            del self._sinks_at[before.endpoint_id][sink.id]
        self._catalog.sinks[sink.id] = sink
        self._sinks_at[sink.endpoint_id][sink.id] = None

    def put_in_force(self, sink: SinkResource, number: int, endpoint: HttpEndpoint, *, start_lsn: int = 0, held: bool = False) -> None:
        """Create a sink's delivery, and its route unless the sink is disabled; a `held` delivery sends nothing until it is released."""
        self._has_new_sinks = True
        self._start_lsns[sink.id] = start_lsn
        self._deliveries[sink.id] = self._new_delivery(sink, endpoint, sink_form(sink, self._catalog), number, held=held)
        if sink.status != "disabled":
            self._route(sink)

    def _configure(self, sink: SinkResource) -> None:
        self._deliveries[sink.id].configure(sink, self._catalog.endpoints[sink.endpoint_id], sink_form(sink, self._catalog))

    def _route(self, sink: SinkResource) -> None:
        """Route by the sink's current filter; a sink whose filter function is unusable delivers nothing."""
        bound, broken = bound_filter(sink, self._catalog)
        delivery = self._deliveries[sink.id]
        self._router.add(Route(sink.id, delivery, sink.source, sink.actions, self._start_lsns[sink.id], bound, broken))
        delivery.queue.filter = pending_filter(sink, self._catalog, bound, broken)

    def freeze_new(self) -> None:
        """Exclude new sinks from garbage collection, since scanning ten thousand of them blocks the engine for half a second.

        A frozen object is still freed when its last reference goes; only reference cycles would leak.
        """
        if self._has_new_sinks:
            self._has_new_sinks = False
            gc.collect(1)  # only the young generations: quick, and enough not to freeze their garbage
            gc.freeze()


def _selection(sink: SinkResource) -> tuple[Any, ...]:
    """Return the settings that determine which changes a sink gets."""
    return sink.filter, sink.filters, sink.annotations, sink.actions, sink.source
