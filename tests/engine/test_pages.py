"""Both ports of the engine, and its start: foreign hosts, Postgres down, a store that belongs to another database."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually


def test_a_foreign_host_or_origin_is_refused_on_both_ports(engine: EngineProgram) -> None:
    for port in (engine.port, engine.config["metrics_port"]):
        assert httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"}).status_code == 403
        assert httpx.get(f"http://127.0.0.1:{port}/", headers={"Origin": "http://evil.example"}).status_code == 403


def test_creating_a_sink_with_postgres_down_is_503_and_leaves_no_sink(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.endpoint("e", receiver.url)
    name = database.info.dbname
    database.close()
    with psycopg.connect(engine.config["database_url"].replace(f"/{name}", "/postgres"), autocommit=True) as admin:
        admin.execute(f"alter database {name} allow_connections false")  # type: ignore[arg-type]
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        body = {
            "name": "s",
            "database": "postgres",
            "table": "public.notifications",
            "destination": {"type": "webhook", "http_endpoint": "e"},
        }
        answer = eventually(lambda: (a := engine.http.post("/api/sinks", json=body)).status_code == 503 and a)
        assert "Postgres" in answer.json()["summary"]
        assert engine.ask("GET", "/api/sinks")["data"] == []
        admin.execute(f"alter database {name} allow_connections true")  # type: ignore[arg-type]
    eventually(lambda: engine.http.post("/api/sinks", json=body).status_code == 200)


def test_a_wrong_home_for_the_state_is_a_loud_error(engine: EngineProgram) -> None:
    engine.stop()
    engine.config["slot"] = "another_slot"
    engine.http = httpx.Client(base_url=engine.url)
    with pytest.raises(AssertionError, match="belongs to another database"):
        engine.start()
