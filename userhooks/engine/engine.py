"""The composition root of the engine: creates, connects, starts, and stops its parts."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import uuid
from functools import partial

from psycopg import Error

from userhooks.engine.api_keys import ApiKeys
from userhooks.engine.backfill.manager import Backfills
from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.capture.slot_keeper import SlotKeeper
from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.http_client import HttpClient, raise_file_limit
from userhooks.engine.delivery.latency_histogram import HistogramPool
from userhooks.engine.delivery.retry import RetrySchedule
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.delivery.sink_history import Histories
from userhooks.engine.flusher import Flusher
from userhooks.engine.housekeeping import keep_house
from userhooks.engine.monitor import Monitor
from userhooks.engine.postgres import catalog_queries
from userhooks.engine.postgres.admin_connection import AdminConnection
from userhooks.engine.resource_loader import load_pending, load_resources
from userhooks.engine.resources import Catalog, DatabaseResource
from userhooks.engine.routing import Router
from userhooks.engine.sink_registry import SinkRegistry
from userhooks.engine.startup import Config
from userhooks.engine.state_store import StateStore
from userhooks.engine.store_thread import StoreThread
from userhooks.errors import DatabaseUnavailable
from userhooks.shared import postgres_connections

log = logging.getLogger(__name__)


class Engine:
    """The engine. Call `start` before anything else and `close` at the end."""

    def __init__(self, config: Config, *, rng: random.Random | None = None) -> None:
        self.config = config
        self._store = StateStore(config.store, config.store_max_pages)
        self._store_thread = StoreThread()
        write = self._store_thread.write
        self._client = HttpClient(allow_private=config.allow_private, places=raise_file_limit())
        self._tasks: list[asyncio.Task[None]] = []
        self._latencies = HistogramPool()
        self._histories = Histories()
        router = Router()
        self.catalog = Catalog(_database(config, self._store))
        self.deliveries = Deliveries()
        self.keys = ApiKeys(self.catalog, self._store, write)
        self.admin = AdminConnection(config, self.catalog.database, self._store, write)
        self.tables = PublishedTables(config.publication, self.admin, self.catalog, on_known=self._run_backfills)
        self.health = CaptureHealth(self.admin, self.tables, catalog=self.catalog, router=router, store=self._store, write=write)
        self.slot = SlotKeeper(config.slot, self.admin, self.health, self._store, write)
        self.reader = SlotReader(
            config,
            admin=self.admin,
            tables=self.tables,
            health=self.health,
            slot=self.slot,
            router=router,
            catalog=self.catalog,
            store=self._store,
            write=write,
            on_watermark=lambda token: self.backfills.watermark(token),
            on_connected=self._run_backfills,
        )
        self._backlog = Backlog(
            self._store,
            write,
            knows_types=self.tables.knows_types,
            on_gone=lambda delivery: self._client.spawn(self.registry.pause_gone(delivery)),
            on_caught_up=lambda delivery: self.backfills.poke(delivery.sink.id),
        )
        self.backfills = Backfills(
            config.database_url,
            catalog=self.catalog,
            deliveries=self.deliveries,
            router=router,
            admin=self.admin,
            tables=self.tables,
            health=self.health,
            reader=self.reader,
            store=self._store,
            write=write,
        )
        self.registry = SinkRegistry(
            self.catalog,
            self.deliveries,
            router=router,
            backfills=self.backfills,
            backlog=self._backlog,
            store=self._store,
            write=write,
            wal_end=lambda: self.admin.ask(catalog_queries.insert_lsn),
            new_delivery=partial(
                SinkDelivery,
                client=self._client,
                budget=self.reader.budget,
                schedule=RetrySchedule(base=config.retry_base),
                rng=rng or random.Random(),  # noqa: S311  # jitter, not cryptography
                disk=self._backlog,
                latencies=self._latencies,
                histories=self._histories,
            ),
        )
        self.flusher = Flusher(self._store, write, reader=self.reader, deliveries=self.deliveries, backlog=self._backlog)
        self.monitor = Monitor(
            self.catalog,
            self.deliveries,
            admin=self.admin,
            health=self.health,
            slot=self.slot,
            reader=self.reader,
            flusher=self.flusher,
            backlog=self._backlog,
            latencies=self._latencies,
            store_path=config.store,
        )

    def _run_backfills(self) -> None:
        if self.reader.is_connected:
            self.backfills.run_active()

    async def start(self) -> None:
        """Load the state, connect, and start delivering; if Postgres is down, keep trying in the background."""
        load_resources(self.catalog, self._store, self.registry, self.backfills)
        load_pending(self._store, self.deliveries, self._backlog, self.tables.types)
        await self.keys.save_default(self.config.api_token)
        try:
            await self.reader.connect()
        except (Error, OSError, DatabaseUnavailable) as exc:
            self.health.note_error(exc)
        housekeeping = keep_house(
            flusher=self.flusher, registry=self.registry, deliveries=self.deliveries, latencies=self._latencies, reader=self.reader
        )
        parts = (self.reader.run(), self.flusher.run(self.config.store), housekeeping)
        self._tasks = [asyncio.create_task(part) for part in parts]

    async def close(self) -> None:
        """Stop everything, and save the last acknowledgements so that delivered messages are not sent again."""
        async with self.flusher.lock:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backfills.close()
        await self._backlog.close()
        await self.deliveries.drain()
        self.deliveries.close()
        self._client.close()
        self.flusher.note_counts([counts async for counts in self.deliveries.sample()])
        try:
            await self.flusher.flush()
        except sqlite3.Error as exc:
            log.error("cannot save the last acknowledgements; those messages will be sent again: %s", exc)
        await self.reader.close()
        self.tables.close()
        await self.admin.close()
        self._store_thread.shutdown()
        self._store.close()


def _database(config: Config, store: StateStore) -> DatabaseResource:
    """Return the one database, with ids that survive restarts."""
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
