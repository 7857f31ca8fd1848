"""The deliveries of all sinks, by sink id: which have pending messages, and how they stop. One sink's delivery is in `sink_delivery.py`."""

from __future__ import annotations

import asyncio

from userhooks.engine.delivery.sink_delivery import SinkDelivery

DRAIN_SECONDS = 1.0
"""Time that a stop waits for answers"""
_POLL_SECONDS = 0.01


class Deliveries(dict[str, SinkDelivery]):
    """Sink id -> delivery; `sink_registry.py` adds and removes."""

    def pending(self) -> list[SinkDelivery]:
        """Return the deliveries with pending messages: few of ten thousand, and skipping the others saves 20 ms."""
        return [delivery for delivery in self.values() if delivery.queue.count]

    async def drain(self) -> None:
        """Send nothing more, and wait briefly for the answers to requests in flight: without them the messages would be sent again."""
        for delivery in self.values():
            delivery.hold()
        in_flight = self.pending()
        clock = asyncio.get_running_loop().time
        until = clock() + DRAIN_SECONDS
        while any(delivery.in_flight for delivery in in_flight) and clock() < until:  # noqa: ASYNC110  # at the end only, and briefly
            await asyncio.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Stop all timers."""
        for delivery in self.values():
            delivery.close()
