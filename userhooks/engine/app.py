"""The engine as a whole: it holds the resources, keeps slot, routing, deliveries and store in step, and offers the API what it may do.

Decisions live in the pure modules beside this one; this module only says in which order things happen.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from psycopg import AsyncConnection, Error, OperationalError
from psycopg.conninfo import conninfo_to_dict

from userhooks.engine import functions, tables
from userhooks.engine.backfill import BackfillRun
from userhooks.engine.delivery import Load, SinkDelivery
from userhooks.engine.http import HttpClient
from userhooks.engine.progress import Progress
from userhooks.engine.rendering import Change, SinkForm, TableShape
from userhooks.engine.replication import ReplicationEnded, SlotStream
from userhooks.engine.resources import (
    ApiKey,
    Backfill,
    BackfillState,
    Catalog,
    Database,
    Function,
    HttpEndpoint,
    Sink,
)
from userhooks.engine.retry import Schedule
from userhooks.engine.routing import Route, Router
from userhooks.engine.store import Store
from userhooks.engine.stream import CatalogStale, Stream
from userhooks.engine.values import SESSION_SETTINGS, TypeCatalog
from userhooks.errors import DatabaseUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_SECONDS = 0.1
STATUS_SECONDS = 10.0
MESSAGES_HIGH, MESSAGES_LOW = 50_000, 25_000
"""Messages in memory at which the reading of the slot stops and goes on; sinks that do not keep up are not counted."""
_NEW_SINK_SECONDS = 1.0


@dataclass(frozen=True)
class Config:
    """What the program is started with; keys of its configuration line."""

    port: int
    metrics_port: int
    api_token: str = field(repr=False)
    database_url: str = field(repr=False)
    store: Path = field(default_factory=Path)
    database_name: str = "postgres"
    slot: str = "userhooks"
    publication: str = "userhooks_pub"
    allow_private: bool = False
    retry_base: float = 1.0
    """seconds before the first retry; tests shorten it"""


class Engine:
    """The running engine; `start` before anything else, `close` at the end."""

    def __init__(self, config: Config, *, luck: random.Random | None = None) -> None:
        self.config = config
        self.problem: str | None = "not connected to Postgres yet"
        self.slot: tables.SlotState | None = None
        self._store = Store(config.store)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._luck = luck or random.Random()  # noqa: S311  # jitter, not cryptography
        self._schedule = Schedule(base=config.retry_base)
        self._deliveries: dict[str, SinkDelivery] = {}
        self._start_lsns: dict[str, int] = {}
        self._created: dict[str, float] = {}
        self._router = Router()
        self._backfills: dict[str, tuple[BackfillRun, asyncio.Task[None]]] = {}
        self._cursors: dict[str, tuple[str, ...] | None] = {}
        self._types = TypeCatalog([])
        self._stream: Stream | None = None
        self._slot_stream: SlotStream | None = None
        self._admin: AsyncConnection[Any] | None = None
        self._admin_lock = asyncio.Lock()
        self._sink_lock = asyncio.Lock()
        self._stale = False
        self._flushed = (0, 0)
        self._confirmed = self._store.confirmed_lsn()
        self._tasks: list[asyncio.Task[None]] = []
        self._load = Load(MESSAGES_HIGH, MESSAGES_LOW, self._throttle)
        self._client = HttpClient(allow_private=config.allow_private)
        self.catalog = Catalog(_database(config, self._store))

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
            await self._connect()
        except (Error, OSError) as exc:
            self._trouble(exc)
        self._tasks = [asyncio.create_task(self._replicate()), asyncio.create_task(self._flush_regularly())]

    async def close(self) -> None:
        """Stop everything; what was delivered is noted, so that it is not sent again."""
        for task in self._tasks:
            task.cancel()
        for _, task in self._backfills.values():
            task.cancel()
        await asyncio.gather(*self._tasks, *(task for _, task in self._backfills.values()), return_exceptions=True)
        for delivery in self._deliveries.values():
            delivery.close()
        self._client.close()
        await self._flush()
        if self._slot_stream is not None:
            await self._slot_stream.close()
        if self._admin is not None:
            await self._admin.close()
        self._writer.shutdown()
        self._store.close()

    def _load_resources(self) -> None:
        catalog = self.catalog
        sinks: list[tuple[Sink, int]] = []
        for stored in self._store.load():
            resource = stored.resource
            if isinstance(resource, HttpEndpoint):
                catalog.endpoints[resource.id] = resource
            elif isinstance(resource, Function):
                catalog.functions[resource.id] = resource
            elif isinstance(resource, ApiKey):
                catalog.api_keys[resource.id] = resource
            elif isinstance(resource, Backfill):
                catalog.backfills[resource.id] = resource
                self._cursors[resource.id] = stored.cursor
            else:
                catalog.sinks[resource.id] = resource
                self._start_lsns[resource.id] = stored.start_lsn
                sinks.append((resource, stored.number))
        for sink, number in sinks:
            self._put_in_force(sink, number)

    # --- Postgres ------------------------------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query on the one administrative connection, which is opened again when it was lost."""
        async with self._admin_lock:
            try:
                if self._admin is None or self._admin.closed:
                    self._admin = await tables.connect(self.config.database_url, settings=SESSION_SETTINGS)
                return await question(self._admin)
            except OperationalError as exc:
                raise DatabaseUnavailable(
                    f"Postgres does not answer: {str(exc).splitlines()[0]}", "Start it (`userhooks up`), then try again."
                ) from exc

    async def _connect(self) -> None:
        """Check whose state this is, make the slot when it is new, and start the stream where the store says."""
        config = self.config
        identity = await self._ask(lambda c: tables.identity(c, config.slot))
        await self._write(self._store.bind, identity)
        if not await self._ask(lambda c: tables.publication_exists(c, config.publication)):
            raise OperationalError(f"the publication {config.publication!r} is missing; `userhooks up` creates it")
        await self.refresh_tables()
        slot = await self._ask(lambda c: tables.read_slot(c, config.slot))
        if slot is None:
            start = await self._ask(lambda c: tables.create_slot(c, config.slot))
            if self._confirmed:
                log.error(
                    "the slot %s was gone: changes between LSN %d and %d cannot be delivered; start a backfill",
                    config.slot,
                    self._confirmed,
                    start,
                )
            self._confirmed = start
            await self._write(self._store.flush, start, [])
        if self._stream is None:
            acknowledged = await self._write(self._store.acknowledged)
            self._stream = Stream(Progress(self._confirmed), self._router, self.catalog.tables, self._types, acknowledged, self._watermark)
        connection = await tables.connect(config.database_url, replication=True, settings=SESSION_SETTINGS)
        stream = SlotStream(connection, on_data=self._take, on_keepalive=self._stream.progress.keepalive)
        try:
            await stream.start(tables.start_replication(config.slot, config.publication, self._stream.progress.read), self._confirmed)
        except BaseException:
            await stream.close()
            raise
        self._slot_stream = stream
        self.problem = None
        log.info("reading slot %s from LSN %d", config.slot, self._stream.progress.read)
        for backfill in list(self.catalog.backfills.values()):
            if backfill.state == "active" and backfill.id not in self._backfills:
                self._run_backfill(backfill)

    async def _replicate(self) -> None:
        """Keep the stream running; after it ended, connect again with growing pauses."""
        pause = 0.2
        while True:
            try:
                if self._slot_stream is None:
                    await self._connect()
                pause = 0.2
                assert self._slot_stream is not None  # noqa: S101
                await self._slot_stream.ended
            except (ReplicationEnded, Error, OSError, DatabaseUnavailable) as exc:
                self._trouble(exc)
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                self.problem = f"a change could not be handled: {exc}"
                log.exception("reading the slot has stopped; nothing after this change is confirmed")
            if self._slot_stream is not None:
                await self._slot_stream.close()
                self._slot_stream = None
            await asyncio.sleep(pause)
            pause = min(5.0, pause * 2)

    def _trouble(self, exc: BaseException) -> None:
        self.problem = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        log.warning("not connected to Postgres: %s", self.problem)

    def _take(self, payload: bytes) -> None:
        assert self._stream is not None  # noqa: S101
        try:
            self._stream.take(payload)
        except CatalogStale:
            self._stale = True
            self._throttle()
            self._client.spawn(self._take_again(payload))

    async def _take_again(self, payload: bytes) -> None:
        """The stream mentions a table that the catalog does not know like this: read the catalog, then go on."""
        stream, slot_stream = self._stream, self._slot_stream
        if stream is None or slot_stream is None:
            return
        try:
            await self.refresh_tables()
            stream.take(payload, refreshed=True)
        except Exception as exc:
            if not slot_stream.ended.done():
                slot_stream.ended.set_exception(exc)
            return
        finally:
            self._stale = False
        self._throttle()

    def _throttle(self) -> None:
        """Read the slot only while the receivers that keep up have not too much before them."""
        stream = self._slot_stream
        if stream is None:
            return
        if self._stale or self._load.waiting > MESSAGES_HIGH:
            stream.pause()
        elif self._load.waiting <= MESSAGES_LOW:
            stream.resume()

    async def refresh_tables(self) -> None:
        """Read tables and types from Postgres' catalogs again."""
        found = await self._ask(lambda c: tables.read_tables(c, self.config.publication))
        types = await self._ask(tables.read_types)
        self.catalog.tables.clear()
        self.catalog.tables.update(found)
        self._types.update(types)

    async def check_database(self) -> str | None:
        """Return None when Postgres answers, else what is wrong."""
        try:
            await self._ask(lambda c: c.execute("select 1"))
        except DatabaseUnavailable as exc:
            return exc.what
        return None

    # --- progress ------------------------------------------------------------------------------------------------------

    async def _flush_regularly(self) -> None:
        last_status = last_look = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._flush()
            except Exception:
                log.exception("progress could not be written to the store; the slot keeps what is not confirmed")
            now = time.monotonic()
            if now - last_look > 1.0:
                last_look = now
                for delivery in self._deliveries.values():
                    delivery.look()
            if now - last_status > STATUS_SECONDS:
                last_status = now
                if self._slot_stream is not None:
                    self._slot_stream.send_status()
                try:
                    self.slot = await self._ask(lambda c: tables.read_slot(c, self.config.slot))
                except DatabaseUnavailable:
                    self.slot = None

    async def _flush(self) -> None:
        """Commit how far everything is delivered, and what is delivered beyond; only then tell Postgres."""
        stream = self._stream
        if stream is None:
            return
        lsn = stream.progress.confirmable()
        acknowledged: list[tuple[int, int, int]] = []
        flushed = []
        for transaction in stream.progress.unsettled():
            done = transaction.acknowledged
            if len(done) > transaction.flushed:
                acknowledged.extend((transaction.commit_lsn, index, sink) for index, sink in done[transaction.flushed :])
                flushed.append((transaction, len(done)))
        if lsn == self._confirmed and not acknowledged:
            return
        await self._write(self._store.flush, lsn, acknowledged)
        for transaction, count in flushed:
            transaction.flushed = count
        self._confirmed = lsn
        if self._slot_stream is not None:
            self._slot_stream.confirm(lsn)

    async def _write(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a method of the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, lambda: function(*args, **kwargs))

    # --- endpoints, functions, keys ------------------------------------------------------------------------------------

    async def save_endpoint(self, endpoint: HttpEndpoint) -> None:
        """Create or replace an endpoint; what waits for it goes to the new address at once."""
        await self._write(self._store.save, endpoint)
        self.catalog.endpoints[endpoint.id] = endpoint
        for sink in self.catalog.sinks.values():
            if sink.endpoint_id == endpoint.id:
                self._deliveries[sink.id].configure(sink, endpoint, self._form(sink))

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint that no sink uses."""
        await self._write(self._store.delete, [endpoint_id])
        self.catalog.endpoints.pop(endpoint_id, None)

    async def save_function(self, function: Function) -> None:
        """Create or replace a function; sinks that use it route by the new code from the next change on."""
        await self._write(self._store.save, function)
        self.catalog.functions[function.id] = function
        for sink in self.catalog.sinks.values():
            if sink.filter == function.name:
                self._route(sink)
                self._deliveries[sink.id].rejudge()

    async def save_api_key(self, key: ApiKey) -> None:
        """Create or replace an API key."""
        await self._write(self._store.save, key)
        self.catalog.api_keys[key.id] = key

    async def delete_api_key(self, key_id: str) -> None:
        """Remove an API key."""
        await self._write(self._store.delete, [key_id])
        self.catalog.api_keys.pop(key_id, None)

    # --- sinks ---------------------------------------------------------------------------------------------------------

    async def save_sink(self, sink: Sink) -> None:
        """Create or replace a sink by id; raises DatabaseUnavailable, and then nothing has changed.

        A new or re-enabled sink enters routing first, then the WAL insert position is read, then this returns: the sink owes every change
        with a commit LSN at or above that position and none below.
        """
        async with self._sink_lock:
            before = self.catalog.sinks.get(sink.id)
            starts = sink.status != "disabled" and (before is None or before.status == "disabled")
            if starts:
                await self._start_sink(sink)
                return
            number = await self._write(self._store.save, sink)
            self.catalog.sinks[sink.id] = sink
            if before is None:
                self._put_in_force(sink, number)
                return
            delivery = self._deliveries[sink.id]
            if sink.status == "disabled":
                self._router.remove(sink.id)
                delivery.configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))
                delivery.drop()
                await self._cancel_backfills(sink.id)
                return
            self._route(sink)
            if (before.filter, before.filters, before.annotations) != (sink.filter, sink.filters, sink.annotations):
                delivery.rejudge()
            delivery.configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))
            self._poke_backfills(sink.id)

    async def _start_sink(self, sink: Sink) -> None:
        before = self.catalog.sinks.get(sink.id)
        number = await self._write(self._store.save, before or replace(sink, status="disabled"))
        self._start_lsns[sink.id] = 0
        if before is None:
            self._put_in_force(sink, number, held=True)
        else:
            self._deliveries[sink.id].hold()
            self._deliveries[sink.id].configure(sink, self.catalog.endpoints[sink.endpoint_id], self._form(sink))
            self._route(sink)
        delivery = self._deliveries[sink.id]
        try:
            start_lsn = await self._ask(tables.insert_lsn)
            await self._write(self._store.save, sink, start_lsn=start_lsn)
        except BaseException:
            self._router.remove(sink.id)
            delivery.drop()
            if before is None:
                del self._deliveries[sink.id]
                await self._write(self._store.delete, [sink.id])
            else:
                delivery.configure(before, self.catalog.endpoints[before.endpoint_id], self._form(before))
            raise
        self.catalog.sinks[sink.id] = sink
        self._created[sink.id] = time.monotonic()
        self._start_lsns[sink.id] = start_lsn
        self._route(sink)
        delivery.release(start_lsn)

    def _put_in_force(self, sink: Sink, number: int, *, held: bool = False) -> None:
        self._deliveries[sink.id] = SinkDelivery(
            sink,
            self.catalog.endpoints[sink.endpoint_id],
            self._form(sink),
            number,
            client=self._client,
            load=self._load,
            schedule=self._schedule,
            luck=self._luck,
            held=held,
        )
        if sink.status != "disabled":
            self._route(sink)

    def _route(self, sink: Sink) -> None:
        """Route by the sink's present filter; one that names no usable filter function delivers nothing."""
        bound: functions.Bound | None = None
        broken: str | None = None
        if sink.filters is not None:
            table = self.catalog.tables.get((sink.source.include_tables or (("", ""),))[0])
            bound = functions.bind_column_filters(sink.filters, table)
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
        self._deliveries[sink.id].judge = self._judge(bound, broken)

    @staticmethod
    def _judge(bound: functions.Bound | None, broken: str | None) -> Callable[[Change], bool]:
        def judge(change: Change) -> bool:
            if broken is not None:
                raise functions.FunctionRaised(broken)
            return True if bound is None else bound.accepts(change)

        return judge

    def _constants(self, sink: Sink) -> dict[str, Any]:
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

    def _form(self, sink: Sink) -> SinkForm:
        constants = self._constants(sink)
        return SinkForm(constants["consumer"], constants["database"], sink.timestamp_format)

    async def delete_sink(self, sink_id: str) -> None:
        """Remove a sink with its backfills and everything it still owed."""
        async with self._sink_lock:
            await self._cancel_backfills(sink_id)
            backfills = [b.id for b in self.catalog.backfills.values() if b.sink_id == sink_id]
            await self._write(self._store.delete, [sink_id, *backfills])
            self._router.remove(sink_id)
            delivery = self._deliveries.pop(sink_id)
            self.catalog.sinks.pop(sink_id, None)
            delivery.sink = replace(delivery.sink, status="disabled")
            delivery.drop()
            delivery.close()
            for backfill_id in backfills:
                self.catalog.backfills.pop(backfill_id, None)

    # --- backfills -----------------------------------------------------------------------------------------------------

    async def create_backfill(self, backfill: Backfill) -> None:
        """Start a backfill at once."""
        await self._write(self._store.save, backfill)
        self.catalog.backfills[backfill.id] = backfill
        self._cursors[backfill.id] = None
        if backfill.state == "active":
            self._run_backfill(backfill)

    async def change_backfill(self, backfill_id: str, state: BackfillState) -> Backfill:
        """Pause, resume or cancel; the caller has checked that the transition is allowed."""
        if state != "active":
            await self._stop_backfill(backfill_id)
        backfill = self.catalog.backfills[backfill_id]
        canceled_at = utc_now(micro=True) if state == "cancelled" else backfill.canceled_at
        backfill = replace(backfill, state=state, updated_at=utc_now(), canceled_at=canceled_at)
        await self._save_backfill(backfill, self._cursors.get(backfill_id))
        if state == "active":
            self._run_backfill(backfill)
        return backfill

    def _run_backfill(self, backfill: Backfill) -> None:
        if self._stream is None or backfill.id in self._backfills:
            return  # `_connect` starts what is active
        table = self.catalog.tables.get(backfill.table)
        if table is None or not table.primary_key:
            self._client.spawn(
                self._fail_backfill(backfill, "the table has no primary key" if table else "the table is not in the publication")
            )
            return
        run = BackfillRun(
            backfill,
            table,
            TableShape.of_table(table, self._types),
            self._deliveries[backfill.sink_id],
            self._cursors.get(backfill.id),
            connect=lambda: tables.connect(self.config.database_url, settings=SESSION_SETTINGS),
            save=self._save_backfill,
            now_us=lambda: time.time_ns() // 1000,
            now_text=utc_now,
            visible=lambda: list(self._stream.recent_xids) if self._stream else [],
        )
        self._stream.watchers.append(run)
        self._backfills[backfill.id] = (run, asyncio.create_task(self._attend(run)))

    async def _attend(self, run: BackfillRun) -> None:
        """Run a backfill to its end; after trouble with Postgres, start over from its cursor."""
        assert self._stream is not None  # noqa: S101
        try:
            while True:
                try:
                    await run.run()
                    break
                except (Error, OSError) as exc:
                    log.warning("backfill %s is interrupted: %s", run.backfill.id, exc)
                    await asyncio.sleep(1.0)
                except Exception:
                    log.exception("backfill %s cannot go on", run.backfill.id)
                    await self._fail_backfill(run.backfill, "an error in the engine; see its log")
                    return
            done = replace(run.backfill, state="completed", completed_at=utc_now(micro=True), updated_at=utc_now())
            await self._save_backfill(done, None)
            log.info("backfill %s is completed: %d rows", done.id, done.rows_processed_count)
        finally:
            self._stream.watchers.remove(run)
            self._backfills.pop(run.backfill.id, None)

    async def _fail_backfill(self, backfill: Backfill, reason: str) -> None:
        log.error("backfill %s of %s failed: %s", backfill.id, ".".join(backfill.table), reason)
        await self._save_backfill(replace(backfill, state="failed", updated_at=utc_now()), None)

    async def _stop_backfill(self, backfill_id: str) -> None:
        running = self._backfills.get(backfill_id)
        if running is None:
            return
        run, task = running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._deliveries[run.sink_id].withdraw(run.owns)

    async def _cancel_backfills(self, sink_id: str) -> None:
        for backfill in list(self.catalog.backfills.values()):
            if backfill.sink_id == sink_id and backfill.state in ("active", "paused"):
                await self.change_backfill(backfill.id, "cancelled")

    def _poke_backfills(self, sink_id: str) -> None:
        for run, _ in self._backfills.values():
            if run.sink_id == sink_id:
                run.poke()

    async def _save_backfill(self, backfill: Backfill, cursor: tuple[str, ...] | None) -> None:
        self.catalog.backfills[backfill.id] = backfill
        self._cursors[backfill.id] = cursor
        await self._write(self._store.save_backfill, backfill, cursor)

    def _watermark(self, token: str) -> None:
        for run, _ in list(self._backfills.values()):
            run.watermark(token)

    # --- what can be seen ----------------------------------------------------------------------------------------------

    def delivery(self, sink_id: str) -> SinkDelivery:
        """Return the counters of a sink: pending, delivered, attempted, failed, retrying, last_error."""
        return self._deliveries[sink_id]

    def health(self, sink: Sink) -> dict[str, Any]:
        """Return the `health` object of a sink, with Sequin's names and words (recorded)."""
        delivery = self._deliveries[sink.id]
        fresh = time.monotonic() - self._created.get(sink.id, 0.0) < _NEW_SINK_SECONDS
        configuration = "initializing" if fresh else self._configuration(sink)
        moved = delivery.delivered > 0
        quiet = "healthy" if moved else "waiting"
        delivering: dict[str, Any] = {"name": "Message delivery", "status": quiet}
        if delivery.last_error is not None:
            delivering = {"name": "Message delivery", "status": "error", "error": delivery.last_error}
        ingestion: dict[str, Any] = {"name": "Message ingestion", "status": quiet}
        if self.problem is not None:
            ingestion = {"name": "Message ingestion", "status": "error", "error": self.problem}
        checks = [
            {"name": "Sink configuration", "status": configuration},
            {"name": "Message filtering", "status": quiet},
            ingestion,
            {"name": "Messages pending delivery", "status": quiet},
            delivering,
        ]
        if sink.status != "active":
            overall = "paused"
        elif any(check["status"] == "error" for check in checks):
            overall = "error"
        elif fresh and not moved:
            overall = "initializing"
        else:
            overall = quiet
        return {"name": "Consumer health", "status": overall, "checks": checks}

    def _configuration(self, sink: Sink) -> str:
        covered = [t for t in self.catalog.tables.values() if sink.source.covers(t.schema, t.name)]
        return "notice" if any(t.replica_identity != "f" for t in covered) else "healthy"

    @property
    def changes(self) -> int:
        """Changes read from the slot since the start."""
        return self._stream.changes if self._stream is not None else 0

    def backlog(self) -> int:
        """Messages of sinks that keep up which are not delivered yet."""
        return self._load.waiting


def utc_now(*, micro: bool = False) -> str:
    """The time as the API shows it: whole seconds, or with six digits where Sequin shows them."""
    now = datetime.now(UTC).replace(microsecond=0)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _database(config: Config, store: Store) -> Database:
    """The one database, with ids that stay the same over restarts."""
    info = conninfo_to_dict(config.database_url)
    ids = {}
    for key in ("database_id", "slot_id"):
        ids[key] = store.meta(key) or str(uuid.uuid4())
        store.set_meta(key, ids[key])
    return Database(
        id=ids["database_id"],
        name=config.database_name,
        hostname=str(info.get("host") or "localhost"),
        port=int(info.get("port") or 5432),
        database=str(info.get("dbname") or info.get("user") or "postgres"),
        username=str(info.get("user") or "postgres"),
        password=str(info.get("password") or ""),
        slot_id=ids["slot_id"],
        slot_name=config.slot,
        publication_name=config.publication,
    )
