"""Prometheus metrics, under Sequin's names. They are computed from plain counters at each scrape, off the delivery path.

Names, types, and labels are as recorded from Sequin 0.14.6. Metrics that Sequin does not have start with `userhooks_`.

This module does not use prometheus_client, for two reasons. That library adds `_total` to counter names, which Sequin's names lack. And
for 10,000 sinks, it takes half a second in a thread that blocks the event loop. Here the event loop itself generates the response, in
slices of under a millisecond, between which deliveries continue (measured by `benchmarks/scrape.py`).
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
"""Number of sinks to process before yielding to the event loop."""
OTHERS = {"consumer_id": "others", "consumer_name": "others"}
"""Labels of the shared histograms, for sinks without separate ones."""

_PER_SINK: tuple[tuple[str, str, str, Callable[[SinkDelivery], float]], ...] = (
    ("sequin_message_deliver_attempt_count", "counter", "Messages in delivery attempts.", lambda d: d.attempted),
    ("sequin_message_deliver_success_count", "counter", "Messages delivered.", lambda d: d.delivered),
    ("sequin_message_deliver_failure_count", "counter", "Messages in failed attempts.", lambda d: d.failed),
    ("sequin_messages_buffered", "gauge", "Messages not delivered yet.", lambda d: d.queue.count),
    ("sequin_messages_in_redelivery", "gauge", "Messages waiting for a retry.", lambda d: d.retrying),
    ("userhooks_oldest_message_age_seconds", "gauge", "Age of the oldest pending message; 0 while the sink is paused.", lambda d: _age(d)),
    ("userhooks_messages_discarded", "gauge", "Messages discarded after the last attempt.", lambda d: d.discarded),
    ("userhooks_requests_repeated", "counter", "Requests resent after a reused connection closed unanswered.", lambda d: d.repeated),
)
_HEALTH = {"error": "error", "paused": "paused"}
"""Entity status by the overall health of a sink; any other health maps to `ok`."""


async def exposition(catalog: Catalog, monitor: Monitor) -> AsyncIterator[bytes]:
    """Yield the response in chunks, each generated in under a millisecond. Sinks are read one slice at a time, not all at once."""
    for part in (_sinks(catalog, monitor), _latencies(catalog, monitor)):
        async for chunk in part:
            yield chunk
            await asyncio.sleep(0)
    yield "".join(_engine(catalog, monitor)).encode()


async def _sinks(catalog: Catalog, monitor: Monitor) -> AsyncIterator[bytes]:
    """Yield the metrics and the health of sinks with traffic, and the health of the slot."""
    families: list[list[bytes]] = [[_head(name, kind, text)] for name, kind, text, _ in _PER_SINK]
    health = [_head("sequin_entity_health", "gauge", "1 for the current status of a sink or slot, 0 for the others.")]
    database = catalog.database
    slot = {"entity_type": "replication_slot", "entity_id": database.slot_id, "entity_name": database.slot_name}
    health.append("".join(_entity(slot, "ok" if monitor.problem is None else "error")).encode())
    for sink_ids in _slices(list(catalog.sinks), SLICE):
        await asyncio.sleep(0)
        labelled: list[tuple[str, SinkDelivery]] = []
        entities: list[str] = []
        for sink_id in sink_ids:
            sink = catalog.sinks.get(sink_id)
            if sink is None:
                continue
            delivery = monitor.delivery(sink_id)
            if delivery.attempted or delivery.queue.count:
                labelled.append((_labels({"consumer_id": sink.id, "consumer_name": sink.name}), delivery))
                labels = {"entity_type": "sink", "entity_id": sink.id, "entity_name": sink.name}
                entities += _entity(labels, _HEALTH.get(overall(monitor.condition(sink)), "ok"))
        for family, (name, _, _, value) in zip(families, _PER_SINK, strict=True):
            family.append("".join([f"{name}{labels} {value(delivery)}\n" for labels, delivery in labelled]).encode())
        health.append("".join(entities).encode())
    for family in (*families, health):
        for chunk in family:
            yield chunk


def _age(delivery: SinkDelivery) -> float:
    return round(delivery.oldest_age(time.time()) or 0.0, 1) if delivery.queue.count and delivery.sink.status == "active" else 0.0


def _entity(labels: Mapping[str, str], current: str) -> Iterator[str]:
    open_labels = _labels(labels)[:-1]
    for status in ("ok", "warn", "error", "paused"):
        yield f'sequin_entity_health{open_labels},status="{status}"}} {int(status == current)}\n'


async def _latencies(catalog: Catalog, monitor: Monitor) -> AsyncIterator[bytes]:
    """Yield the latency histograms: those of sinks with separate ones, then the shared ones."""
    sinks = catalog.sinks
    separate = [
        ({"consumer_id": sink_id, "consumer_name": sinks[sink_id].name}, latencies)
        for sink_id, latencies in monitor.latencies.own.items()
        if sink_id in sinks
    ]
    series = [*separate, (OTHERS, monitor.latencies.shared)]
    yield _head("sequin_delivery_latency_us", "histogram", "Time from a request to its response, in microseconds.")
    for part in _slices(series, 10):
        lines: list[str] = []
        for labels, latencies in part:
            lines += _histogram("sequin_delivery_latency_us", {**labels, "success": "ok"}, latencies.succeeded)
            lines += _histogram("sequin_delivery_latency_us", {**labels, "success": "error"}, latencies.failed)
        yield "".join(lines).encode()
    yield _head("sequin_internal_latency_us", "histogram", "Time from a commit to its first request, in microseconds.")
    for part in _slices(series, 20):
        lines = []
        for labels, latencies in part:
            lines += _histogram("sequin_internal_latency_us", labels, latencies.internal)
        yield "".join(lines).encode()


def _histogram(name: str, labels: Mapping[str, str], histogram: Histogram) -> Iterator[str]:
    totals = list(accumulate(histogram.counts))
    if not totals[-1]:
        return
    label_text = _labels(labels)
    for bound, total in zip((*BOUNDS_US, "+Inf"), totals, strict=True):
        yield f'{name}_bucket{label_text[:-1]},le="{bound}"}} {total}\n'
    yield f"{name}_count{label_text} {totals[-1]}\n{name}_sum{label_text} {histogram.sum}\n"


def _engine(catalog: Catalog, monitor: Monitor) -> Iterator[str]:
    """Yield the metrics of the slot and of the engine as a whole."""
    database = catalog.database
    labels = {"replication_slot_id": database.slot_id, "slot_name": database.slot_name}
    yield _metric("sequin_messages_ingested_count", "counter", "Changes read from the slot.", labels, monitor.changes)
    yield _metric("userhooks_messages_waiting", "gauge", "Messages in memory that are not in the store.", {}, monitor.unsaved)
    yield _metric("userhooks_store_bytes", "gauge", "Size of the engine's store on disk, in bytes.", {}, monitor.store_bytes)
    slot = monitor.slot
    if slot is not None:
        database_name = {"database_name": database.name}
        yield _metric("sequin_replication_slot_size", "gauge", "WAL retained by the slot, in bytes.", labels | database_name, slot.retained)
        yield _metric("userhooks_slot_lag_bytes", "gauge", "Bytes of WAL after the slot's confirmed position.", labels, slot.lag)


def _metric(name: str, kind: str, text: str, labels: Mapping[str, str], value: int) -> str:
    return f"{_head(name, kind, text).decode()}{name}{_labels(labels)} {value}\n"


def _head(name: str, kind: str, text: str) -> bytes:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _labels(labels: Mapping[str, str]) -> str:
    """Return labels in braces, with backslashes, quotes, and line breaks escaped (Prometheus text format 0.0.4)."""
    if not labels:
        return ""
    pairs = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _slices(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


class Exposition(Response):
    """The metrics as a streamed response.

    Starlette's StreamingResponse is not used because it imports a module at the first scrape, which takes 15 ms.
    """

    def __init__(self, catalog: Catalog, monitor: Monitor) -> None:
        super().__init__(media_type=CONTENT_TYPE)
        del self.headers["content-length"]
        self._catalog = catalog
        self._monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in exposition(self._catalog, self._monitor):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def metrics_route(catalog: Catalog, monitor: Monitor) -> Route:
    """Return the route of `/metrics`."""

    async def metrics(_: Request) -> Response:
        return Exposition(catalog, monitor)

    return Route("/metrics", metrics)
