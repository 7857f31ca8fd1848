"""The Prometheus page: Sequin's metric names, read off plain counters when it is asked for. Nothing here runs on the delivery path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from userhooks.guard import HostGuard

if TYPE_CHECKING:
    from userhooks.engine.app import Engine

_SINK = ["consumer_id", "consumer_name"]


class EngineCollector(Collector):
    """Series of the sinks that have had traffic, and of the slot (names and labels: sequin-stream 0.14.6, recorded)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Build the families from the counters as they stand."""
        attempts = CounterMetricFamily("sequin_message_deliver_attempt_count", "Messages in delivery attempts.", labels=_SINK)
        successes = CounterMetricFamily("sequin_message_deliver_success_count", "Messages delivered.", labels=_SINK)
        failures = CounterMetricFamily("sequin_message_deliver_failure_count", "Messages in failed attempts.", labels=_SINK)
        buffered = GaugeMetricFamily("sequin_messages_buffered", "Messages not delivered yet.", labels=_SINK)
        redelivery = GaugeMetricFamily("sequin_messages_in_redelivery", "Messages waiting for another attempt.", labels=_SINK)
        for sink in self._engine.catalog.sinks.values():
            delivery = self._engine.delivery(sink.id)
            if not (delivery.attempted or delivery.pending):
                continue
            labels = [sink.id, sink.name]
            attempts.add_metric(labels, delivery.attempted)
            successes.add_metric(labels, delivery.delivered)
            failures.add_metric(labels, delivery.failed)
            buffered.add_metric(labels, delivery.pending)
            redelivery.add_metric(labels, delivery.retrying)
        yield from (attempts, successes, failures, buffered, redelivery)
        database = self._engine.catalog.database
        slot = self._engine.reader.slot
        if slot is not None:
            size = GaugeMetricFamily(
                "sequin_replication_slot_size",
                "WAL in bytes that the slot keeps.",
                labels=["replication_slot_id", "slot_name", "database_name"],
            )
            size.add_metric([database.slot_id, database.slot_name, database.name], slot.retained)
            yield size
        ingested = CounterMetricFamily(
            "sequin_messages_ingested_count", "Changes read from the slot.", labels=["replication_slot_id", "slot_name"]
        )
        ingested.add_metric([database.slot_id, database.slot_name], self._engine.changes)
        yield ingested


def metrics_app(engine: Engine) -> HostGuard:
    """Return the ASGI app of the metrics port: `/metrics`, nothing else."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    app = Starlette(routes=[Route("/metrics", metrics)])
    return HostGuard(app, [f"http://127.0.0.1:{engine.config.metrics_port}"])
