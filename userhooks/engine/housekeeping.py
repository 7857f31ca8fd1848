"""Periodic work, done once a second or less often: slow receivers, histograms, rates, the garbage collector, the slot.

Flushes are in `flusher.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time

from userhooks.engine.capture.slot_reader import SlotReader
from userhooks.engine.delivery.deliveries import Deliveries
from userhooks.engine.delivery.latency_histogram import HistogramPool
from userhooks.engine.delivery.sink_history import BAR_SECONDS
from userhooks.engine.flusher import Flusher
from userhooks.engine.sink_registry import SinkRegistry

log = logging.getLogger(__name__)

_SECONDS = 1.0
STATUS_SECONDS = 10.0


async def keep_house(
    *, flusher: Flusher, registry: SinkRegistry, deliveries: Deliveries, latencies: HistogramPool, reader: SlotReader
) -> None:
    """Do one round of periodic work every second until cancelled."""
    last_status = last_sample = time.monotonic()
    while True:
        await asyncio.sleep(_SECONDS)
        now = time.monotonic()
        try:
            flusher.note_position(now)
            registry.freeze_new()
            latencies.sort()
            for delivery in deliveries.pending():
                delivery.notice_slowness()
            if now - last_sample > BAR_SECONDS - _SECONDS / 2:
                last_sample = now
                flusher.note_counts([counts async for counts in deliveries.sample()])
            if now - last_status > STATUS_SECONDS:
                last_status = now
                reader.check_slot()
        except Exception:
            log.exception("a round of housekeeping failed")
