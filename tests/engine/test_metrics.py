"""The metrics page as Prometheus reads it: Sequin's names, types, and labels, and only sinks that have had traffic."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.engine.api.prometheus import exposition
from userhooks.engine.engine import Engine
from userhooks.engine.resources import HttpEndpoint, SinkResource
from userhooks.engine.startup import Config

RECORDED = Path(__file__).parents[1] / "recordings" / "0.14.6" / "metrics-page.txt"


def page(engine: EngineProgram) -> str:
    answer = httpx.get(f"http://127.0.0.1:{engine.config['metrics_port']}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


def kinds(text: str) -> dict[str, str]:
    """Return the type of each metric, as the page declares it."""
    lines = [line.split(" ") for line in text.splitlines() if line.startswith("# TYPE ")]
    return {name: kind for _, _, name, kind in lines}


def families(text: str) -> list[Metric]:
    """Parse the page with prometheus_client; counters are passed as untyped, or the parser would add `_total` to their names."""
    return list(text_string_to_metric_families(text.replace(" counter\n", " untyped\n")))


def labels_of(text: str) -> dict[str, set[frozenset[str]]]:
    """Return the sets of label names of each sample name."""
    labels: dict[str, set[frozenset[str]]] = {}
    for family in families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).add(frozenset(sample.labels))
    return labels


def samples_of(text: str, sink: str) -> dict[str, float]:
    return {s.name: s.value for f in families(text) for s in f.samples if s.labels.get("consumer_name") == sink}


def health_of(text: str, name: str) -> dict[str, float]:
    samples = [s for f in families(text) for s in f.samples if s.labels.get("entity_name") == name]
    return {s.labels["status"]: s.value for s in samples}


def test_attempts_and_outcomes_are_counted_by_sink(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    receiver.script = lambda *_: 500 if not receiver.requests else 200
    engine.user_sink(1, receiver.url)
    engine.sink("quiet", receiver.url + "/quiet", status="disabled")
    database.execute("insert into notifications (user_id, message) values (1, 'x')")
    receiver.wait_for(1)
    eventually(lambda: samples_of(page(engine), "user-1").get("sequin_message_deliver_success_count") == 1)
    text = page(engine)
    samples = samples_of(text, "user-1")
    assert samples["sequin_message_deliver_attempt_count"] == 2
    assert samples["sequin_message_deliver_failure_count"] == 1
    assert samples["sequin_messages_buffered"] == samples["sequin_messages_in_redelivery"] == samples["userhooks_messages_discarded"] == 0
    assert samples_of(text, "quiet") == {}


def test_the_oldest_message_that_is_tried_grows_older_until_it_arrives(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    def ages() -> list[float]:
        text = page(engine)
        return [samples_of(text, sink).get("userhooks_oldest_message_age_seconds", -1) for sink in ("user-1", "user-2", "user-3")]

    receiver.script = lambda path, _: 503 if path == "/failing" else 200
    engine.user_sink(1, receiver.url)
    engine.user_sink(2, f"{receiver.url}/failing")
    engine.user_sink(3, receiver.url, status="paused")
    database.execute("insert into notifications (user_id, message) select n, 'x' from generate_series(1, 3) n")
    eventually(lambda: (now := ages())[1] > 1 and now[0] == now[2] == 0, what="only the failing sink to have an age")
    receiver.script = lambda *_: 200
    eventually(lambda: ages() == [0, 0, 0], what="no retrying messages")


def test_names_kinds_and_labels_are_the_recorded_ones(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url)
    database.execute("insert into notifications (user_id, message) values (1, 'x')")
    receiver.wait_for(1)
    eventually(lambda: "sequin_replication_slot_size{" in page(engine), within=15)
    text, recorded = page(engine), RECORDED.read_text()
    ours = {name: kind for name, kind in kinds(text).items() if not name.startswith("userhooks_")}
    assert ours.items() <= kinds(recorded).items()
    assert len(ours) >= 8
    assert {"userhooks_slot_lag_bytes", "userhooks_messages_waiting", "userhooks_store_bytes"} <= kinds(text).keys()
    assert next(s.value for f in families(text) for s in f.samples if s.name == "userhooks_store_bytes") > 4096
    recorded_labels = labels_of(recorded)
    for name, labels in labels_of(text).items():
        assert name.startswith("userhooks_") or name not in recorded_labels or labels == recorded_labels[name], name


def test_each_entity_has_four_series_one_of_them_set(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    receiver.script = lambda path, _: 500 if path == "/bad" else 200
    for name in ("good", "bad", "held", "idle"):
        engine.sink(name, f"{receiver.url}/{name}")
    engine.ask("PATCH", "/api/sinks/held", {"status": "paused"})
    engine.ask("PATCH", "/api/sinks/idle", {"status": "disabled"})
    database.execute("insert into notifications (user_id, message) values (1, 'x')")
    expected = {"good": "ok", "bad": "error", "held": "paused", engine.config["slot"]: "ok"}

    def as_expected() -> bool:
        text = page(engine)
        return all(
            health_of(text, name) == {label: float(label == status) for label in ("ok", "warn", "error", "paused")}
            for name, status in expected.items()
        )

    eventually(as_expected)
    assert health_of(page(engine), "idle") == {}


def test_the_metrics_port_has_nothing_else_and_the_api_port_no_metrics(engine: EngineProgram) -> None:
    assert httpx.get(f"http://127.0.0.1:{engine.config['metrics_port']}/").status_code == 404
    assert httpx.get(engine.url + "/metrics").status_code == 404


def offline_page(folder: Path, sinks: int, name: str = "user-{}") -> str:
    """Return the page of an engine without Postgres whose sinks have had traffic: one fast success and one slow failure each."""

    async def read() -> str:
        engine = Engine(Config(0, 0, "token", "postgresql://127.0.0.1:1/none", folder / "engine.db"))
        engine.catalog.endpoints["e"] = HttpEndpoint("e", "e", "http", "127.0.0.1", 1)
        for n in range(sinks):
            sink = SinkResource(str(n), name.format(n), "e", status="disabled")
            engine.catalog.sinks[sink.id] = sink
            engine.registry.put_in_force(sink, n, engine.catalog.endpoints["e"])
            engine.monitor.delivery(sink.id).attempted = 2
            latencies = engine.monitor.latencies.of(sink.id)
            latencies.succeeded.observe(2_000)
            latencies.failed.observe(60_000_000)
            latencies.internal.observe(90_000)
        page = b"".join([piece async for piece in exposition(engine.catalog, engine.monitor)]).decode()
        await engine.close()
        return page

    with ThreadPoolExecutor(1) as pool:  # This thread may already be running Playwright's event loop.
        return pool.submit(asyncio.run, read()).result()


def test_histograms_have_the_recorded_buckets_and_labels(tmp_path: Path) -> None:
    text, recorded = offline_page(tmp_path, 1), RECORDED.read_text()
    for name in ("sequin_delivery_latency_us", "sequin_internal_latency_us"):
        assert kinds(text)[name] == kinds(recorded)[name] == "histogram"
        for suffix in ("_bucket", "_sum", "_count"):
            assert labels_of(text)[name + suffix] == labels_of(recorded)[name + suffix]
    bounds = [re.findall(rf'^{name}_bucket.*le="([^"]+)"', page, re.M)[:12] for page in (text, recorded)]
    assert bounds[0] == bounds[1]
    ok = {s.labels["le"]: s.value for f in families(text) for s in f.samples if s.labels.get("success") == "ok" and "le" in s.labels}
    assert [ok[le] for le in ("1000", "10000", "+Inf")] == [0, 1, 1]
    assert 'sequin_delivery_latency_us_sum{consumer_id="0",consumer_name="user-0",success="error"} 60000000' in text


def test_beyond_two_hundred_sinks_histograms_are_shared(tmp_path: Path) -> None:
    counts = [s for f in families(offline_page(tmp_path, 203)) for s in f.samples if s.name == "sequin_internal_latency_us_count"]
    assert len(counts) == 201
    assert {s.labels["consumer_name"]: s.value for s in counts}["others"] == 3


def test_a_name_cannot_end_its_label(tmp_path: Path) -> None:
    hostile = 'a" 1\n# TYPE x counter\\'
    assert samples_of(offline_page(tmp_path, 1, hostile), hostile)["sequin_message_deliver_attempt_count"] == 2
