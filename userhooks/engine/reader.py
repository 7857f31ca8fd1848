"""Keeping the replication slot read: connecting, the position to start from, pauses, trouble and new attempts.

The bytes of the stream are taken from the socket in `replication.py` and understood in `stream.py`; what may be confirmed is decided in
`progress.py` and written by `app.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from psycopg import AsyncConnection, Error, OperationalError

from userhooks.engine import tables
from userhooks.engine.delivery import Load
from userhooks.engine.progress import Progress
from userhooks.engine.replication import ReplicationEnded, SlotStream
from userhooks.engine.resources import Catalog
from userhooks.engine.routing import Router
from userhooks.engine.startup import Config
from userhooks.engine.store import Store
from userhooks.engine.stream import CatalogStale, Stream
from userhooks.engine.values import SESSION_SETTINGS, TypeCatalog
from userhooks.errors import DatabaseUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

MESSAGES_HIGH, MESSAGES_LOW = 50_000, 25_000
"""Messages that only memory has, at which the reading of the slot stops and goes on"""


class Reader:
    """Reads one slot for as long as `run` runs. `write` runs a method of the store on its thread."""

    def __init__(
        self,
        config: Config,
        *,
        router: Router,
        catalog: Catalog,
        store: Store,
        write: Callable[..., Awaitable[Any]],
        on_watermark: Callable[[str], None],
        on_connected: Callable[[], None],
    ) -> None:
        self.problem: str | None = "not connected to Postgres yet"
        self.slot: tables.SlotState | None = None
        self.stream: Stream | None = None
        self.types = TypeCatalog([])
        self.load = Load(MESSAGES_HIGH, MESSAGES_LOW, self._throttle)
        self.confirmed = store.confirmed_lsn()
        self._config = config
        self._router = router
        self._catalog = catalog
        self._store = store
        self._write = write
        self._on_watermark = on_watermark
        self._on_connected = on_connected
        self._slot_stream: SlotStream | None = None
        self._admin: AsyncConnection[Any] | None = None
        self._admin_lock = asyncio.Lock()
        self._stale = False
        self._refreshing: asyncio.Task[None] | None = None

    # --- questions to Postgres -----------------------------------------------------------------------------------------

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query on the one administrative connection, which is opened again when it was lost; raises DatabaseUnavailable."""
        async with self._admin_lock:
            try:
                if self._admin is None or self._admin.closed:
                    self._admin = await tables.connect(self._config.database_url, settings=SESSION_SETTINGS)
                return await question(self._admin)
            except OperationalError as exc:
                raise DatabaseUnavailable(
                    f"Postgres does not answer: {str(exc).splitlines()[0]}", "Start it (`userhooks up`), then try again."
                ) from exc

    async def refresh_tables(self) -> None:
        """Read tables and types from Postgres' catalogs again."""
        found = await self.ask(lambda c: tables.read_tables(c, self._config.publication))
        types = await self.ask(tables.read_types)
        self._catalog.tables.clear()
        self._catalog.tables.update(found)
        self.types.update(types)

    async def look_at_slot(self) -> None:
        """Read the slot's state, and tell Postgres that we are there."""
        if self._slot_stream is not None:
            self._slot_stream.send_status()
        try:
            self.slot = await self.ask(lambda c: tables.read_slot(c, self._config.slot))
        except DatabaseUnavailable:
            self.slot = None

    # --- the stream ----------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Check whose state this is, make the slot when it is new, and start the stream where the store says."""
        config = self._config
        identity = await self.ask(lambda c: tables.identity(c, config.slot))
        await self._write(self._store.bind, identity)
        if not await self.ask(lambda c: tables.publication_exists(c, config.publication)):
            raise OperationalError(f"the publication {config.publication!r} is missing; `userhooks up` creates it")
        await self.refresh_tables()
        slot = await self.ask(lambda c: tables.read_slot(c, config.slot))
        if slot is None:
            start = await self.ask(lambda c: tables.create_slot(c, config.slot))
            if self.confirmed:
                log.error(
                    "the slot %s was gone: changes between LSN %d and %d cannot be delivered; start a backfill",
                    config.slot,
                    self.confirmed,
                    start,
                )
            self.confirmed = start
            await self._write(self._store.set_confirmed, start)
        if self.stream is None:
            acknowledged = await self._write(self._store.acknowledged)
            self.stream = Stream(Progress(self.confirmed), self._router, self._catalog.tables, self.types, acknowledged, self._on_watermark)
        connection = await tables.connect(config.database_url, replication=True, settings=SESSION_SETTINGS)
        stream = SlotStream(connection, on_data=self._take, on_keepalive=self.stream.progress.keepalive)
        try:
            await stream.start(tables.start_replication(config.slot, config.publication, self.stream.progress.read), self.confirmed)
        except BaseException:
            await stream.close()
            raise
        self._slot_stream = stream
        self.problem = None
        log.info("reading slot %s from LSN %d", config.slot, self.stream.progress.read)
        self._throttle()
        self._on_connected()

    async def run(self) -> None:
        """Keep the stream running; after it ended, connect again with growing pauses."""
        pause = 0.2
        while True:
            try:
                if self._slot_stream is None:
                    await self.connect()
                pause = 0.2
                assert self._slot_stream is not None  # noqa: S101
                await self._slot_stream.ended
            except (ReplicationEnded, Error, OSError, DatabaseUnavailable) as exc:
                self.trouble(exc)
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

    def trouble(self, exc: BaseException) -> None:
        """Note what is wrong, in the words that `health` shows."""
        self.problem = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        log.warning("not connected to Postgres: %s", self.problem)

    def _take(self, payload: bytes) -> None:
        assert self.stream is not None  # noqa: S101
        try:
            self.stream.take(payload)
        except CatalogStale:
            self._stale = True
            self._throttle()
            self._refreshing = asyncio.create_task(self._take_again(payload))

    async def _take_again(self, payload: bytes) -> None:
        """The stream mentions a table that the catalog does not know like this: read the catalog, then go on."""
        stream, slot_stream = self.stream, self._slot_stream
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
        """Read the slot only while memory has not too much that is neither delivered nor in the store."""
        stream = self._slot_stream
        if stream is None:
            return
        if self._stale or self.load.waiting > MESSAGES_HIGH:
            stream.pause()
        elif self.load.waiting <= MESSAGES_LOW:
            stream.resume()

    def confirm(self, lsn: int) -> None:
        """Tell Postgres that nothing before `lsn` is needed any more; the store has it already."""
        self.confirmed = lsn
        if self._slot_stream is not None:
            self._slot_stream.confirm(lsn)

    async def close(self) -> None:
        """Close both connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._slot_stream is not None:
            await self._slot_stream.close()
        if self._admin is not None:
            await self._admin.close()
