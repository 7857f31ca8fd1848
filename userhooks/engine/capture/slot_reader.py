"""Reads the replication slot: starts the stream, pauses it while memory is full, and retries after errors.

Bytes are read from the socket in `postgres/replication_stream.py` and decoded in `transactions.py`. The slot itself is maintained in
`slot_keeper.py`, tables and types in `published_tables.py`. Errors are handled in `capture_health.py`. `confirmable_lsn.py` decides which
LSN may be confirmed, and `flusher.py` confirms it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.confirmable_lsn import Progress
from userhooks.engine.capture.published_tables import PublishedTables
from userhooks.engine.capture.slot_keeper import SlotKeeper
from userhooks.engine.capture.transactions import CatalogStale, Stream
from userhooks.engine.delivery.pending_message import MemoryBudget
from userhooks.engine.postgres import catalog_queries
from userhooks.engine.postgres.admin_connection import ASK_SECONDS, CONNECTION_ERRORS, AdminConnection
from userhooks.engine.postgres.diagnosis import Trouble, Unavailable
from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.postgres.replication_stream import SlotStream, Unpublished
from userhooks.engine.resources import Catalog
from userhooks.engine.routing import Router
from userhooks.engine.startup import Config
from userhooks.engine.state_store import StateStore, StoreMismatch

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Limits of the pause between connection attempts, in seconds; it doubles after each failure."""
SETTLED_SECONDS = 5.0
"""Seconds a stream must last before the pause is reset to FIRST_PAUSE."""


class SlotReader:
    """Reads one slot while `run` is running; `write` runs a method of the store on the store's thread."""

    def __init__(
        self,
        config: Config,
        *,
        admin: AdminConnection,
        tables: PublishedTables,
        health: CaptureHealth,
        slot: SlotKeeper,
        router: Router,
        catalog: Catalog,
        store: StateStore,
        write: Callable[..., Awaitable[Any]],
        on_watermark: Callable[[str], None],
        on_connected: Callable[[], None],
    ) -> None:
        self.stream: Stream | None = None
        self.budget = MemoryBudget(self._throttle)
        self.confirmed = store.confirmed_lsn()
        self._config = config
        self._admin = admin
        self._tables = tables
        self._health = health
        self._slot = slot
        self._router = router
        self._catalog = catalog
        self._store = store
        self._write = write
        self._on_watermark = on_watermark
        self._on_connected = on_connected
        self._slot_stream: SlotStream | None = None
        self._waits_for_catalog = False
        self._describing: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None

    # --- connecting ----------------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the stream is running."""
        return self._slot_stream is not None

    async def connect(self) -> None:
        """Prepare the slot, and start the stream at the last position read or, after a restart, at the stored one.

        Raises StoreMismatch if the engine's state belongs to another cluster, database, or slot. Raises psycopg's
        errors, OSError, or DatabaseUnavailable for problems that may be temporary.
        """
        config = self._config
        await self._tables.find_publication()
        await self._tables.read_types()
        await asyncio.wait({self._tables.follow()}, timeout=ASK_SECONDS)  # The stream does not depend on the tables being known.
        start_lsn = await self._slot.prepare(self.confirmed if self.stream is None else self.stream.progress.read)
        if start_lsn is not None:
            if self.stream is not None:
                self.stream.start_over(start_lsn)
            else:
                await self._write(self._store.set_confirmed, start_lsn)
                self.confirmed = start_lsn
        if self.stream is None:
            acknowledged = await self._write(self._store.acknowledged)
            types = self._tables.types
            self.stream = Stream(Progress(self.confirmed), self._router, self._catalog.tables, types, acknowledged, self._on_watermark)
        connection = await self._admin.open(replication=True)
        slot_stream = SlotStream(
            connection,
            on_data=self._take,
            at_once=self.budget.at_once,
            on_keepalive=self.stream.progress.keepalive,
            on_unpublished=self._loss_is_known,
            silence=config.silence,
        )
        try:
            await self._admin.within(ASK_SECONDS, connection, catalog_queries.take_any_bytes)
            await slot_stream.start(
                catalog_queries.start_replication(config.slot, config.publication, self.stream.progress.read), self.confirmed
            )
        except BaseException:
            await slot_stream.close()
            raise
        self._slot_stream = slot_stream
        for watcher in self.stream.watchers:
            watcher.interrupt()
        self._health.is_reading()
        log.info("reading slot %s from LSN %s", config.slot, show_lsn(self.stream.progress.read))
        self._throttle()
        self.check_slot()
        if self._tables.are_known:
            self._on_connected()

    def _loss_is_known(self) -> bool:
        return self.stream is not None and self._health.knows_loss_at(self.stream.progress.read)

    async def run(self) -> None:
        """Keep the stream running, and reconnect with growing pauses when it ends."""
        pause = FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        since = clock()
        while True:
            try:
                if self._slot_stream is None:
                    await self.connect()
                assert self._slot_stream is not None  # noqa: S101
                since = clock()
                await self._slot_stream.ended
            except CONNECTION_ERRORS as exc:
                self._slot.was_unpublished |= isinstance(exc, Unpublished)
                self._health.note_error(exc)
            except Exception as exc:
                self._health.note(
                    Trouble(f"A change could not be processed: {exc}.", "Nothing after it is confirmed. See the engine's log for details.")
                )
                log.exception("stopped reading the slot; nothing after this change is confirmed")
            if self._slot_stream is not None:
                await self._slot_stream.close()
                self._slot_stream = None
                if clock() - since > SETTLED_SECONDS:
                    pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    # --- reading -------------------------------------------------------------------------------------------------------

    def _take(self, payload: bytes) -> None:
        assert self.stream is not None  # noqa: S101
        try:
            self.stream.take(payload)
        except CatalogStale as stale:
            self._waits_for_catalog = True
            self._throttle()
            self._describing = asyncio.create_task(self._take_again(payload, stale))

    async def _take_again(self, payload: bytes, stale: CatalogStale) -> None:
        """Query the details of a table that the stream lacks, then process the payload again and resume reading.

        If the catalog's columns differ from the stream's, the full list of tables is refreshed in the background.
        """
        stream, slot_stream = self.stream, self._slot_stream
        if stream is None or slot_stream is None:
            return
        try:
            if not stale.fits:
                self._tables.follow()
            if stale.types_are_missing:
                await self._tables.read_types()
            stream.take(payload, primary_key=await self._primary_key(stream, stale))
        except Exception as exc:
            slot_stream.end(exc)
            return
        finally:
            self._waits_for_catalog = False
        self._throttle()

    async def _primary_key(self, stream: Stream, stale: CatalogStale) -> Sequence[str]:
        """Return the table's primary key if the stream lacks it, else an empty sequence.

        If Postgres does not answer, return the last known key.
        """
        if not stale.key_is_missing:
            return ()
        try:
            return await self._admin.ask_plainly(lambda c: catalog_queries.read_primary_key(c, stale.relation.oid))
        except CONNECTION_ERRORS as exc:
            last_key = stream.last_key(stale.relation)
            if last_key is None:
                raise
            log.warning("cannot read the primary key of %s; using the last known one: %s", stale, self._admin.describe(exc))
            return last_key

    def _throttle(self) -> None:
        """Pause the stream while the memory budget is exhausted or a table is being looked up; resume it otherwise."""
        slot_stream = self._slot_stream
        if slot_stream is None:
            return
        if self._waits_for_catalog or self.budget.is_full:
            slot_stream.pause()
        else:
            slot_stream.resume()

    def confirm(self, lsn: int) -> None:
        """Confirm `lsn` to Postgres, which may then discard the WAL before it; the caller has already stored `lsn`."""
        self.confirmed = lsn
        if self._slot_stream is not None:
            self._slot_stream.confirm(lsn)

    # --- checking the slot ---------------------------------------------------------------------------------------------

    def check_slot(self) -> None:
        """Send Postgres a status update, and start a check of the slot and the publication."""
        if self._slot_stream is not None:
            self._slot_stream.send_status()
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())

    async def _check(self) -> None:
        slot_stream = self._slot_stream
        try:
            await self._slot.check()
            await self._tables.check()
        except CONNECTION_ERRORS as exc:
            self._slot.state = None
            # A shutting-down Postgres waits for confirmation of all WAL, which failing receivers delay. Disconnect; the changes are read
            # again later.
            if slot_stream is not None and (isinstance(exc, StoreMismatch) or "is shutting down" in str(exc)):
                slot_stream.end(exc)
            return
        if slot_stream is not None:
            try:
                self._tables.require_publication()
            except Unavailable as exc:
                slot_stream.end(exc)

    async def close(self) -> None:
        """Cancel background tasks and close the stream."""
        for task in (self._describing, self._checking):
            if task is not None:
                task.cancel()
        if self._slot_stream is not None:
            await self._slot_stream.close()
