"""Keeping the replication slot read: connecting, the position to start from, pauses, trouble and new attempts.

The bytes of the stream are taken from the socket in `postgres/replication_stream.py` and understood in `transactions.py`; what may be
confirmed is decided in `confirmed_lsn.py` and written by `engine.py`. The words for what can be wrong are in `postgres/diagnosis.py`,
those for lost changes in `lost_changes.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from psycopg import AsyncConnection, Error, OperationalError

from userhooks.engine.capture.confirmed_lsn import Progress
from userhooks.engine.capture.lost_changes import LostRange, describe_lost, to_backfill
from userhooks.engine.capture.transactions import CatalogStale, Stream
from userhooks.engine.clock import utc_now
from userhooks.engine.delivery.pending_message import MemoryBudget
from userhooks.engine.postgres import catalog_queries, diagnosis
from userhooks.engine.postgres.diagnosis import Names, Trouble, Unavailable
from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.replication_stream import ReplicationEnded, SlotStream, Unpublished
from userhooks.engine.resources import Catalog, SinkResource, TableName
from userhooks.engine.routing import Router
from userhooks.engine.startup import APPLICATION, Config
from userhooks.engine.state_store import StateStore, StoreMismatch
from userhooks.errors import DatabaseUnavailable
from userhooks.shared.postgres_connections import connect_async

log = logging.getLogger(__name__)
T = TypeVar("T")

ASK_SECONDS = 5.0
"""How long a question may wait for its turn, and how long for its answer: callers hold locks of the API meanwhile."""
CATALOG_SECONDS = 60.0
"""The same for the question for all tables, which nobody but the API's callers waits for."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
SETTLED_SECONDS = 5.0
"""A stream that lived this long was in order, so pauses begin anew after it."""

_REPLICATING = {"wal_sender_timeout": "60s"}
"""Postgres' default; `look_at_slot` sends a sign of life often enough for it, whatever the role or the database has instead"""
_LOST = "lost"
_GONE_BACK = "gone_back"
_PASSES_UNPUBLISHED = 180_000  # Postgres 18 passes over changes from when the publication was missing; older ones break off there
_NO_PUBLICATION = "the publication did not exist when they were committed"
_Troubles = (ReplicationEnded, Error, OSError, DatabaseUnavailable, StoreMismatch)


class SlotReader:
    """Reads one slot for as long as `run` runs. `write` runs a method of the store on its thread."""

    def __init__(
        self,
        config: Config,
        *,
        router: Router,
        catalog: Catalog,
        store: StateStore,
        write: Callable[..., Awaitable[Any]],
        on_watermark: Callable[[str], None],
        on_connected: Callable[[], None],
    ) -> None:
        self.slot: catalog_queries.SlotState | None = None
        self.stream: Stream | None = None
        self.types = TypeCatalog([])
        self.knows_types = asyncio.Event()
        self.budget = MemoryBudget(self._throttle)
        self.confirmed = store.confirmed_lsn()
        self._config = config
        self._router = router
        self._catalog = catalog
        self._store = store
        self._write = write
        self._on_watermark = on_watermark
        self._on_connected = on_connected
        database = catalog.database
        self._names = Names(f"{database.hostname}:{database.port}", database.database, database.username, config.slot, config.publication)
        self._trouble: Trouble | None = Trouble("The engine is not connected to Postgres yet.", "Wait: it goes on by itself.")
        lost = store.meta(_LOST)
        self._lost = LostRange.of_json(lost) if lost else None
        self._left: tuple[object, dict[str, list[TableName]]] | None = None
        self._backfills: dict[str, Trouble] = {}
        self._unpublished = False
        self._renewed: str | None = None
        """why the slot that is being made had to be made"""
        self._published: set[TableName] | None = None
        self._absent: dict[TableName, Trouble] = {}
        """why tables that sinks name are not among them"""
        self._slot_stream: SlotStream | None = None
        self._admin: AsyncConnection[Any] | None = None
        self._admin_lock = asyncio.Lock()
        self._stale = False
        self._describing: asyncio.Task[None] | None = None
        self._catalog_lock = asyncio.Lock()
        self._next_catalog: asyncio.Task[None] | None = None
        self._catalog_readings: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._catalog_trouble: Trouble | None = None
        self._knows_tables = False
        self._looking: asyncio.Task[None] | None = None

    # --- questions to Postgres -----------------------------------------------------------------------------------------

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Run a query on the one administrative connection, which is opened again when it was lost.

        Raises DatabaseUnavailable, after about 10 s at the latest: 5 to have one's turn or to connect, 5 for the answer.
        """
        try:
            return await self._ask(question)
        except _Troubles as exc:
            found = self.describe(exc)
            raise DatabaseUnavailable(found.what, found.remedy) from exc

    async def _ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """As `ask`, but what is wrong comes as it is: psycopg's errors, StoreMismatch, Unavailable."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._admin_lock.acquire()
        except TimeoutError:
            raise Unavailable(diagnosis.silent(self._names, ASK_SECONDS)) from None
        try:
            admin = self._admin
            if admin is not None and not admin.closed:
                try:
                    return await self._within(ASK_SECONDS, admin, question)
                except OperationalError:
                    if not admin.closed:
                        raise
            # It may have been lost long ago; a new one tells whether Postgres is there.
            self._admin = await self._open()
            return await self._within(ASK_SECONDS, self._admin, question)
        finally:
            self._admin_lock.release()

    async def _open(self, *, replication: bool = False) -> AsyncConnection[Any]:
        """Connect, and make sure that it is the cluster and database that the state belongs to; raises StoreMismatch."""
        settings = _REPLICATING if replication else None
        url = self._config.database_url
        connection = await connect_async(url, replication=replication, application_name=APPLICATION, settings=settings)
        try:
            identity = await self._within(ASK_SECONDS, connection, lambda c: catalog_queries.identity(c, self._config.slot))
            await self._write(self._store.bind, identity)
        except BaseException:
            await connection.close()
            raise
        self._names = replace(self._names, database=identity["database"])
        return connection

    async def _within(
        self, seconds: float, connection: AsyncConnection[Any], question: Callable[[AsyncConnection[Any]], Awaitable[T]]
    ) -> T:
        """Ask under a time limit; what is not answered by then ends with its connection, as when the server had hung up.

        (Cancelling the task would have psycopg wait for the server once more.)
        """
        late = False

        def cut() -> None:
            nonlocal late
            late = True
            with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as same:
                same.shutdown(socket.SHUT_RDWR)

        timer = asyncio.get_running_loop().call_later(seconds, cut)
        try:
            return await question(connection)
        except OperationalError as exc:
            if late:
                raise Unavailable(diagnosis.silent(self._names, seconds)) from exc
            raise
        finally:
            timer.cancel()

    async def refresh_tables(self) -> None:
        """Read tables and types from Postgres' catalogs again; raises DatabaseUnavailable."""
        reading = self._read_catalog()
        done, _ = await asyncio.wait({reading}, timeout=ASK_SECONDS)
        if not done:
            raise Unavailable(diagnosis.catalog_slow(self._names, ASK_SECONDS))
        try:
            await reading
        except _Troubles as exc:
            found = self.describe(exc)
            raise DatabaseUnavailable(found.what, found.remedy) from exc
        await self.ask(self._read_publication)

    def check_tables(self) -> None:
        """Raise DatabaseUnavailable while it is not known yet which tables there are."""
        found = self._catalog_trouble or self._trouble
        if not self._catalog.tables and found is not None:
            raise Unavailable(found)

    async def _read_types(self) -> None:
        self.types.update(await self._ask(catalog_queries.read_types))
        self.knows_types.set()

    def _read_catalog(self) -> asyncio.Task[None]:
        """Read all tables once more, beginning after this call; who calls while another reading is under way shares the next one."""
        if self._next_catalog is None:
            self._next_catalog = asyncio.create_task(self._read_catalog_alone())
            self._catalog_readings.add(self._next_catalog)
            self._next_catalog.add_done_callback(self._catalog_is_read)
        return self._next_catalog

    async def _read_catalog_alone(self) -> None:
        """Read the catalog on a connection of its own, so that no other question has to wait for a slow answer."""
        timer: asyncio.TimerHandle | None = None
        async with self._catalog_lock:
            self._next_catalog = None
            try:
                connection = await self._open()
                timer = asyncio.get_running_loop().call_later(ASK_SECONDS, self._catalog_is_slow)
                try:
                    publication = self._config.publication
                    found = await self._within(CATALOG_SECONDS, connection, lambda c: catalog_queries.read_tables(c, publication))
                    types = await self._within(CATALOG_SECONDS, connection, catalog_queries.read_types)
                finally:
                    await connection.close()
            finally:
                if timer is not None:
                    timer.cancel()
        self.types.update(types)
        self.knows_types.set()
        self._catalog.tables.clear()
        self._catalog.tables.update(found)
        self._catalog_trouble = None
        self._left = None
        if not self._knows_tables:
            self._knows_tables = True
            if self._slot_stream is not None:
                self._on_connected()

    def _catalog_is_read(self, reading: asyncio.Task[None]) -> None:
        self._catalog_readings.discard(reading)
        if not reading.cancelled():
            reading.exception()  # seen, also when nobody waits for it any more

    def _catalog_is_slow(self) -> None:
        found = diagnosis.catalog_slow(self._names, ASK_SECONDS)
        if found != self._catalog_trouble:
            log.warning("%s", found)
        self._catalog_trouble = found

    def _follow_catalog(self) -> asyncio.Task[None]:
        """Read the catalog in the background, again and again until it answers."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._read_catalog_until_it_answers())
        return self._following

    async def _read_catalog_until_it_answers(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._read_catalog()
                return
            except _Troubles as exc:
                if self._catalog_trouble is None:
                    log.warning("the tables of the publication cannot be read: %s", self.describe(exc))
                await asyncio.sleep(pause)
                pause = min(CATALOG_SECONDS, pause * 2)

    async def _read_publication(self, connection: AsyncConnection[Any]) -> None:
        """Learn which tables are published, and of those that sinks name and that are not, why."""
        published = await catalog_queries.published(connection, self._config.publication)
        named = {table for sink in self._catalog.sinks.values() for table in sink.source.include_tables or ()}
        absent = named - (published or set())
        kinds = await catalog_queries.kinds(connection, absent) if absent else {}
        self._published = published
        self._absent = {table: self._absence(table, kinds.get(table)) for table in absent}

    def _absence(self, table: TableName, kind: tuple[bool, TableName | None] | None) -> Trouble:
        if kind is None:
            return diagnosis.table_missing(table)
        unlogged, root = kind
        if unlogged:
            return diagnosis.table_unlogged(table)
        if root is not None and root in (self._published or ()):
            return diagnosis.table_published_by_root(table, root, self._names)
        return diagnosis.table_not_published(table, self._names)

    async def look_at_slot(self) -> None:
        """Tell Postgres that we are there, and begin to look whether slot and publication are still what they were."""
        if self._slot_stream is not None:
            self._slot_stream.send_status()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        stream = self._slot_stream
        try:
            self.slot = await self._ask(lambda c: catalog_queries.read_slot(c, self._config.slot))
            await self._ask(self._read_publication)
        except _Troubles as exc:
            self.slot = None
            # A shutdown waits until everything is confirmed, and so for receivers that fail: hang up, it is read again afterwards.
            if stream is not None and (isinstance(exc, StoreMismatch) or "is shutting down" in str(exc)):
                stream.end(exc)
            return
        if self._published is None and stream is not None:
            stream.end(Unavailable(diagnosis.publication_missing(self._names)))

    # --- what is wrong -------------------------------------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """What is wrong between the engine and Postgres, in words; None when all is well."""
        found = [str(one) for one in (self._trouble, self._catalog_trouble) if one is not None]
        if self._lost is not None and (left := self._to_backfill()):
            found.append(f"{self._lost} Start a backfill of the sinks whose health says so; there are {len(left)}.")
        return " ".join(found) or None

    def problem_of(self, sink: SinkResource) -> str | None:
        """What keeps rows from a sink, in words: the engine's trouble, lost changes, a table not published, a backfill that cannot read."""
        found = [str(self._trouble)] if self._trouble is not None else []
        if self._lost is not None and (left := self._to_backfill().get(sink.id)):
            found.append(describe_lost(self._lost, left))
        if self._published is not None:
            found += [str(self._absent[table]) for table in sink.source.include_tables or () if table in self._absent]
        if self._catalog_trouble is not None:
            found.append(str(self._catalog_trouble))
        if self._trouble is None and sink.id in self._backfills:
            found.append(str(self._backfills[sink.id]))
        return " ".join(found) or None

    def _to_backfill(self) -> dict[str, list[TableName]]:
        """Sinks that have not had a backfill since changes were lost; found anew when a backfill was added."""
        assert self._lost is not None  # noqa: S101
        backfills = self._catalog.backfills
        seen = (self._lost, len(backfills), next(reversed(backfills), None))
        if self._left is None or self._left[0] != seen:
            catalog = self._catalog
            left = to_backfill(self._lost, self._router.starts(), catalog.sinks, catalog.tables.values(), backfills.values())
            self._left = (seen, left)
        return self._left[1]

    async def _lose(self, start: int, end: int, reason: str) -> None:
        """Note for good that changes are lost, before anything moves on past them."""
        at = utc_now()
        if self._lost is not None and self._to_backfill():
            start = min(start, self._lost.start)
        begun = tuple(backfill.id for backfill in self._catalog.backfills.values() if backfill.inserted_at >= at)
        lost = LostRange(start, end, at, reason, begun)
        await self._write(self._store.set_meta, _LOST, lost.json())
        self._lost = lost
        log.error("%s Start backfills.", lost)

    def backfill_trouble(self, sink_id: str, table: TableName, exc: BaseException | None) -> str | None:
        """Note what keeps a sink's backfill from reading its table, or None once it goes on, and return it in words."""
        found = self.describe(exc, table) if exc is not None else None
        if found is None:
            self._backfills.pop(sink_id, None)
            return None
        if found != self._backfills.get(sink_id):
            self._backfills[sink_id] = found
            log.warning("a backfill is interrupted: %s", found)
        return str(found)

    def note_trouble(self, exc: BaseException) -> None:
        """Note what is wrong; the log tells once."""
        self._note(self.describe(exc))

    def _note(self, found: Trouble) -> None:
        if found != self._trouble:
            log.error("%s", found)
        self._trouble = found

    def describe(self, exc: BaseException, table: TableName | None = None) -> Trouble:
        """Return what an error means and what to do; `table` is the one that was read."""
        if isinstance(exc, StoreMismatch):
            return diagnosis.other_cluster(str(exc))
        if isinstance(exc, DatabaseUnavailable):
            return Trouble(exc.what, exc.remedy)
        if isinstance(exc, Unpublished):
            return diagnosis.publication_missing(self._names)
        if isinstance(exc, TimeoutError):
            return diagnosis.silent(self._names, self._config.silence)
        return diagnosis.of_error(str(exc) or type(exc).__name__, self._names, table)

    # --- the stream ----------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Check whose state this is, see to the slot, and start the stream where memory or the store says.

        Raises StoreMismatch, and psycopg's errors, OSError and DatabaseUnavailable for what may pass.
        """
        config = self._config
        self._published = await self._ask(lambda c: catalog_queries.published(c, config.publication))
        if self._published is None:
            raise Unavailable(diagnosis.publication_missing(self._names))
        await self._read_types()
        await asyncio.wait({self._follow_catalog()}, timeout=ASK_SECONDS)  # changes come without it, too
        self._left = None
        position = self.confirmed if self.stream is None else self.stream.progress.read
        await self._refuse_gone_back(position)
        await self._see_to_slot(position)
        if self.stream is None:
            acknowledged = await self._write(self._store.acknowledged)
            self.stream = Stream(Progress(self.confirmed), self._router, self._catalog.tables, self.types, acknowledged, self._on_watermark)
        connection = await self._open(replication=True)
        stream = SlotStream(
            connection,
            on_data=self._take,
            at_once=self.budget.at_once,
            on_keepalive=self.stream.progress.keepalive,
            on_unpublished=self._loss_is_known,
            silence=config.silence,
        )
        try:
            await self._within(ASK_SECONDS, connection, catalog_queries.take_any_bytes)
            await stream.start(
                catalog_queries.start_replication(config.slot, config.publication, self.stream.progress.read), self.confirmed
            )
        except BaseException:
            await stream.close()
            raise
        self._slot_stream = stream
        for watcher in self.stream.watchers:
            watcher.interrupt()
        self._trouble = None
        log.info("reading slot %s from LSN %s", config.slot, show_lsn(self.stream.progress.read))
        self._throttle()
        await self.look_at_slot()
        if self._knows_tables:
            self._on_connected()

    async def _refuse_gone_back(self, position: int) -> None:
        """Stop for good when the WAL ends before our position: Postgres would leave out all changes up to there without a word."""
        wal_end = await self._ask(catalog_queries.insert_lsn)
        if position > wal_end:
            await self._write(self._store.set_meta, _GONE_BACK, f"{show_lsn(position)} {show_lsn(wal_end)}")
        known = await self._write(self._store.meta, _GONE_BACK)  # the WAL grows past the position, and then nothing else would tell
        if known is not None:
            raise Unavailable(diagnosis.gone_back(*known.split()))

    async def _see_to_slot(self, position: int) -> None:
        """Make the slot when there is none or it cannot be read any more, and note what lies between our position and where it begins."""
        name = self._config.slot
        self.slot = slot = await self._ask(lambda c: catalog_queries.read_slot(c, name))
        gone: str | None = "the slot was dropped"
        if slot is not None:
            unfit = diagnosis.slot_unfit(self._names, plugin=slot.plugin, database=slot.database)
            if unfit is not None:
                raise Unavailable(unfit)
            if not slot.confirmed_lsn:
                raise Unavailable(diagnosis.slot_being_made(self._names))
            gone = await self._unreadable(slot, position)
            if gone is not None:
                await self._ask(lambda c: catalog_queries.drop_slot(c, name))
        if gone is not None:
            self._renewed = self._renewed or gone
        start = slot.confirmed_lsn if slot is not None and gone is None else await self._make_slot()
        reason = self._renewed or "the slot was moved on past the engine's position, or the engine's state is an older copy"
        self._renewed = None
        self._unpublished = False
        if start <= position:
            return
        if position:
            await self._lose(position, start, reason)
        if self.stream is not None:
            self.stream.start_over(start)
        else:
            await self._write(self._store.set_confirmed, start)
            self.confirmed = start

    async def _unreadable(self, slot: catalog_queries.SlotState, position: int) -> str | None:
        """Return why a slot cannot be read on, or None; what was committed without a publication is noted as lost when it can."""
        if slot.lost is not None:
            return f"the slot was invalidated: {slot.lost}"
        if not self._unpublished:
            return None
        wal_end = await self._ask(catalog_queries.insert_lsn)
        if self._admin is None or self._admin.info.server_version < _PASSES_UNPUBLISHED:
            return _NO_PUBLICATION
        await self._lose(position, wal_end, _NO_PUBLICATION)
        return None

    def _loss_is_known(self) -> bool:
        return self._lost is not None and self.stream is not None and self.stream.progress.read < self._lost.end

    async def _make_slot(self) -> int:
        """Create the slot, on a connection of its own: when that is hung up, Postgres still makes the slot once it can."""
        connection = await self._open()
        try:
            return await self._within(ASK_SECONDS, connection, lambda c: catalog_queries.create_slot(c, self._config.slot))
        except Unavailable:
            raise Unavailable(diagnosis.slot_being_made(self._names)) from None
        finally:
            await connection.close()

    async def run(self) -> None:
        """Keep the stream running; after it ended, connect again with growing pauses."""
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
            except _Troubles as exc:
                self._unpublished |= isinstance(exc, Unpublished)
                self.note_trouble(exc)
            except Exception as exc:
                self._note(Trouble(f"A change could not be handled: {exc}.", "Nothing after it is confirmed; see the engine's log."))
                log.exception("reading the slot has stopped; nothing after this change is confirmed")
            if self._slot_stream is not None:
                await self._slot_stream.close()
                self._slot_stream = None
                if clock() - since > SETTLED_SECONDS:
                    pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    def _take(self, payload: bytes) -> None:
        assert self.stream is not None  # noqa: S101
        try:
            self.stream.take(payload)
        except CatalogStale as stale:
            self._stale = True
            self._throttle()
            self._describing = asyncio.create_task(self._take_again(payload, stale))

    async def _take_again(self, payload: bytes, stale: CatalogStale) -> None:
        """Ask for what the stream does not say of a table, then go on; the catalog as a whole is read beside that."""
        stream, slot_stream = self.stream, self._slot_stream
        if stream is None or slot_stream is None:
            return
        try:
            if not stale.fits:
                self._follow_catalog()
            if stale.types_are_missing:
                await self._read_types()
            stream.take(payload, primary_key=await self._primary_key(stream, stale))
        except Exception as exc:
            slot_stream.end(exc)
            return
        finally:
            self._stale = False
        self._throttle()

    async def _primary_key(self, stream: Stream, stale: CatalogStale) -> Sequence[str]:
        """Return the table's primary key, where the stream does not tell it; the one known last when Postgres does not answer."""
        if not stale.key_is_missing:
            return ()
        try:
            return await self._ask(lambda c: catalog_queries.read_primary_key(c, stale.relation.oid))
        except _Troubles as exc:
            known = stream.last_key(stale.relation)
            if known is None:
                raise
            log.warning("the key of %s cannot be read, and is taken to be what it was: %s", stale, self.describe(exc))
            return known

    def _throttle(self) -> None:
        """Read the slot only while memory has not too much that is neither delivered nor in the store."""
        stream = self._slot_stream
        if stream is None:
            return
        if self._stale or self.budget.is_full:
            stream.pause()
        else:
            stream.resume()

    def confirm(self, lsn: int) -> None:
        """Tell Postgres that nothing before `lsn` is needed any more; the store has it already."""
        self.confirmed = lsn
        if self._slot_stream is not None:
            self._slot_stream.confirm(lsn)

    async def close(self) -> None:
        """Close both connections."""
        for task in (self._describing, self._looking, self._following, *self._catalog_readings):
            if task is not None:
                task.cancel()
        if self._slot_stream is not None:
            await self._slot_stream.close()
        if self._admin is not None:
            await self._admin.close()
