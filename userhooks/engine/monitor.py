"""A read-only view of the running engine: counters, conditions, health, discarded messages.

`sink_health.py` builds the health objects; `api/` and `console/` show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from userhooks.engine.capture.capture_health import CaptureHealth
from userhooks.engine.capture.slot_keeper import SlotKeeper
from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.delivery.disk_backlog import Backlog
from userhooks.engine.delivery.latency_histogram import HistogramPool
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.flusher import Flusher
from userhooks.engine.postgres.admin_connection import AdminConnection
from userhooks.engine.postgres.catalog_queries import SlotState
from userhooks.engine.resources import Catalog, Discarded, SinkResource
from userhooks.engine.sink_health import Condition, health, partly_recorded


class Monitor:
    """The engine as the API, the console, and the metrics page see it."""

    def __init__(
        self,
        catalog: Catalog,
        deliveries: Mapping[str, SinkDelivery],
        *,
        admin: AdminConnection,
        health: CaptureHealth,
        slot: SlotKeeper,
        reader: SlotReader,
        flusher: Flusher,
        backlog: Backlog,
        latencies: HistogramPool,
        store_path: Path,
    ) -> None:
        self.latencies = latencies
        self._catalog = catalog
        self._deliveries = deliveries
        self._admin = admin
        self._health = health
        self._slot = slot
        self._reader = reader
        self._flusher = flusher
        self._backlog = backlog
        self._store_path = store_path

    # --- one sink ------------------------------------------------------------------------------------------------------

    def delivery(self, sink_id: str) -> SinkDelivery:
        """Return a sink's delivery, which has its counters: delivered, attempted, failed, discarded, retrying, last_error."""
        return self._deliveries[sink_id]

    async def discarded(self, sink_id: str, limit: int) -> list[Discarded]:
        """Return a sink's discarded messages, oldest first."""
        return await self._backlog.discarded(self._deliveries[sink_id], limit)

    def health(self, sink: SinkResource) -> dict[str, Any]:
        """Return the `health` object of a sink."""
        return health(self.condition(sink))

    def condition(self, sink: SinkResource) -> Condition:
        """Return the state from which a sink's health is derived."""
        delivery = self._deliveries[sink.id]
        tried = delivery.delivered + delivery.failed > 0
        return Condition(
            status=sink.status,
            reached=tried or delivery.queue.count > 0,
            tried=tried,
            moved=delivery.delivered > 0,
            notice=partly_recorded(sink, self._catalog.tables),
            problem=self._health.problem_of(sink) or self._flusher.problem,
            error=sink.paused_because or delivery.last_error,
            discarded=delivery.discarded,
        )

    def is_failing(self, sink: SinkResource) -> bool:
        """Return whether deliveries are failing, messages were discarded, or a problem keeps changes from reaching the sink."""
        delivery = self._deliveries[sink.id]
        return delivery.last_error is not None or bool(delivery.discarded) or self._health.problem_of(sink) is not None

    # --- the engine as a whole -----------------------------------------------------------------------------------------

    async def check_database(self) -> str | None:
        """Return what is wrong with the database; None if Postgres answers."""
        return await self._admin.check()

    @property
    def problem(self) -> str | None:
        """The problem between the engine and Postgres; None if there is none."""
        return self._health.problem

    @property
    def slot(self) -> SlotState | None:
        """The slot as of the last query; None if Postgres did not answer."""
        return self._slot.state

    @property
    def changes(self) -> int:
        """Number of changes read from the slot since the engine started."""
        return self._reader.stream.changes if self._reader.stream is not None else 0

    @property
    def unsaved(self) -> int:
        """Number of pending messages that are only in memory."""
        return self._reader.budget.waiting

    @property
    def store_bytes(self) -> int:
        """Size of the store on disk in bytes, including its write-ahead log."""
        path = self._store_path
        return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())
