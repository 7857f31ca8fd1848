"""The deliveries of all sinks. One sink's delivery is in `sink_delivery.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import islice

from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.state_store import SinkCounts

DRAIN_SECONDS = 1.0
"""Seconds that shutdown waits for responses."""
_POLL_SECONDS = 0.01
_SLICE = 500
"""Number of sinks to sample before yielding to the event loop."""


class Deliveries(dict[str, SinkDelivery]):
    """The deliveries by sink id; `sink_registry.py` adds and removes them."""

    def pending(self) -> list[SinkDelivery]:
        """Return the deliveries with pending messages. Usually these are few; skipping the rest of ten thousand sinks saves 20 ms."""
        return [delivery for delivery in self.values() if delivery.queue.count]

    async def sample(self) -> AsyncIterator[SinkCounts]:
        """Sample the rates of all sinks, and yield the counters that have changed since the last sample."""
        deliveries = iter(list(self.values()))
        while batch := list(islice(deliveries, _SLICE)):
            now = time.time()
            for delivery in batch:
                if (counts := delivery.sample(now)) is not None:
                    yield counts
            await asyncio.sleep(0)

    async def drain(self) -> None:
        """Stop sending, and wait briefly for the responses to requests in flight, which would otherwise be sent again after a restart."""
        for delivery in self.values():
            delivery.hold()
        in_flight = self.pending()
        clock = asyncio.get_running_loop().time
        until = clock() + DRAIN_SECONDS
        while any(delivery.in_flight for delivery in in_flight) and clock() < until:  # noqa: ASYNC110  # only briefly, at shutdown
            await asyncio.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Stop all timers."""
        for delivery in self.values():
            delivery.close()
