"""The Management API of a running engine: concurrent calls, rejected changes, tokens, and the column filters of Sequin 0.9.4."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

OLD_SINK = {
    "status": "active",
    "database": "postgres",
    "table": "public.notifications",
    "actions": ["insert", "update", "delete"],
}
USER_1 = [{"column_name": "user_id", "operator": "=", "comparison_value": "1"}]
USER_2 = [{"column_name": "user_id", "operator": "=", "comparison_value": "2"}]


def old_sink(engine: EngineProgram, receiver: Receiver, **settings: Any) -> httpx.Response:
    """Create an endpoint and a sink with the calls of an app written for Sequin 0.9.4."""
    engine.endpoint("user-1-endpoint", receiver.url)
    destination = {"type": "webhook", "http_endpoint": "user-1-endpoint", "http_endpoint_path": ""}
    return engine.http.post("/api/sinks", json={**OLD_SINK, "name": "user-1-notifications", "destination": destination, **settings})


def insert(database: psycopg.Connection[Any], *users: int) -> None:
    for user in users:
        database.execute("insert into notifications (user_id, message) values (%s, 'x')", (user,))


def users_of(messages: list[dict[str, Any]]) -> list[int]:
    return [m["record"]["user_id"] for m in messages]


# --- concurrent calls --------------------------------------------------------------------------------------------------


def racing(engine: EngineProgram, count: int, method: str, path: str, body: Any) -> Counter[int]:
    """Make `count` identical calls concurrently, and return how often each status was answered."""
    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(lambda _: engine.http.request(method, path, json=body).status_code, range(count)))


def test_of_racing_creates_of_one_name_one_wins(engine: EngineProgram, receiver: Receiver) -> None:
    endpoint = {"name": "e", "url": receiver.url}
    assert racing(engine, 12, "POST", "/api/destinations/http_endpoints", endpoint) == {200: 1, 422: 11}
    sink = {**OLD_SINK, "name": "s", "destination": {"type": "webhook", "http_endpoint": "e"}}
    assert racing(engine, 12, "POST", "/api/sinks", sink) == {200: 1, 422: 11}
    receiver.gate.clear()
    assert racing(engine, 12, "PATCH", "/api/sinks/s", {"status": "paused"}) == {200: 12}
    assert racing(engine, 12, "POST", "/api/sinks/s/backfills", {}) == {200: 1, 422: 11}
    assert len(engine.ask("GET", "/api/sinks")["data"]) == 1
    assert racing(engine, 12, "DELETE", "/api/sinks/s", None) == {200: 1, 404: 11}


def test_of_many_deletes_at_once_each_has_its_own_answer(engine: EngineProgram, receiver: Receiver) -> None:
    destinations = "/api/destinations/http_endpoints"
    names = [f"s{number}" for number in range(8)]
    for name in names:
        engine.sink(name, receiver.url)
    sinks = [f"/api/sinks/{name}" for name in names[:7]]
    endpoints = [f"{destinations}/s7", f"{destinations}/unknown"]
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda path: engine.http.delete(path).status_code, [*sinks, *endpoints, "/api/sinks/unknown"]))
    assert statuses == [200] * 7 + [400, 404, 404]
    assert [sink["name"] for sink in engine.ask("GET", "/api/sinks")["data"]] == ["s7"]
    with ThreadPoolExecutor(8) as pool:
        deleted = pool.map(lambda name: engine.http.delete(f"{destinations}/{name}").status_code, names)
    assert list(deleted) == [200] * 7 + [400]
    engine.kill()
    engine.start()
    assert [endpoint["name"] for endpoint in engine.ask("GET", destinations)["data"]] == ["s7"]


def test_an_endpoint_is_never_deleted_under_a_sink(engine: EngineProgram, receiver: Receiver) -> None:
    for n in range(8):
        engine.endpoint(f"e{n}", receiver.url)
        sink = {**OLD_SINK, "name": f"s{n}", "destination": {"type": "webhook", "http_endpoint": f"e{n}"}}
        with ThreadPoolExecutor(2) as pool:
            created = pool.submit(engine.http.post, "/api/sinks", json=sink)
            deleted = pool.submit(engine.http.delete, f"/api/destinations/http_endpoints/e{n}")
        assert (created.result().status_code, deleted.result().status_code) in [(200, 400), (404, 200)]
    named = {sink["destination"]["http_endpoint"] for sink in engine.ask("GET", "/api/sinks")["data"]}
    assert named <= {endpoint["name"] for endpoint in engine.ask("GET", "/api/destinations/http_endpoints")["data"]}


# --- rejected changes --------------------------------------------------------------------------------------------------


REFUSED: list[dict[str, Any]] = [
    {"status": "paused", "batch_size": 0},
    {"status": "paused", "zebra": 1},
    {"status": "disabled", "actions": ["x"]},
    {"annotations": {"user_id": "2"}, "filter": "unknown"},
    {"name": "other", "filters": None},
    {"database": "postgres", "source": {}, "filters": []},
    {"database": "postgres", "source": {}},
    {"filter": "none", "filters": "x"},
]


def test_a_refused_change_changes_nothing(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    assert old_sink(engine, receiver, filters=USER_1).status_code == 200
    before = engine.ask("GET", "/api/sinks/user-1-notifications")
    for change in REFUSED:
        assert engine.http.patch("/api/sinks/user-1-notifications", json=change).status_code == 422, change
        after = engine.ask("GET", "/api/sinks/user-1-notifications")
        assert {**after, "health": None} == {**before, "health": None}, change
    insert(database, 2, 1)
    assert users_of(receiver.wait_for(1)) == [1]


def test_one_bad_function_puts_none_in_force(engine: EngineProgram) -> None:
    yaml = (
        "functions:\n- {name: good, type: filter, code: 'def filter(action, record, changes, metadata) do true end'}\n"
        "- {name: bad, type: filter, code: 'true'}\n"
    )
    answer = engine.http.post("/api/config/apply", json={"yaml": yaml})
    assert (answer.status_code, "'bad'" in answer.json()["summary"]) == (400, True)
    assert "good" not in engine.ask("GET", "/api/config/export")["yaml"]


# --- column filters of 0.9.4 -------------------------------------------------------------------------------------------


def test_an_old_example_app_gets_its_users_rows_and_no_others(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    answer = old_sink(engine, receiver, filters=USER_1)
    assert answer.status_code == 200
    insert(database, 2, 1, 3, 1)
    database.execute("update notifications set message = 'y' where user_id = 2")
    database.execute("delete from notifications where user_id = 1")
    # Sorted, because messages of different rows may arrive in any order.
    sent = sorted((m["action"], m["record"]["user_id"]) for m in receiver.wait_for(4))
    assert sent == [("delete", 1)] * 2 + [("insert", 1)] * 2
    insert(database, 1)
    receiver.wait_for(5)
    engine.ask("POST", "/api/sinks/user-1-notifications/backfills", {})
    assert [(m["action"], m["record"]["user_id"]) for m in receiver.wait_for(6)[4:]] == [("insert", 1), ("read", 1)]
    backfills = "/api/sinks/user-1-notifications/backfills"
    eventually(lambda: engine.ask("GET", backfills)["data"][0]["state"] == "completed")
    assert users_of(receiver.messages()) == [1] * 6


def test_changed_filters_hold_from_the_answer_on_and_after_a_crash(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    old_sink(engine, receiver, filters=USER_1)
    engine.ask("PATCH", "/api/sinks/user-1-notifications", {"filters": USER_2})
    insert(database, 1, 2)
    assert users_of(receiver.wait_for(1)) == [2]
    engine.kill()
    engine.start()
    insert(database, 1, 2)
    receiver.wait_for(2)
    assert set(users_of(receiver.messages())) == {2}
    assert engine.ask("GET", "/api/sinks/user-1-notifications")["filters"] == [
        {"column_name": "user_id", "operator": "==", "comparison_value": 2.0}
    ]


def test_filters_that_cannot_be_kept_make_no_sink(engine: EngineProgram, receiver: Receiver) -> None:
    engine.endpoint("e", receiver.url)
    body = {**OLD_SINK, "name": "s", "destination": {"type": "webhook", "http_endpoint": "e"}}
    unusable: list[Any] = [None, [], {}, "x", [{}], [{"column_name": "user_id", "operator": "like", "comparison_value": "1"}]]
    for filters in unusable:
        assert engine.http.post("/api/sinks", json={**body, "filters": filters}).status_code == 422, filters
    assert engine.ask("GET", "/api/sinks")["data"] == []


# --- tokens and HTTP rules ---------------------------------------------------------------------------------------------


def test_a_token_works_from_its_creation_to_its_deletion_and_is_never_shown(engine: EngineProgram) -> None:
    created = engine.ask("POST", "/api/api_keys", {"name": "ci", "token": "välj-själv"})
    assert created.keys() == {"id", "name", "inserted_at"}
    bearer = [(b"Authorization", "Bearer välj-själv".encode())]
    assert engine.http.get("/api/sinks", headers=bearer).status_code == 200
    assert "välj" not in engine.http.get("/api/api_keys").text
    engine.ask("DELETE", f"/api/api_keys/{created['id']}")
    assert engine.http.get("/api/sinks", headers=bearer).status_code == 401


def test_two_authorization_headers_are_refused(engine: EngineProgram) -> None:
    headers = [("Authorization", f"Bearer {engine.token}")] * 2
    answer = httpx.get(f"{engine.url}/api/sinks", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["summary"].startswith("Please provide exactly one Authorization header in your request.")


def test_head_is_get_without_a_body(engine: EngineProgram) -> None:
    answer = engine.http.head("/api/sinks")
    assert (answer.status_code, answer.content) == (200, b"")
    assert httpx.head(f"{engine.url}/api/sinks").status_code == 401


def test_the_status_page_shows_any_name_as_text(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    database.execute('create table "<script>alert(1)</script>" (id int primary key)')
    database.execute('alter publication test_pub add table "<script>alert(1)</script>"')
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    engine.sink("s", receiver.url, source={})
    engine.ask("POST", "/api/sinks/s/backfills", {"table": "<script>alert(1)</script>"})
    page = engine.http.get("/").text
    assert "public.&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


def test_a_body_that_is_no_object_is_refused(engine: EngineProgram) -> None:
    for body in ("[]", '"x"', "5", "null"):
        answer = engine.http.post("/api/sinks", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["summary"]) == (422, "Unknown field: _json")
