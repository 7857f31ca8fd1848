"""The engine as a whole: it holds the resources, keeps slot, routing, deliveries and store in step, and offers the API what it may do.

Decisions live in the pure modules beside this one; this module only says in which order things happen.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import random
import sqlite3
import time
import uuid
from array import array
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from psycopg import Error

from userhooks.engine import functions
from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.change import Change
from userhooks.engine.clock import utc_now
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.http_client import HttpClient, raise_file_limit
from userhooks.engine.delivery.latency_histogram import HistogramPool
from userhooks.engine.delivery.retry import RetrySchedule
from userhooks.engine.delivery.sink_delivery import LONG_SECONDS, SinkDelivery
from userhooks.engine.message_format import SinkForm
from userhooks.engine.postgres import catalog_queries
from userhooks.engine.resources import (
    ApiKey,
    BackfillResource,
    Catalog,
    DatabaseResource,
    Discarded,
    FunctionResource,
    HttpEndpoint,
    SinkResource,
)
from userhooks.engine.routing import Route, Router
from userhooks.engine.sink_health import Condition, health, partly_recorded
from userhooks.engine.startup import Config
from userhooks.engine.state_store import Flush, StateStore
from userhooks.errors import DatabaseUnavailable
from userhooks.shared import postgres_connections

log = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_SECONDS = 0.05
"""From one flush to the next, its own time included; with a quick disk, what was delivered 100 ms ago is noted."""
_REST_SECONDS = 0.01
STATUS_SECONDS = 10.0
LANDING_SECONDS = 1.0
"""How long a stop waits for answers"""
_PAUSE_RETRY_SECONDS = 1.0
_TURN_SECONDS = 0.002
_GONE = "The endpoint answered 410 Gone, so the sink is paused. Change its URL or set it active again."


class Engine:
    """The running engine; `start` before anything else, `close` at the end."""

    def __init__(self, config: Config, *, rng: random.Random | None = None) -> None:
        self.config = config
        self._store = StateStore(config.store, config.store_max_pages)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._rng = rng or random.Random()  # noqa: S311  # jitter, not cryptography
        self._schedule = RetrySchedule(base=config.retry_base)
        self._deliveries: dict[str, SinkDelivery] = {}
        self._sinks_at: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """endpoint id -> ids of the sinks that use it, as in the catalog"""
        self._start_lsns: dict[str, int] = {}
        self._router = Router()
        self.writing = asyncio.Lock()
        """Held by every change of a resource, from reading what is there until the change is in force: no change overwrites another."""
        self._flush_lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.latencies = HistogramPool()
        self._client = HttpClient(allow_private=config.allow_private, places=raise_file_limit())
        self._store_problem: str | None = None
        self._positions: deque[tuple[float, int]] = deque()
        self._old = 0
        self._new_sinks = 0
        self.catalog = Catalog(_database(config, self._store))
        self.reader = SlotReader(
            config,
            router=self._router,
            catalog=self.catalog,
            store=self._store,
            write=self._write,
            on_watermark=lambda token: self.backfills.watermark(token),
            on_connected=lambda: self.backfills.run_active(),
        )
        self._backlog = Backlog(
            self._store,
            self._write,
            knows_types=self.reader.knows_types,
            on_gone=lambda delivery: self._client.spawn(self._pause_gone(delivery)),
            on_caught_up=lambda delivery: self.backfills.poke(delivery.sink.id),
        )
        self.backfills = Backfills(
            config.database_url,
            catalog=self.catalog,
            deliveries=self._deliveries,
            router=self._router,
            reader=self.reader,
            store=self._store,
            write=self._write,
        )

    # --- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the state, connect, start delivering; with Postgres down it keeps trying in the background."""
        self._load_resources()
        if not any(key.name == "Default" for key in self.catalog.api_keys.values()):
            await self.save_api_key(ApiKey(str(uuid.uuid4()), "Default", _sha256(self.config.api_token), utc_now()))
        else:
            key = next(key for key in self.catalog.api_keys.values() if key.name == "Default")
            await self.save_api_key(replace(key, token_sha256=_sha256(self.config.api_token)))
        try:
            await self.reader.connect()
        except (Error, OSError, DatabaseUnavailable) as exc:
            self.reader.trouble(exc)
        self._tasks = [asyncio.create_task(self.reader.run()), asyncio.create_task(self._flush_regularly())]

    async def close(self) -> None:
        """Stop everything; what was delivered is noted, so that it is not sent again."""
        async with self._flush_lock:  # of a flush that is cut off nobody knows whether it is written
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backfills.close()
        await self._backlog.close()
        await self._land()
        for delivery in self._deliveries.values():
            delivery.close()
        self._client.close()
        try:
            await self._flush()
        except sqlite3.Error as exc:
            log.error("what was delivered last could not be noted: %s", exc)
        await self.reader.close()
        self._writer.shutdown()
        self._store.close()

    async def _land(self) -> None:
        """Send nothing more, and wait a little for the answers to what is on its way: without them it would be sent again."""
        for delivery in self._deliveries.values():
            delivery.hold()
        flying = self._owing()
        clock = asyncio.get_running_loop().time
        until = clock() + LANDING_SECONDS
        while any(delivery.in_flight for delivery in flying) and clock() < until:  # noqa: ASYNC110  # at the end only, and briefly
            await asyncio.sleep(_REST_SECONDS)

    def _load_resources(self) -> None:
        catalog = self.catalog
        sinks: list[tuple[SinkResource, int]] = []
        for stored in self._store.load():
            resource = stored.resource
            if isinstance(resource, HttpEndpoint):
                catalog.endpoints[resource.id] = resource
            elif isinstance(resource, FunctionResource):
                catalog.functions[resource.id] = resource
            elif isinstance(resource, ApiKey):
                catalog.api_keys[resource.id] = resource
            elif isinstance(resource, BackfillResource):
                self.backfills.restore(resource, stored.cursor)
            else:
                self._enter(resource)
                self._start_lsns[resource.id] = stored.start_lsn
                sinks.append((resource, stored.number))
        for sink, number in sinks:
            self._put_in_force(sink, number, catalog.endpoints[sink.endpoint_id])
        self._backlog.restore_shapes(self.reader.types)
        waiting: dict[int, array[int]] = {}
        for row, number in self._store.backlog():
            waiting.setdefault(number, array("q")).append(row)
        given_up = self._store.discarded_count()
        for delivery in self._deliveries.values():
            delivery.discarded = given_up.get(delivery.queue.number, 0)
            rows = waiting.get(delivery.queue.number, ())
            if delivery.sink.status == "disabled":  # it was killed before the store heard of that
                self._backlog.done(rows)
            else:
                delivery.restore(rows)

    # --- progress ------------------------------------------------------------------------------------------------------

    async def _flush_regularly(self) -> None:
        last_flush = last_status = last_look = time.monotonic()
        while True:
            await asyncio.sleep(max(_REST_SECONDS, FLUSH_SECONDS - (time.monotonic() - last_flush)))
            last_flush = time.monotonic()
            try:
                async with self._flush_lock:
                    await self._flush()
                self._store_problem = None
            except sqlite3.Error as exc:
                problem = (
                    f"The engine's store cannot be written: {exc}. What is not delivered waits in Postgres' WAL meanwhile. "
                    f"Make room on the disk of {self.config.store}."
                )
                if problem != self._store_problem:
                    log.error("%s", problem)
                self._store_problem = problem
            except Exception:
                log.exception("progress could not be noted; the slot keeps what is not confirmed")
            now = time.monotonic()
            if now - last_look > 1.0:
                last_look = now
                self._note_position(now)
                self._spare_the_collector()
                self.latencies.sort()
                for delivery in self._owing():
                    delivery.notice_slowness()
            if now - last_status > STATUS_SECONDS:
                last_status = now
                await self.reader.look_at_slot()

    def _spare_the_collector(self) -> None:
        """Take new sinks out of the garbage collector's sight: to go through ten thousand of them stops everything for half a second.

        What is frozen is still freed when its last reference goes; only cycles would stay.
        """
        if self._new_sinks:
            self._new_sinks = 0
            gc.collect(1)  # the young alone: quick, and no garbage of theirs is frozen
            gc.freeze()

    def _note_position(self, now: float) -> None:
        """Remember how far the slot was read when; what was read `LONG_SECONDS` ago is for the next flush to store."""
        if self.reader.stream is not None:
            self._positions.append((now, self.reader.stream.progress.read))
        while self._positions and self._positions[0][0] <= now - LONG_SECONDS:
            self._old = self._positions.popleft()[1]

    async def _flush(self) -> None:
        """Commit how far everything is delivered or stored, and what is delivered beyond; only then tell Postgres. Raises sqlite3.Error."""
        stream = self.reader.stream
        lsn = self.reader.confirmed if stream is None else stream.progress.confirmable()
        old, self._old = self._old if lsn < self._old else 0, 0
        batch = self._backlog.collect(self._owing() if old else (), old)
        taken = []
        for transaction in stream.progress.unsettled() if stream is not None else ():
            if transaction.acknowledged:
                done, transaction.acknowledged = transaction.acknowledged, []
                batch.flush.acknowledged.setdefault(transaction.commit_lsn, []).extend(done)
                taken.append((transaction, done))
        if lsn == self.reader.confirmed and not batch.flush:
            self._backlog.is_written(batch)
            return
        try:
            await self._write(self._store.flush, lsn, batch.flush)
        except Exception as exc:
            self._backlog.is_not_written(batch)
            for transaction, done in taken:
                transaction.acknowledged[:0] = done
            if isinstance(exc, sqlite3.Error) and batch.flush.kept:  # perhaps there is no room for more; what is delivered may make some
                await self._write(self._store.flush, self.reader.confirmed, Flush(done=batch.flush.done))
            raise
        self._backlog.is_written(batch)
        if stream is not None:
            self.reader.confirm(lsn)

    def _owing(self) -> list[SinkDelivery]:
        """The sinks that owe anything: few of ten thousand, and 20 ms are saved by not asking the others."""
        return [delivery for delivery in self._deliveries.values() if delivery.queue.count]

    async def _write(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a method of the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, lambda: function(*args, **kwargs))

    # --- endpoints, functions, keys ------------------------------------------------------------------------------------

    async def save_endpoint(self, endpoint: HttpEndpoint) -> None:
        """Create or replace an endpoint; what waits for it goes to the new address at once."""
        await self._write(self._store.save, endpoint)
        self.catalog.endpoints[endpoint.id] = endpoint
        async for sink in self._in_turns(list(self._sinks_at[endpoint.id])):
            self._deliveries[sink.id].configure(sink, endpoint, self._form(sink))

    async def delete_endpoints(self, endpoint_ids: Sequence[str]) -> None:
        """Remove endpoints that no sink uses, all or none. The caller holds `writing`."""
        await self._write(self._store.delete, endpoint_ids)
        for endpoint_id in endpoint_ids:
            self.catalog.endpoints.pop(endpoint_id, None)
            self._sinks_at.pop(endpoint_id, None)

    def sinks_at(self, endpoint_id: str) -> int:
        """Return how many sinks use an endpoint."""
        return len(self._sinks_at.get(endpoint_id, ()))

    async def save_function(self, function: FunctionResource) -> None:
        """Create or replace a function; sinks that use it route by the new code from the next change on."""
        await self._write(self._store.save, function)
        self.catalog.functions[function.id] = function
        async for sink in self._in_turns(list(self.catalog.sinks)):
            delivery = self._deliveries[sink.id]
            if sink.filter == function.name:
                self._route(sink)
                delivery.queue.filter_again()
            if function.name in (sink.filter, sink.transform, sink.routing):
                delivery.configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))

    async def _in_turns(self, sink_ids: Sequence[str]) -> AsyncIterator[SinkResource]:
        """Yield sinks, each as it is when its turn comes; ten thousand take seconds to see to, so deliveries get turns in between."""
        until = time.perf_counter() + _TURN_SECONDS
        for sink_id in sink_ids:
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + _TURN_SECONDS
            sink = self.catalog.sinks.get(sink_id)
            if sink is not None:
                yield sink

    async def save_api_key(self, key: ApiKey) -> None:
        """Create or replace an API key."""
        await self._write(self._store.save, key)
        self.catalog.api_keys[key.id] = key

    async def delete_api_key(self, key_id: str) -> None:
        """Remove an API key."""
        await self._write(self._store.delete, [key_id])
        self.catalog.api_keys.pop(key_id, None)

    # --- sinks ---------------------------------------------------------------------------------------------------------

    async def save_sink(self, sink: SinkResource) -> None:
        """Create or replace a sink by id; raises DatabaseUnavailable, and then nothing has changed. The caller holds `writing`.

        A new or re-enabled sink enters routing first, then the WAL insert position is read, then this returns: the sink owes every change
        with a commit LSN at or above that position and none below.
        """
        before = self.catalog.sinks.get(sink.id)
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
        self._enter(sink)
        if before is None:
            self._put_in_force(sink, number, self.catalog.endpoints[sink.endpoint_id])
            return
        delivery = self._deliveries[sink.id]
        self._route(sink)
        if _choice(before) != _choice(sink):
            delivery.queue.filter_again()
        delivery.configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))
        self.backfills.poke(sink.id)

    async def create(self, endpoints: Sequence[HttpEndpoint], sinks: Sequence[SinkResource]) -> None:
        """Create endpoints, and sinks that are not disabled, all or none: hundreds take as many waits for the disk as one by one a single
        sink does. Raises DatabaseUnavailable and sqlite3.Error. The caller holds `writing`.
        """
        catalog = self.catalog
        known = catalog.endpoints | {endpoint.id: endpoint for endpoint in endpoints}
        reserved = await self._write(self._store.reserve, len(sinks))
        numbers = {sink.id: number for sink, number in zip(sinks, reserved, strict=True)}
        try:
            for sink in sinks:
                self._start_lsns[sink.id] = 0
                self._put_in_force(sink, numbers[sink.id], known[sink.endpoint_id], held=True)
            start_lsn = await self.reader.ask(catalog_queries.insert_lsn)
            await self._write(self._store.save_all, [*endpoints, *sinks], start_lsn=start_lsn, numbers=numbers)
        except BaseException:
            for sink in sinks:
                self._router.remove(sink.id)
                self._forget(sink.id)
                delivery = self._deliveries.pop(sink.id, None)
                if delivery is not None:
                    delivery.drop()
            raise
        for endpoint in endpoints:
            catalog.endpoints[endpoint.id] = endpoint
        for sink in sinks:
            self._enter(sink)
            self._live_from(sink, start_lsn)

    def _forget(self, sink_id: str) -> None:
        self._start_lsns.pop(sink_id, None)

    async def _enable(self, sink: SinkResource, before: SinkResource) -> None:
        """Let a sink that was disabled begin anew."""
        self._start_lsns[sink.id] = 0
        delivery = self._deliveries[sink.id]
        delivery.hold()
        delivery.configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))
        self._route(sink)
        try:
            start_lsn = await self.reader.ask(catalog_queries.insert_lsn)
            await self._write(self._store.save, sink, start_lsn=start_lsn)
        except BaseException:
            self._router.remove(sink.id)
            delivery.drop()
            delivery.configure(before, self.catalog.endpoints[before.endpoint_id], self._form(before))
            raise
        self._enter(sink)
        self._live_from(sink, start_lsn)

    async def _disable(self, sink: SinkResource) -> None:
        """Forget at once what the sink has pending, and cancel its backfills."""
        async with self.backfills.halted([sink.id]) as cancelled:
            await self._write(self._store.save_all, [sink, *cancelled])
            self._enter(sink)
            for backfill in cancelled:
                self.catalog.backfills[backfill.id] = backfill
            self._router.remove(sink.id)
            delivery = self._deliveries[sink.id]
            delivery.configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))
            delivery.drop()

    def _live_from(self, sink: SinkResource, start_lsn: int) -> None:
        self._start_lsns[sink.id] = start_lsn
        self._route(sink)
        self._deliveries[sink.id].release(start_lsn)

    async def _pause_gone(self, delivery: SinkDelivery) -> None:
        """Pause a sink whose endpoint has answered 410, unless it was changed or deleted meanwhile; retry while the store is full."""
        failed = False
        while True:
            async with self.writing:
                if not delivery.gone:
                    return
                sink = self.catalog.sinks[delivery.sink.id]
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

    def _enter(self, sink: SinkResource) -> None:
        """Put a sink into the catalog, in place of what it was before."""
        before = self.catalog.sinks.get(sink.id)
        if before is not None:
            del self._sinks_at[before.endpoint_id][sink.id]
        self.catalog.sinks[sink.id] = sink
        self._sinks_at[sink.endpoint_id][sink.id] = None

    def _put_in_force(self, sink: SinkResource, number: int, endpoint: HttpEndpoint, *, held: bool = False) -> None:
        self._new_sinks += 1
        self._deliveries[sink.id] = SinkDelivery(
            sink,
            endpoint,
            self._form(sink),
            number,
            client=self._client,
            budget=self.reader.load,
            schedule=self._schedule,
            rng=self._rng,
            disk=self._backlog,
            latencies=self.latencies,
            held=held,
        )
        if sink.status != "disabled":
            self._route(sink)

    def _route(self, sink: SinkResource) -> None:
        """Route by the sink's present filter; one that names no usable filter function delivers nothing."""
        bound: functions.Bound | None = None
        broken: str | None = None
        if sink.filters is not None:
            bound = functions.bind_column_filters(sink.filters)
        elif sink.filter is not None:
            function = next((f for f in self.catalog.functions.values() if f.name == sink.filter), None)
            if function is None:
                broken = f"the filter function {sink.filter!r} does not exist"
            else:
                try:
                    bound = functions.parse(function.code, "filter").bind(self._constants(sink))
                except functions.FunctionError as exc:
                    broken = f"the filter function {sink.filter!r} is not usable: {exc}"
        route = Route(sink.id, self._deliveries[sink.id], sink.source, sink.actions, self._start_lsns[sink.id], bound, broken)
        self._router.add(route)
        self._deliveries[sink.id].queue.filter = self._filter(sink, bound, broken)

    def _filter(self, sink: SinkResource, bound: functions.Bound | None, broken: str | None) -> Callable[[Change], bool]:
        """What waits is judged again by the sink as it is now; a row of a backfill that was cancelled is not wanted any more."""

        def is_wanted(change: Change) -> bool:
            if change.backfill_id is not None:
                backfill = self.catalog.backfills.get(change.backfill_id)
                if backfill is None or backfill.state == "cancelled":
                    return False
            elif change.action not in sink.actions:
                return False
            if not sink.source.covers(*change.shape.table):
                return False
            if broken is not None:
                raise functions.FunctionRaised(broken)
            return True if bound is None else bound.accepts(change)

        return is_wanted

    def _constants(self, sink: SinkResource) -> dict[str, Any]:
        """The part of `metadata` that is the same for every change of a sink."""
        database = self.catalog.database
        return {
            "consumer": {"id": sink.id, "name": sink.name, "annotations": dict(sink.annotations)},
            "database": {
                "id": database.id,
                "name": database.name,
                "annotations": {},
                "database": database.database,
                "hostname": database.hostname,
            },
            "database_name": database.name,
        }

    def _form(self, sink: SinkResource) -> SinkForm:
        constants = self._constants(sink)
        transform = self._bound(sink.transform, lambda f: functions.parse_transform(f.code, f.type).bind(constants, sink.timestamp_format))
        route = self._bound(sink.routing, lambda f: functions.parse_route(f.code).bind(constants, sink.timestamp_format))
        return SinkForm(constants["consumer"], constants["database"], sink.timestamp_format, transform, route)

    def _bound(self, name: str | None, bind: Callable[[FunctionResource], Callable[[Change], T]]) -> Callable[[Change], T] | None:
        """Return a sink's transform or route; one that is not usable raises for every message."""
        if name is None:
            return None
        function = next((f for f in self.catalog.functions.values() if f.name == name), None)
        broken = f"the function {name!r} does not exist"
        if function is not None:
            try:
                return bind(function)
            except functions.FunctionError as exc:
                broken = f"the function {name!r} is not usable: {exc}"

        def raising(change: Change) -> T:
            raise functions.FunctionRaised(broken)

        return raising

    async def delete_sinks(self, sink_ids: Sequence[str]) -> None:
        """Remove sinks with their backfills and all pending messages, all or none. The caller holds `writing`."""
        gone = set(sink_ids)
        async with self.backfills.halted(gone):
            backfills = [b.id for b in self.catalog.backfills.values() if b.sink_id in gone]
            await self._write(self._store.delete, [*sink_ids, *backfills])
            for sink_id in sink_ids:
                self._router.remove(sink_id)
                delivery = self._deliveries.pop(sink_id)
                sink = self.catalog.sinks.pop(sink_id)
                del self._sinks_at[sink.endpoint_id][sink_id]
                delivery.sink = replace(delivery.sink, status="disabled")
                delivery.drop()
                delivery.close()
                self.latencies.forget(sink_id)
                self._forget(sink_id)
            for backfill_id in backfills:
                self.catalog.backfills.pop(backfill_id, None)

    # --- what can be seen ----------------------------------------------------------------------------------------------

    async def check_database(self) -> str | None:
        """Return None when Postgres answers, else what is wrong."""
        try:
            await self.reader.ask(lambda c: c.execute("select 1"))
        except DatabaseUnavailable as exc:
            return f"{exc.what} {exc.remedy}"
        return None

    def delivery(self, sink_id: str) -> SinkDelivery:
        """Return the counters of a sink: pending, delivered, attempted, failed, retrying, last_error."""
        return self._deliveries[sink_id]

    async def discarded(self, sink_id: str, limit: int) -> list[Discarded]:
        """Return the messages of a sink that were given up, oldest first."""
        return await self._backlog.discarded(self._deliveries[sink_id], limit)

    async def redeliver(self, sink_id: str, ids: Sequence[int] | None) -> int:
        """Send messages that were given up once more, all or those named; returns how many."""
        return await self._backlog.redeliver(self._deliveries[sink_id], ids)

    def health(self, sink: SinkResource) -> dict[str, Any]:
        """Return the `health` object of a sink."""
        return health(self.condition(sink))

    def condition(self, sink: SinkResource) -> Condition:
        """Return what is known of a sink."""
        delivery = self._deliveries[sink.id]
        return Condition(
            status=sink.status,
            moved=delivery.delivered > 0,
            notice=partly_recorded(sink, self.catalog.tables),
            problem=self.reader.problem_of(sink) or self._store_problem,
            error=sink.paused_because or delivery.last_error,
            discarded=delivery.discarded,
        )

    @property
    def changes(self) -> int:
        """Changes read from the slot since the start."""
        return self.reader.stream.changes if self.reader.stream is not None else 0

    def unsaved(self) -> int:
        """Messages that only memory has."""
        return self.reader.load.waiting

    def store_bytes(self) -> int:
        """Bytes that the store takes on disk, its write-ahead log included."""
        store = self.config.store
        return sum(path.stat().st_size for path in (store, store.with_name(store.name + "-wal")) if path.exists())


def _choice(sink: SinkResource) -> tuple[Any, ...]:
    """What decides which changes a sink is sent."""
    return sink.filter, sink.filters, sink.annotations, sink.actions, sink.source


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _database(config: Config, store: StateStore) -> DatabaseResource:
    """The one database, with ids that stay the same over restarts."""
    info = postgres_connections.parse(config.database_url)
    host, port = postgres_connections.servers(info)[0]
    ids = {}
    for key in ("database_id", "slot_id"):
        ids[key] = store.meta(key) or str(uuid.uuid4())
        store.set_meta(key, ids[key])
    return DatabaseResource(
        id=ids["database_id"],
        name=config.database_name,
        hostname=host,
        port=port,
        database=str(info.get("dbname") or info.get("user") or "postgres"),
        username=str(info.get("user") or "postgres"),
        password=str(info.get("password") or ""),
        slot_id=ids["slot_id"],
        slot_name=config.slot,
        publication_name=config.publication,
    )
