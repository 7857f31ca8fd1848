"""Sinks defined in YAML: full and partial initial backfills, filters that cannot be dropped by mistake, plans, atomic changes."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
import yaml

from tests.engine_program import FILTER, EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer

Connection = psycopg.Connection[Any]
FUNCTION = {"name": "rows-of-user", "type": "filter", "code": FILTER}


def document(receiver: Receiver, **sink: Any) -> dict[str, Any]:
    return {
        "functions": [FUNCTION],
        "http_endpoints": [{"name": "mine", "url": receiver.url}],
        "sinks": [
            {
                "name": "mine",
                "database": "postgres",
                "source": {"include_tables": ["public.notifications"]},
                "destination": {"type": "webhook", "http_endpoint": "mine"},
                "filter": "rows-of-user",
                "annotations": {"user_id": "1"},
                **sink,
            }
        ],
    }


def ask(engine: EngineProgram, what: str, of: dict[str, Any]) -> dict[str, Any]:
    return engine.ask("POST", f"/api/config/{what}", {"yaml": yaml.safe_dump(of)})


def refusal(engine: EngineProgram, of: dict[str, Any]) -> tuple[int, str]:
    """Return the status and summary with which both plan and apply reject a document."""
    answers = [engine.http.post(f"/api/config/{what}", json={"yaml": yaml.safe_dump(of)}) for what in ("plan", "apply")]
    refusals = [(answer.status_code, answer.json()["summary"]) for answer in answers]
    assert refusals[0] == refusals[1]
    return refusals[0]


def everything(engine: EngineProgram) -> str:
    return str(engine.ask("GET", "/api/config/export")["yaml"])


def fill(database: Connection) -> None:
    """Insert rows of users 1 and 2 whose times decrease as their keys grow; the newest 1,200 are from noon on the 21st or later."""
    database.execute(
        "insert into notifications (user_id, message, created_at) select 1 + n %% 2, n, '2026-11-21 12:00Z'::timestamptz + (1200 - n) *"
        " interval '1 s' from generate_series(1, %s) n",
        (3000,),
    )


def test_endpoint_sink_and_partial_backfill_in_one_yaml(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database)
    configuration = {"table": "public.notifications", "type": "partial", "sort_column": "created_at", "start_position": "2026-11-21 12:00Z"}
    of = document(receiver, initial_backfill=[configuration], batch_size=50)
    plan = ask(engine, "plan", of)
    assert [(c["resource_type"], c["action"], c["old"]) for c in plan["changes"]] == [
        ("function", "create", None),
        ("http_endpoint", "create", None),
        ("sink", "create", None),
    ]
    assert [(a["table"], a["sort_column"]) for a in plan["actions"]] == [("public.notifications", "created_at")]
    assert (engine.ask("GET", "/api/sinks")["data"], "rows-of-user" in everything(engine)) == ([], False)

    resources = ask(engine, "apply", of)["resources"]
    assert [resource["name"] for resource in resources] == ["rows-of-user", "mine", "mine"]
    done = eventually(lambda: (b := engine.ask("GET", "/api/sinks/mine/backfills")["data"][0])["state"] == "completed" and b)
    assert (done["sort_column"], done["rows_processed_count"]) == ("created_at", 600)
    expected = [row[0] for row in database.execute("select id from notifications where user_id = 1 and created_at >= '2026-11-21 12:00Z'")]
    assert sorted(receiver.ids()) == sorted(expected)
    assert len(expected) == 600

    assert ask(engine, "plan", of) == {"changes": [], "actions": []}
    ask(engine, "apply", of)
    assert len(engine.ask("GET", "/api/sinks/mine/backfills")["data"]) == 1


def test_rows_that_move_in_the_sort_column_while_they_are_read_are_not_missed(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    """The sink does not receive the rows' updates, so only a `read` can deliver them."""
    fill(database)
    configuration = {"table": "notifications", "type": "partial", "sort_column": "created_at", "start_position": "2020-01-01"}
    receiver.gate.clear()
    ask(engine, "apply", document(receiver, initial_backfill=[configuration], actions=["insert"], batch_size=100, filter="none"))
    eventually(lambda: engine.ask("GET", "/api/sinks/mine/backfills")["data"][0]["rows_initial_count"] == 3000)
    for n in range(1, 3001, 97):
        database.execute("update notifications set created_at = '2021-01-01'::timestamptz + id * interval '1 s' where id = %s", (n,))
    receiver.gate.set()
    eventually(lambda: engine.ask("GET", "/api/sinks/mine/backfills")["data"][0]["state"] == "completed")
    eventually(lambda: set(receiver.ids()) == set(range(1, 3001)), what="messages whose first attempt timed out to arrive")


def test_a_start_position_that_is_none_is_refused_and_nothing_is_left(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    database.execute("alter table notifications add column extra json")
    before = everything(engine)
    for column, start, expected_message in [
        ("created_at", "tomorrowish", 'invalid input syntax for type timestamp with time zone: "tomorrowish"'),
        ("id", "1.5", 'invalid input syntax for type integer: "1.5"'),
        ("extra", "{}", "operator does not exist: json >="),
        ("nope", "1", "it has no column 'nope' to sort by"),
    ]:
        configuration = {"table": "notifications", "type": "partial", "sort_column": column, "start_position": start}
        status, summary = refusal(engine, document(receiver, initial_backfill=[configuration]))
        assert (status, expected_message in summary) == (422, True), summary
    assert everything(engine) == before


def test_a_sink_applied_without_its_filter_is_refused_and_leaks_nothing(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    of = document(receiver)
    ask(engine, "apply", of)
    before = everything(engine)
    del of["sinks"][0]["filter"]
    assert refusal(engine, {"sinks": of["sinks"]})[0] == 422
    status, summary = refusal(engine, of)
    assert (status, "`filter: rows-of-user` to keep it or `filter: none` to remove it" in summary) == (422, True)
    assert everything(engine) == before
    database.execute("insert into notifications (user_id, message) values (2, 'theirs'), (1, 'mine')")
    assert [m["record"]["message"] for m in receiver.wait_for(1)] == ["mine"]


@pytest.mark.parametrize("bad", [{"destination": {"type": "webhook", "http_endpoint": "nope"}}, {"filter": "nope"}, {"batch_size": 0}])
def test_one_bad_sink_puts_nothing_in_force(engine: EngineProgram, receiver: Receiver, bad: dict[str, Any]) -> None:
    before = everything(engine)
    of = document(receiver)
    of["sinks"].append({**of["sinks"][0], "name": "second", **bad})
    assert refusal(engine, of)[0] in (404, 422)
    assert everything(engine) == before


def test_what_was_put_in_force_is_taken_back_when_the_store_fails_on_the_way(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    ask(engine, "apply", document(receiver))
    before = everything(engine)
    store = sqlite3.connect(engine.config["store"], isolation_level=None, timeout=5)
    full = "begin select raise(abort, 'database or disk is full'); end"
    store.execute(f"create trigger full before insert on resources when cast(new.document as text) like '%refused-one%' {full}")
    of = document(receiver, annotations={"user_id": "2"})
    of["http_endpoints"] = [{"name": "mine", "url": f"{receiver.url}/elsewhere"}, {"name": "new", "url": receiver.url}]
    of["sinks"] += [{**of["sinks"][0], "name": name} for name in ("accepted-one", "refused-one")]
    answer = engine.http.post("/api/config/apply", json={"yaml": yaml.safe_dump(of)})
    store.execute("drop trigger full")
    store.close()
    assert (answer.status_code, "disk is full" in answer.json()["summary"]) == (503, True)
    assert everything(engine) == before
    database.execute("insert into notifications (user_id, message) values (2, 'theirs'), (1, 'mine')")
    assert [m["record"]["message"] for m in receiver.wait_for(1)] == ["mine"]
    assert [r.path for r in receiver.requests] == ["/"]
    engine.kill()
    engine.start()
    assert everything(engine) == before


def test_without_postgres_a_sink_is_refused_and_nothing_is_left(
    engine: EngineProgram, database: Connection, receiver: Receiver, postgres_server: PostgresServer
) -> None:
    before = everything(engine)
    name = database.info.dbname
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute(f"alter database {name} with allow_connections false".encode())
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        assert refusal(engine, document(receiver))[0] == 503
        assert everything(engine) == before
        admin.execute(f"alter database {name} with allow_connections true".encode())
    eventually(lambda: engine.http.post("/api/config/apply", json={"yaml": yaml.safe_dump(document(receiver))}).status_code == 200)
