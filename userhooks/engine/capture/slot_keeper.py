"""Maintains the replication slot: creates it if it is missing, replaces it if it is unreadable, and checks its state.

Changes between the engine's position and the start of a new slot are lost; `capture_health.py` records the loss. The stream is read in
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
_SKIPS_UNPUBLISHED = 180_000
"""First server version that skips changes committed without a publication; older versions end the stream."""
_NO_PUBLICATION = "the publication did not exist when they were committed"


class SlotKeeper:
    """Maintains one slot; `write` runs a method of the store on the store's thread."""

    def __init__(
        self, name: str, admin: AdminConnection, health: CaptureHealth, store: StateStore, write: Callable[..., Awaitable[Any]]
    ) -> None:
        self.state: SlotState | None = None
        """The slot's state at the last check; None if Postgres did not answer."""
        self.was_unpublished = False
        """Whether the stream ended because the publication was missing."""
        self._name = name
        self._admin = admin
        self._health = health
        self._store = store
        self._write = write
        self._renewed: str | None = None
        """The reason for creating a new slot, kept until the slot exists."""

    async def check(self) -> None:
        """Update `state` from Postgres; raises CONNECTION_ERRORS."""
        self.state = await self._read()

    async def prepare(self, position: int) -> int | None:
        """Make sure that the slot is readable; return the LSN at which it starts if that is after `position`, else None.

        The changes in between are recorded as lost, unless `position` is 0, which means that the engine has not read anything yet.
        Raises CONNECTION_ERRORS.
        """
        await self._refuse_gone_back(position)
        self.state = slot = await self._read()
        defect: str | None = "the slot was dropped"
        if slot is not None:
            unfit = diagnosis.slot_unfit(self._admin.names, plugin=slot.plugin, database=slot.database)
            if unfit is not None:
                raise Unavailable(unfit)
            if not slot.confirmed_lsn:
                raise Unavailable(diagnosis.slot_being_made(self._admin.names))
            defect = await self._unreadable(slot, position)
            if defect is not None:
                await self._admin.ask_plainly(lambda c: catalog_queries.drop_slot(c, self._name))
        if defect is not None:
            self._renewed = self._renewed or defect
        start = slot.confirmed_lsn if slot is not None and defect is None else await self._make()
        reason = self._renewed or "the slot was advanced past the engine's position, or the engine's state is an older copy"
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
        """Raise Unavailable if the WAL ends before the engine's position, or did so in an earlier call.

        Postgres would silently skip all changes up to that position.
        """
        wal_end = await self._admin.ask_plainly(catalog_queries.insert_lsn)
        if position > wal_end:
            await self._write(self._store.set_meta, _GONE_BACK, f"{show_lsn(position)} {show_lsn(wal_end)}")
        # The WAL grows past the position eventually; after that, only this note in the store reveals what happened.
        note = await self._write(self._store.meta, _GONE_BACK)
        if note is not None:
            raise Unavailable(diagnosis.gone_back(*note.split()))

    async def _unreadable(self, slot: SlotState, position: int) -> str | None:
        """Return why the slot must be replaced, or None if it can still be read.

        In the latter case, changes that were committed without a publication are recorded as lost.
        """
        if slot.lost is not None:
            return f"the slot was invalidated: {slot.lost}"
        if not self.was_unpublished:
            return None
        wal_end = await self._admin.ask_plainly(catalog_queries.insert_lsn)
        if self._admin.server_version < _SKIPS_UNPUBLISHED:
            return _NO_PUBLICATION
        await self._health.lose(position, wal_end, _NO_PUBLICATION)
        return None

    async def _make(self) -> int:
        """Create the slot on a separate connection, and return its start LSN.

        If the time limit closes the connection, Postgres still finishes creating the slot.
        """
        connection = await self._admin.open()
        try:
            return await self._admin.within(ASK_SECONDS, connection, lambda c: catalog_queries.create_slot(c, self._name))
        except Unavailable:
            raise Unavailable(diagnosis.slot_being_made(self._admin.names)) from None
        finally:
            await connection.close()
