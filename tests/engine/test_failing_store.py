"""API calls while the store cannot be written: rejected changes do not take effect, now or after a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

ROWS = 3_000


@contextmanager
def failing(engine: EngineProgram, kind: str) -> Iterator[None]:
    """Make the store reject inserts, updates, and deletes of this kind of resource during the block, as a full disk would.

    Of sinks, only active ones are rejected on insert and update.
    """
    with closing(sqlite3.connect(engine.config["store"], isolation_level=None)) as store:
        for operation, row in (("insert", "new"), ("update", "new"), ("delete", "old")):
            status = 'and cast(new.document as text) like \'%"status":"active"%\'' if operation != "delete" and kind == "sink" else ""
            store.execute(
                f"create trigger full_{operation} before {operation} on resources when {row}.kind = '{kind}' {status}"
                " begin select raise(abort, 'database or disk is full'); end"
            )
        try:
            yield
        finally:
            for operation in ("insert", "update", "delete"):
                store.execute(f"drop trigger full_{operation}")


def restart(engine: EngineProgram) -> None:
    engine.kill()
    engine.start()


@pytest.fixture
def reading(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> str:
    """The path of a running backfill whose receiver does not answer yet."""
    database.execute("insert into notifications (user_id, message) select 1, 'x' from generate_series(1, %s)", (ROWS,))
    receiver.gate.clear()
    engine.sink("all", receiver.url, batch_size=100)
    backfill = engine.ask("POST", "/api/sinks/all/backfills", {})["id"]
    path = f"/api/sinks/all/backfills/{backfill}"
    eventually(lambda: engine.ask("GET", path)["rows_initial_count"] == ROWS)
    return path


def completes(engine: EngineProgram, receiver: Receiver, path: str) -> None:
    receiver.gate.set()
    eventually(lambda: engine.ask("GET", path)["state"] == "completed", within=20)


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_backfill_whose_stop_could_not_be_stored_goes_on(engine: EngineProgram, receiver: Receiver, reading: str, state: str) -> None:
    with failing(engine, "backfill"):
        assert engine.http.patch(reading, json={"state": state}).status_code == 503
        assert engine.ask("GET", reading)["state"] == "active"
    completes(engine, receiver, reading)


def test_a_sink_that_could_not_be_removed_keeps_its_backfills(engine: EngineProgram, receiver: Receiver, reading: str) -> None:
    with failing(engine, "sink"):
        assert engine.http.delete("/api/sinks/all").status_code == 503
    assert engine.ask("GET", "/api/sinks/all")["status"] == "active"
    assert engine.ask("GET", reading)["state"] == "active"
    completes(engine, receiver, reading)


def test_a_sink_is_disabled_together_with_its_backfills_or_not_at_all(engine: EngineProgram, receiver: Receiver, reading: str) -> None:
    with failing(engine, "backfill"):
        assert engine.http.patch("/api/sinks/all", json={"status": "disabled"}).status_code == 503
        assert engine.ask("GET", "/api/sinks/all")["status"] == "active"
        assert engine.ask("GET", reading)["state"] == "active"
    assert engine.http.patch("/api/sinks/all", json={"status": "disabled"}).status_code == 200
    assert engine.ask("GET", reading)["state"] == "cancelled"
    restart(engine)
    assert engine.ask("GET", "/api/sinks/all")["status"] == "disabled"
    assert engine.ask("GET", reading)["state"] == "cancelled"


def test_a_sink_that_could_not_be_stored_is_not_there_after_a_restart_either(engine: EngineProgram, receiver: Receiver) -> None:
    engine.endpoint("e", receiver.url)
    body = {
        "name": "all",
        "database": "postgres",
        "table": "public.notifications",
        "destination": {"type": "webhook", "http_endpoint": "e"},
    }
    with failing(engine, "sink"):
        assert engine.http.post("/api/sinks", json=body).status_code == 503
        assert engine.ask("GET", "/api/sinks")["data"] == []
        restart(engine)
        assert engine.ask("GET", "/api/sinks")["data"] == []
    assert engine.http.post("/api/sinks", json=body).status_code == 200


def test_endpoints_that_came_with_a_sink_that_could_not_be_stored_are_not_there_either(engine: EngineProgram, receiver: Receiver) -> None:
    yaml = f"""
http_endpoints: [{{name: e, url: "{receiver.url}"}}]
sinks: [{{name: all, database: postgres, table: public.notifications, destination: {{type: webhook, http_endpoint: e}}}}]
"""
    with failing(engine, "sink"):
        assert engine.http.post("/api/config/apply", json={"yaml": yaml}).status_code == 503
        restart(engine)
        assert engine.ask("GET", "/api/sinks")["data"] == []
        assert engine.ask("GET", "/api/destinations/http_endpoints")["data"] == []
    engine.ask("POST", "/api/config/apply", {"yaml": yaml})
