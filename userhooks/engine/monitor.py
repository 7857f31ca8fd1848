"""What can be seen of the running engine: counters, conditions, health, discarded messages. Nothing is changed here.

How health is put into words is in `sink_health.py`; the pages that show it are in `api/` and `console/`.
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
    """The engine as API, console and metrics page see it."""

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
        """Return the counters of a sink: pending, delivered, attempted, failed, retrying, last_error."""
        return self._deliveries[sink_id]

    async def discarded(self, sink_id: str, limit: int) -> list[Discarded]:
        """Return a sink's discarded messages, oldest first."""
        return await self._backlog.discarded(self._deliveries[sink_id], limit)

    def health(self, sink: SinkResource) -> dict[str, Any]:
        """Return the `health` object of a sink."""
        return health(self.condition(sink))

    def condition(self, sink: SinkResource) -> Condition:
        """Return what is known of a sink."""
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
        """Whether deliveries fail, messages were discarded, or something keeps changes from the sink."""
        delivery = self._deliveries[sink.id]
        return delivery.last_error is not None or bool(delivery.discarded) or self._health.problem_of(sink) is not None

    # --- the engine as a whole -----------------------------------------------------------------------------------------

    async def check_database(self) -> str | None:
        """Return None when Postgres answers, else what is wrong."""
        return await self._admin.check()

    @property
    def problem(self) -> str | None:
        """What is wrong between the engine and Postgres; None when all is well."""
        return self._health.problem

    @property
    def slot(self) -> SlotState | None:
        """The slot when Postgres was asked last; None when it did not answer."""
        return self._slot.state

    @property
    def changes(self) -> int:
        """Changes read from the slot since the start."""
        return self._reader.stream.changes if self._reader.stream is not None else 0

    @property
    def unsaved(self) -> int:
        """Pending messages that only memory has."""
        return self._reader.budget.waiting

    @property
    def store_bytes(self) -> int:
        """Bytes that the store takes on disk, its write-ahead log included."""
        path = self._store_path
        return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())
