"""The Prometheus page: Sequin's metric names, read off plain counters when it is asked for. Nothing here runs on the delivery path.

Names, kinds and labels are those of sequin 0.14.6 (recorded); what Sequin has no name for begins with `userhooks_`. The text is made
here because prometheus_client ends every counter's name in `_total`, which Sequin's do not have, and because it would take half a second
for 10,000 sinks, in a thread that the event loop then has to wait for. Here the page is made in the loop itself, in slices of less than a
millisecond, between which deliveries go on (`benchmarks/scrape.py` measures it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from userhooks.engine.delivery.latency_histogram import BOUNDS_US, Histogram
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.monitor import Monitor
from userhooks.engine.resources import Catalog
from userhooks.engine.sink_health import overall

T = TypeVar("T")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLICE = 50
"""Sinks between two turns of the event loop"""
OTHERS = {"consumer_id": "others", "consumer_name": "others"}
"""Labels of the histograms that all sinks without their own share"""

_PER_SINK: tuple[tuple[str, str, str, Callable[[SinkDelivery], float]], ...] = (
    ("sequin_message_deliver_attempt_count", "counter", "Messages in delivery attempts.", lambda d: d.attempted),
    ("sequin_message_deliver_success_count", "counter", "Messages delivered.", lambda d: d.delivered),
    ("sequin_message_deliver_failure_count", "counter", "Messages in failed attempts.", lambda d: d.failed),
    ("sequin_messages_buffered", "gauge", "Messages not delivered yet.", lambda d: d.queue.count),
    ("sequin_messages_in_redelivery", "gauge", "Messages waiting for another attempt.", lambda d: d.retrying),
    ("userhooks_oldest_message_age_seconds", "gauge", "Age of the oldest message that is being tried.", lambda d: _age(d)),
    ("userhooks_messages_discarded", "gauge", "Messages given up after the last attempt.", lambda d: d.discarded),
    ("userhooks_requests_repeated", "counter", "Requests sent again as a reused connection ended unanswered.", lambda d: d.repeated),
)
_HEALTH = {"error": "error", "paused": "paused"}
"""A sink's overall health -> the status of its entity; all others are ok"""


async def exposition(catalog: Catalog, monitor: Monitor) -> AsyncIterator[bytes]:
    """Yield the page in pieces, each made in less than a millisecond; every sink's figures are as they stand when its turn comes."""
    for part in (_sinks(catalog, monitor), _latencies(catalog, monitor)):
        async for piece in part:
            yield piece
            await asyncio.sleep(0)
    yield "".join(_engine(catalog, monitor)).encode()


async def _sinks(catalog: Catalog, monitor: Monitor) -> AsyncIterator[bytes]:
    """The series of sinks that have had traffic, and the health of all entities."""
    families: list[list[bytes]] = [[_head(name, kind, text)] for name, kind, text, _ in _PER_SINK]
    health = [_head("sequin_entity_health", "gauge", "1 for the present status of a sink or slot, 0 for the others.")]
    database = catalog.database
    slot = {"entity_type": "replication_slot", "entity_id": database.slot_id, "entity_name": database.slot_name}
    health.append("".join(_entity(slot, "ok" if monitor.problem is None else "error")).encode())
    for some in _slices(list(catalog.sinks), SLICE):
        await asyncio.sleep(0)
        labelled: list[tuple[str, SinkDelivery]] = []
        entities: list[str] = []
        for sink_id in some:
            sink = catalog.sinks.get(sink_id)
            if sink is None:
                continue
            delivery = monitor.delivery(sink_id)
            if delivery.attempted or delivery.queue.count:
                labelled.append((_labels({"consumer_id": sink.id, "consumer_name": sink.name}), delivery))
                labels = {"entity_type": "sink", "entity_id": sink.id, "entity_name": sink.name}
                entities += _entity(labels, _HEALTH.get(overall(monitor.condition(sink)), "ok"))
        for family, (name, _, _, figure) in zip(families, _PER_SINK, strict=True):
            family.append("".join([f"{name}{labels} {figure(delivery)}\n" for labels, delivery in labelled]).encode())
        health.append("".join(entities).encode())
    for family in (*families, health):
        for piece in family:
            yield piece


def _age(delivery: SinkDelivery) -> float:
    """Return 0 for a sink that is paused, too: nothing of it is tried."""
    return round(delivery.oldest_age(time.time()) or 0.0, 1) if delivery.queue.count and delivery.sink.status == "active" else 0.0


def _entity(labels: Mapping[str, str], present: str) -> Iterator[str]:
    opened = _labels(labels)[:-1]
    for status in ("ok", "warn", "error", "paused"):
        yield f'sequin_entity_health{opened},status="{status}"}} {int(status == present)}\n'


async def _latencies(catalog: Catalog, monitor: Monitor) -> AsyncIterator[bytes]:
    """The histograms of the sinks that have their own, and those of all others together."""
    sinks = catalog.sinks
    own = [({"consumer_id": i, "consumer_name": sinks[i].name}, of) for i, of in monitor.latencies.own.items() if i in sinks]
    all_of_them = [*own, (OTHERS, monitor.latencies.shared)]
    yield _head("sequin_delivery_latency_us", "histogram", "Time from a request to its answer, in microseconds.")
    for some in _slices(all_of_them, 10):
        lines: list[str] = []
        for labels, of in some:
            lines += _histogram("sequin_delivery_latency_us", {**labels, "success": "ok"}, of.succeeded)
            lines += _histogram("sequin_delivery_latency_us", {**labels, "success": "error"}, of.failed)
        yield "".join(lines).encode()
    yield _head("sequin_internal_latency_us", "histogram", "Time from a commit to its first request, in microseconds.")
    for some in _slices(all_of_them, 20):
        yield "".join([line for labels, of in some for line in _histogram("sequin_internal_latency_us", labels, of.internal)]).encode()


def _histogram(name: str, labels: Mapping[str, str], histogram: Histogram) -> Iterator[str]:
    totals = list(accumulate(histogram.counts))
    if not totals[-1]:
        return
    shown = _labels(labels)
    for bound, total in zip((*BOUNDS_US, "+Inf"), totals, strict=True):
        yield f'{name}_bucket{shown[:-1]},le="{bound}"}} {total}\n'
    yield f"{name}_count{shown} {totals[-1]}\n{name}_sum{shown} {histogram.sum}\n"


def _engine(catalog: Catalog, monitor: Monitor) -> Iterator[str]:
    """The slot, and the engine as a whole."""
    database = catalog.database
    labels = {"replication_slot_id": database.slot_id, "slot_name": database.slot_name}
    yield _one("sequin_messages_ingested_count", "counter", "Changes read from the slot.", labels, monitor.changes)
    yield _one("userhooks_messages_waiting", "gauge", "Messages that only memory has.", {}, monitor.unsaved)
    yield _one("userhooks_store_bytes", "gauge", "Bytes that the engine's state takes on disk.", {}, monitor.store_bytes)
    slot = monitor.slot
    if slot is not None:
        database_name = {"database_name": database.name}
        yield _one("sequin_replication_slot_size", "gauge", "WAL in bytes that the slot keeps.", labels | database_name, slot.retained)
        yield _one("userhooks_slot_lag_bytes", "gauge", "WAL in bytes behind which the confirmed position is.", labels, slot.lag)


def _one(name: str, kind: str, text: str, labels: Mapping[str, str], value: int) -> str:
    return f"{_head(name, kind, text).decode()}{name}{_labels(labels)} {value}\n"


def _head(name: str, kind: str, text: str) -> bytes:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _labels(labels: Mapping[str, str]) -> str:
    """Return labels in braces; backslash, quote and line break are escaped (Prometheus text format 0.0.4)."""
    if not labels:
        return ""
    pairs = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _slices(all_of_them: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(all_of_them)
    while some := list(islice(rest, size)):
        yield some


class Exposition(Response):
    """The page as an answer that is sent piece by piece. (StreamingResponse would begin with an import that takes 15 ms.)"""

    def __init__(self, catalog: Catalog, monitor: Monitor) -> None:
        super().__init__(media_type=CONTENT_TYPE)
        del self.headers["content-length"]
        self._catalog = catalog
        self._monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in exposition(self._catalog, self._monitor):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def metrics_route(catalog: Catalog, monitor: Monitor) -> Route:
    """Return the route of the page, `/metrics`."""

    async def metrics(_: Request) -> Response:
        return Exposition(catalog, monitor)

    return Route("/metrics", metrics)
