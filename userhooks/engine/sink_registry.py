"""Sinks, and the endpoints and functions that they use: created, changed and deleted, each in the store first and then in force.

API keys are in `api_keys.py`, backfills in `backfill/`; what a restart reads back is in `resource_loader.py`. Requests are read in `api/`.
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
_GONE = "The endpoint answered 410 Gone, so the sink is paused. Change its URL or set it active again."


class SinkRegistry:
    """The sinks in force. Every change needs `writing`, which its caller holds from the check of the request on.

    `write` runs a method of the store on its thread, `wal_end` asks Postgres for the WAL's insert position, and `new_delivery` makes a
    SinkDelivery from sink, endpoint, form and number.
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
        """Held by every change of a resource, from reading what is there until the change is in force: no change overwrites another."""
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
        """endpoint id -> ids of the sinks that use it, as in the catalog"""
        self._has_new_sinks = False

    # --- endpoints and functions ---------------------------------------------------------------------------------------

    async def save_endpoint(self, endpoint: HttpEndpoint) -> None:
        """Create or replace an endpoint; its pending messages go to the new address at once."""
        await self._write(self._store.save, endpoint)
        self._catalog.endpoints[endpoint.id] = endpoint
        async for sink in self._in_turns(list(self._sinks_at[endpoint.id])):
            self._configure(sink)

    async def delete_endpoints(self, endpoint_ids: Sequence[str]) -> None:
        """Remove endpoints that no sink uses, all or none."""
        await self._write(self._store.delete, endpoint_ids)
        for endpoint_id in endpoint_ids:
            self._catalog.endpoints.pop(endpoint_id, None)
            self._sinks_at.pop(endpoint_id, None)

    def sinks_at(self, endpoint_id: str) -> int:
        """Return how many sinks use an endpoint."""
        return len(self._sinks_at.get(endpoint_id, ()))

    async def save_function(self, function: FunctionResource) -> None:
        """Create or replace a function; sinks that use it route by the new code from the next change on."""
        await self._write(self._store.save, function)
        self._catalog.functions[function.id] = function
        async for sink in self._in_turns(list(self._catalog.sinks)):
            if sink.filter == function.name:
                self._route(sink)
                self._deliveries[sink.id].queue.filter_again()
            if function.name in (sink.filter, sink.transform, sink.routing):
                self._configure(sink)

    async def _in_turns(self, sink_ids: Sequence[str]) -> AsyncIterator[SinkResource]:
        """Yield sinks, each in its state at that moment; ten thousand take seconds, so deliveries get turns in between."""
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
        """Create or replace a sink by id; raises DatabaseUnavailable, and then nothing has changed.

        A new or re-enabled sink enters routing first, then the WAL insert position is read, then this returns: the sink owes every change
        with a commit LSN at or above that position and none below.
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
        """Create endpoints, and sinks that are not disabled, all or none. Raises DatabaseUnavailable and sqlite3.Error.

        Hundreds wait for the disk as often as a single sink does.
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
        """Start a disabled sink anew."""
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
        """Remove sinks with their backfills and all pending messages, all or none."""
        gone = set(sink_ids)
        catalog = self._catalog
        async with self._backfills.halted(gone):
            backfills = [backfill.id for backfill in catalog.backfills.values() if backfill.sink_id in gone]
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
        """Pause a sink whose endpoint has answered 410, unless it was changed or deleted meanwhile; retry while the store is full."""
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
        """Send discarded messages again, all or those named; returns how many."""
        return await self._backlog.redeliver(self._deliveries[sink_id], ids)

    # --- what is in force ----------------------------------------------------------------------------------------------

    def enter(self, sink: SinkResource) -> None:
        """Put a sink into the catalog, in place of its earlier version."""
        before = self._catalog.sinks.get(sink.id)
        if before is not None:
            del self._sinks_at[before.endpoint_id][sink.id]
        self._catalog.sinks[sink.id] = sink
        self._sinks_at[sink.endpoint_id][sink.id] = None

    def put_in_force(self, sink: SinkResource, number: int, endpoint: HttpEndpoint, *, start_lsn: int = 0, held: bool = False) -> None:
        """Make the sink's delivery, and route by it unless it is disabled; `held` keeps back its messages until it is live."""
        self._has_new_sinks = True
        self._start_lsns[sink.id] = start_lsn
        self._deliveries[sink.id] = self._new_delivery(sink, endpoint, sink_form(sink, self._catalog), number, held=held)
        if sink.status != "disabled":
            self._route(sink)

    def _configure(self, sink: SinkResource) -> None:
        self._deliveries[sink.id].configure(sink, self._catalog.endpoints[sink.endpoint_id], sink_form(sink, self._catalog))

    def _route(self, sink: SinkResource) -> None:
        """Route by the sink's present filter; a sink without a usable filter function delivers nothing."""
        bound, broken = bound_filter(sink, self._catalog)
        delivery = self._deliveries[sink.id]
        self._router.add(Route(sink.id, delivery, sink.source, sink.actions, self._start_lsns[sink.id], bound, broken))
        delivery.queue.filter = pending_filter(sink, self._catalog, bound, broken)

    def freeze_new(self) -> None:
        """Hide new sinks from the garbage collector: to go through ten thousand of them stops everything for half a second.

        A frozen object is still freed when its last reference goes; only cycles would stay.
        """
        if self._has_new_sinks:
            self._has_new_sinks = False
            gc.collect(1)  # the young alone: quick, and no garbage of theirs is frozen
            gc.freeze()


def _selection(sink: SinkResource) -> tuple[Any, ...]:
    """Return the settings that decide which changes a sink is sent."""
    return sink.filter, sink.filters, sink.annotations, sink.actions, sink.source
