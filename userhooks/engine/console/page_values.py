"""Gathers the values that the console's pages show. `html.py` defines the values and renders the pages.

There may be 10,000 sinks, so the overview ranks them in slices, between which deliveries continue.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from heapq import nsmallest
from itertools import islice

from userhooks.engine.console import html
from userhooks.engine.console.html import OpenedMessage, Overview, SinkDetail, SinkRow, Slot
from userhooks.engine.console.json_view import pieces
from userhooks.engine.console.rate_chart import rate_chart
from userhooks.engine.console.recent_messages import RecentMessage, body, recent_messages
from userhooks.engine.console.sink_settings import full_url, masked_url, settings, user_of
from userhooks.engine.delivery.sink_history import KEPT_BYTES
from userhooks.engine.monitor import Monitor
from userhooks.engine.resources import Catalog, SinkResource
from userhooks.engine.sink_functions import sink_form
from userhooks.engine.sink_health import health

SLICE = 200
"""Number of sinks to rank before yielding to the event loop."""
SHOWN_MESSAGES = 2_000
"""Number of recently shown messages, across all sinks, that can still be opened and redelivered; a busy sink's history loses a message
within a second."""
_RANKS = {state: rank for rank, state in enumerate(html.STATES)}


class PageValues:
    """The values of the pages of one engine."""

    def __init__(self, catalog: Catalog, monitor: Monitor) -> None:
        self.catalog = catalog
        self.monitor = monitor
        self._shown: OrderedDict[tuple[str, str], RecentMessage] = OrderedDict()

    # --- the overview --------------------------------------------------------------------------------------------------

    async def overview(self, find: str, state: str) -> Overview:
        """Return the engine's values, and the first of the sinks in `state` (empty for any) whose names or users contain `find`."""
        monitor, sinks = self.monitor, self.catalog.sinks
        shown, states = await self._rank(find.lower(), state)
        slot = monitor.slot
        backfills = list(reversed(self.catalog.backfills.values()))
        backfills.sort(key=lambda backfill: backfill.state != "active")
        return Overview(
            problem=monitor.problem,
            slot=Slot(self.catalog.database.slot_name, slot.retained if slot else None, slot.lag if slot else None),
            changes=monitor.changes,
            store_bytes=monitor.store_bytes,
            find=find,
            state=state,
            sinks=[row async for row in self._rows(shown)],
            states=states,
            total=len(sinks),
            backfills=[
                (sinks[backfill.sink_id].name, backfill) for backfill in backfills[: html.SHOWN_BACKFILLS] if backfill.sink_id in sinks
            ],
        )

    async def _rank(self, find: str, wanted: str) -> tuple[list[SinkResource], Counter[str]]:
        """Return the sinks to show, and the number of sinks that match `find`, by state.

        Sinks are sorted by state, in the order of `html.STATES`, and within a state by the number of pending messages, highest first.
        """
        sinks = self.catalog.sinks
        first: list[tuple[int, int, str, str]] = []
        states: Counter[str] = Counter()
        ids = iter(list(sinks))
        while batch := list(islice(ids, SLICE)):
            ranked = []
            for sink in (sinks[sink_id] for sink_id in batch if sink_id in sinks):
                if find in sink.name.lower() or find in (user_of(sink) or "").lower():
                    state = self.state(sink)
                    states[state] += 1
                    if wanted in ("", state):
                        ranked.append((_RANKS[state], -self.monitor.delivery(sink.id).queue.count, sink.name, sink.id))
            first = nsmallest(html.SHOWN_SINKS, first + ranked)
            await asyncio.sleep(0)
        return [sinks[sink_id] for _, _, _, sink_id in first if sink_id in sinks], states

    def state(self, sink: SinkResource) -> str:
        """Return the state of a sink, one of `html.STATES`."""
        if sink.status != "active":
            return sink.status
        if self.monitor.is_failing(sink):
            return "failing"
        delivery = self.monitor.delivery(sink.id)
        if delivery.queue.retries:
            return "retrying"
        return "healthy" if delivery.queue.count or delivery.is_active else "idle"

    async def _rows(self, shown: Sequence[SinkResource]) -> AsyncIterator[SinkRow]:
        for sink in shown:
            if sink.id in self.catalog.sinks:  # a sink may be deleted between two rows
                yield self.row(sink)
                await asyncio.sleep(0)

    def row(self, sink: SinkResource) -> SinkRow:
        """Return a sink's row of the overview, which its page shows as well."""
        delivery, condition = self.monitor.delivery(sink.id), self.monitor.condition(sink)
        return SinkRow(
            id=sink.id,
            name=sink.name,
            user=user_of(sink),
            url=masked_url(sink, self.catalog.endpoints[sink.endpoint_id])[0],
            status=sink.status,
            state=self.state(sink),
            pending=delivery.queue.count,
            failing=delivery.retrying,
            delivered=delivery.delivered,
            discarded=delivery.discarded,
            last_error=condition.delivery_error or condition.problem,
            oldest=delivery.oldest_age(time.time()),
            chart=rate_chart(delivery.rates()),
        )

    # --- a sink --------------------------------------------------------------------------------------------------------

    async def detail(self, sink: SinkResource, *, opened_id: str, shows_url: bool) -> SinkDetail:
        """Return the values of a sink's page, with the body of the message `opened_id` if it is known."""
        delivery = self.monitor.delivery(sink.id)
        discarded = await self.monitor.discarded(sink.id, html.SHOWN_DISCARDED) if delivery.discarded else []
        endpoint = self.catalog.endpoints[sink.endpoint_id]
        backfills = [backfill for backfill in reversed(self.catalog.backfills.values()) if backfill.sink_id == sink.id]
        messages = recent_messages(delivery.attempts())
        self._remember(sink, messages)
        return SinkDetail(
            row=self.row(sink),
            attempted=delivery.attempted,
            failed=delivery.failed,
            counted_since=delivery.counted_since,
            full_url=full_url(sink, endpoint) if shows_url else None,
            is_masked=masked_url(sink, endpoint)[1],
            messages=messages,
            opened_id=opened_id,
            opened=self._opened(sink, opened_id),
            checks=health(self.monitor.condition(sink))["checks"],
            settings=settings(sink, endpoint),
            discarded=discarded,
            backfills=backfills[: html.SHOWN_BACKFILLS],
        )

    def _remember(self, sink: SinkResource, messages: Iterable[RecentMessage]) -> None:
        shown = self._shown
        for message in messages:
            shown[sink.id, message.id] = message
            shown.move_to_end((sink.id, message.id))
        while len(shown) > SHOWN_MESSAGES:
            shown.popitem(last=False)

    def message(self, sink: SinkResource, message_id: str) -> RecentMessage | None:
        """Return a message that a page has shown; None if that was too long ago."""
        return self._shown.get((sink.id, message_id))

    def _opened(self, sink: SinkResource, message_id: str) -> OpenedMessage | None:
        message = self.message(sink, message_id)
        if message is None:
            return None
        try:
            text = body(message, sink_form(sink, self.catalog), batch=sink.batch)
        except Exception as exc:  # a transform may raise anything
            return OpenedMessage(message, (), f"The sink's current settings cannot render this message: {exc}")
        if text is None:
            return OpenedMessage(message, (), f"The body is not kept, because the row is larger than {KEPT_BYTES // 1000} kB.")
        return OpenedMessage(message, list(pieces(text)), None)
