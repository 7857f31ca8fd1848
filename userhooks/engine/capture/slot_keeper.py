"""The replication slot itself: made when it is missing, made anew when it cannot be read any more, looked at now and then.

What lies between the engine's position and where a slot begins is lost, and noted by `capture_health.py`. The stream is read in
`slot_reader.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.postgres import catalog_queries, diagnosis
from userhooks.engine.postgres.admin_connection import ASK_SECONDS, AdminConnection
from userhooks.engine.postgres.catalog_queries import SlotState
from userhooks.engine.postgres.diagnosis import Unavailable
from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.state_store import StateStore

_GONE_BACK = "gone_back"
_PASSES_UNPUBLISHED = 180_000  # Postgres 18 passes over changes from when the publication was missing; older ones break off there
_NO_PUBLICATION = "the publication did not exist when they were committed"


class SlotKeeper:
    """Keeps one slot; `write` runs a method of the store on its thread."""

    def __init__(
        self, name: str, admin: AdminConnection, health: CaptureHealth, store: StateStore, write: Callable[..., Awaitable[Any]]
    ) -> None:
        self.state: SlotState | None = None
        """the slot when Postgres was asked last; None when it did not answer"""
        self.was_unpublished = False
        """whether the stream broke off where the publication was missing"""
        self._name = name
        self._admin = admin
        self._health = health
        self._store = store
        self._write = write
        self._renewed: str | None = None
        """why the slot that is being made had to be made"""

    async def look(self) -> None:
        """Ask Postgres for the slot's state; raises CONNECTION_ERRORS."""
        self.state = await self._read()

    async def prepare(self, position: int) -> int | None:
        """Make the slot readable, and return the LSN at which it begins when that is behind `position`, else None.

        What lies in between is noted as lost, unless `position` is 0: then the engine begins. Raises CONNECTION_ERRORS.
        """
        await self._refuse_gone_back(position)
        self.state = slot = await self._read()
        gone: str | None = "the slot was dropped"
        if slot is not None:
            unfit = diagnosis.slot_unfit(self._admin.names, plugin=slot.plugin, database=slot.database)
            if unfit is not None:
                raise Unavailable(unfit)
            if not slot.confirmed_lsn:
                raise Unavailable(diagnosis.slot_being_made(self._admin.names))
            gone = await self._unreadable(slot, position)
            if gone is not None:
                await self._admin.ask_plainly(lambda c: catalog_queries.drop_slot(c, self._name))
        if gone is not None:
            self._renewed = self._renewed or gone
        start = slot.confirmed_lsn if slot is not None and gone is None else await self._make()
        reason = self._renewed or "the slot was moved on past the engine's position, or the engine's state is an older copy"
        self._renewed = None
        self.was_unpublished = False
        if start <= position:
            return None
        if position:
            await self._health.lose(position, start, reason)
        return start

    async def _read(self) -> SlotState | None:
        return await self._admin.ask_plainly(lambda c: catalog_queries.read_slot(c, self._name))

    async def _refuse_gone_back(self, position: int) -> None:
        """Stop for good when the WAL ends before our position: Postgres would leave out all changes up to there without a word."""
        wal_end = await self._admin.ask_plainly(catalog_queries.insert_lsn)
        if position > wal_end:
            await self._write(self._store.set_meta, _GONE_BACK, f"{show_lsn(position)} {show_lsn(wal_end)}")
        known = await self._write(self._store.meta, _GONE_BACK)  # the WAL grows past the position, and then nothing else would tell
        if known is not None:
            raise Unavailable(diagnosis.gone_back(*known.split()))

    async def _unreadable(self, slot: SlotState, position: int) -> str | None:
        """Return why a slot cannot be read on, or None; what was committed without a publication is noted as lost when it can."""
        if slot.lost is not None:
            return f"the slot was invalidated: {slot.lost}"
        if not self.was_unpublished:
            return None
        wal_end = await self._admin.ask_plainly(catalog_queries.insert_lsn)
        if self._admin.server_version < _PASSES_UNPUBLISHED:
            return _NO_PUBLICATION
        await self._health.lose(position, wal_end, _NO_PUBLICATION)
        return None

    async def _make(self) -> int:
        """Create the slot, on a separate connection: when that is hung up, Postgres still makes the slot once it can."""
        connection = await self._admin.open()
        try:
            return await self._admin.within(ASK_SECONDS, connection, lambda c: catalog_queries.create_slot(c, self._name))
        except Unavailable:
            raise Unavailable(diagnosis.slot_being_made(self._admin.names)) from None
        finally:
            await connection.close()
