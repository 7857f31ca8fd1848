"""Delivery after changes of a sink's settings or tables: the table in the engine's README, row by row."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import threading
import time
from contextlib import closing
from typing import Any

import httpx
import psycopg

from tests.engine_program import FILTER, EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


def insert(database: Connection, *texts: str, user: int = 1) -> list[int]:
    query = "insert into notifications (user_id, message) select %s, unnest(%s::text[]) returning id"
    return [row[0] for row in database.execute(query, (user, list(texts))).fetchall()]


def patch(engine: EngineProgram, **settings: Any) -> None:
    engine.ask("PATCH", "/api/sinks/all", settings)


def texts(receiver: Receiver, path: str = "") -> list[str]:
    return [message["record"]["message"] for message in receiver.messages(path)]


def on_disk(engine: EngineProgram, database: Connection) -> None:
    """Wait until all pending messages are in the store, so that the slot is confirmed."""
    query = "select pg_current_wal_insert_lsn() - confirmed_flush_lsn < 2000 from pg_replication_slots where slot_name = %s"
    eventually(lambda: database.execute(query, (engine.config["slot"],)).fetchone() == (True,), what="all pending messages to be on disk")


def wait_until_delivered(engine: EngineProgram) -> None:
    page = f"http://127.0.0.1:{engine.config['metrics_port']}/metrics"
    eventually(lambda: re.findall(r"sequin_messages_buffered{.*} (\d+)", httpx.get(page).text) == ["0"], what="no pending messages")


def test_each_change_has_the_shape_that_its_table_had_when_it_was_committed(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.sink("all", receiver.url, status="paused")
    insert(database, "as it was")
    database.execute("alter table notifications add column mood text default 'fine'")
    insert(database, "with a mood")
    database.execute("alter table notifications rename column mood to temper")
    insert(database, "with a temper")
    database.execute("alter table notifications alter column temper drop default, alter column temper type int using null")
    insert(database, "with a number")
    on_disk(engine, database)
    engine.kill()
    engine.start()
    database.execute("alter table notifications drop column temper")
    insert(database, "as before")
    patch(engine, status="active")
    receiver.wait_for(5)
    shown = {m["record"]["message"]: {k: v for k, v in m["record"].items() if k in ("mood", "temper")} for m in receiver.messages()}
    assert shown == {
        "as it was": {},
        "with a mood": {"mood": "fine"},
        "with a temper": {"temper": "fine"},
        "with a number": {"temper": None},
        "as before": {},
    }


def test_a_table_that_is_emptied_or_made_anew_sends_its_rows_and_nothing_else(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    database.execute("create table extra (id int primary key, message text)")
    database.execute("alter publication test_pub add table extra")
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    patch(engine, database="postgres", source={"include_tables": ["public.extra"]}, status="paused")
    database.execute("insert into extra values (1, 'first life')")
    database.execute("truncate extra")
    database.execute("drop table extra")
    database.execute("create table extra (message text, id text primary key)")
    database.execute("alter publication test_pub add table extra")
    database.execute("insert into extra values ('second life', 'one')")
    patch(engine, status="active")
    receiver.wait_for(2)
    # Sorted, because messages of different rows may arrive in any order.
    received = sorted(receiver.messages(), key=lambda message: message["record"]["message"])
    assert [(message["action"], message["record"]) for message in received] == [
        ("insert", {"id": 1, "message": "first life"}),
        ("insert", {"id": "one", "message": "second life"}),
    ]


def test_actions_of_the_present_judge_what_waits(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.sink("all", receiver.url, status="paused")
    insert(database, "born")
    database.execute("update notifications set message = 'grown'")
    on_disk(engine, database)
    patch(engine, actions=["update"])
    patch(engine, status="active")
    receiver.wait_for(1)
    insert(database, "not wanted")
    database.execute("update notifications set message = 'last' where message = 'grown'")
    receiver.wait_for(2)
    assert texts(receiver) == ["grown", "last"]


def test_a_new_batch_size_holds_for_what_waits(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.sink("all", receiver.url, status="paused")
    insert(database, *map(str, range(40)))
    on_disk(engine, database)
    patch(engine, batch_size=20)
    patch(engine, status="active")
    receiver.wait_for(40)
    assert [len(request.messages) for request in receiver.requests] == [20, 20]


def test_disabled_forgets_at_once_and_begins_anew(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.sink("all", receiver.url, status="paused")
    insert(database, "waits")
    on_disk(engine, database)
    patch(engine, status="disabled")
    insert(database, "not collected")
    engine.kill()
    engine.start()
    patch(engine, status="active")
    insert(database, "anew")
    receiver.wait_for(1)
    assert texts(receiver) == ["anew"]


def test_what_is_done_with_thousands_of_sinks_is_done_beside_everything_else(engine: EngineProgram, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url)
    shared = {"database": "postgres", "filter": "rows-of-user", "source": {"include_tables": ["public.notifications"]}}
    sinks = [
        {**shared, "name": f"u{n}", "annotations": {"user_id": n}, "destination": {"type": "webhook", "http_endpoint": "user-1"}}
        for n in range(3000)
    ]
    engine.http.timeout = httpx.Timeout(60)
    engine.ask("POST", "/api/config/apply", {"yaml": json.dumps({"sinks": sinks})})
    function = {"name": "rows-of-user", "type": "filter", "code": FILTER.replace("wanted", "wished_for")}
    for method, path, body in (
        ("POST", "/api/config/apply", {"yaml": json.dumps({"functions": [function]})}),
        ("PATCH", "/api/destinations/http_endpoints/user-1", {"url": f"{receiver.url}/elsewhere"}),
        ("GET", "/api/sinks", None),
        ("GET", "/api/config/export", None),
    ):
        stop = threading.Event()
        waits: list[float] = []

        def measure(stop: threading.Event = stop, waits: list[float] = waits) -> None:
            with httpx.Client(base_url=engine.url) as client:
                while not stop.is_set():
                    started = time.monotonic()
                    client.get("/health")
                    waits.append(time.monotonic() - started)

        thread = threading.Thread(target=measure)
        thread.start()
        eventually(lambda waits=waits: waits, what="a first measurement")  # type: ignore[misc]
        waits.clear()
        started = time.monotonic()
        answer = engine.http.request(method, path, json=body)  # The body is not parsed, which would delay the other thread.
        took = time.monotonic() - started
        stop.set()
        thread.join()
        assert answer.is_success, answer.text
        print(f"{path}: {took:.3f} s, others waited {max(waits, default=0):.3f} s at most")
        assert max(waits, default=took) < max(0.3, took / 2)


def test_no_change_of_one_sink_holds_up_or_repeats_anything_for_another(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.sink("steady", f"{receiver.url}/steady")
    engine.sink("all", f"{receiver.url}/all")
    changes: list[dict[str, Any]] = [
        {"status": "paused"},
        {"batch_size": 5},
        {"actions": ["insert"]},
        {"status": "disabled"},
        {"status": "active"},
    ]
    expected: list[int] = []
    for change in changes:
        expected += insert(database, "a", "b")
        patch(engine, **change)
        expected += insert(database, "c")
    engine.ask("DELETE", "/api/sinks/all")
    expected += insert(database, "d")
    receiver.wait_for(len(expected), "/steady")
    assert sorted(receiver.ids("/steady")) == expected


def test_a_message_that_waits_for_a_connection_is_never_sent_to_the_url_of_before(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    with closing(Receiver()) as other:
        receiver.gate.clear()
        other.gate.clear()
        engine.sink("all", f"{receiver.url}/before")
        insert(database, *map(str, range(40)))
        eventually(lambda: receiver.arrived >= 10, what="unanswered requests")
        engine.ask("PATCH", "/api/destinations/http_endpoints/all", {"url": f"{other.url}/after"})
        insert(database, *map(str, range(40, 100)))
        eventually(lambda: other.arrived >= 10, what="requests to the new URL")
        receiver.gate.set()
        eventually(lambda: len(receiver.requests) >= 10, what="answers to the first requests")
        other.gate.set()
        eventually(lambda: len({*texts(receiver), *texts(other)}) == 100, what="all messages to arrive")
        assert {request.path for request in receiver.requests} == {"/before"}
        assert {request.path for request in other.requests} == {"/after"}


def test_what_is_on_its_way_when_the_filter_changes_is_not_sent_again_to_whom_it_is_not_for(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    receiver.script = lambda path, messages: 500 if path == "/ada" else 200
    receiver.gate.clear()
    engine.user_sink(1, f"{receiver.url}/ada")
    insert(database, "for ada", user=1)
    eventually(lambda: receiver.arrived, what="the request for Ada")
    engine.endpoint("bob", f"{receiver.url}/bob")
    destination = {"type": "webhook", "http_endpoint": "bob"}
    engine.ask("PATCH", "/api/sinks/user-1", {"annotations": {"user_id": "2"}, "destination": destination})
    receiver.gate.set()
    eventually(lambda: receiver.requests, what="the failure")
    insert(database, "for bob", user=2)
    receiver.wait_for(1, "/bob")
    wait_until_delivered(engine)
    assert texts(receiver, "/bob") == ["for bob"]


def test_a_failure_at_the_url_of_before_is_none_of_the_new_one(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    receiver.script = lambda path, messages: 410
    receiver.gate.clear()
    engine.sink("all", receiver.url)
    insert(database, "moves house")
    eventually(lambda: receiver.arrived, what="the request to the old URL")
    with closing(Receiver()) as other:
        engine.ask("PATCH", "/api/destinations/http_endpoints/all", {"url": other.url})
        receiver.gate.set()
        other.wait_for(1)
        wait_until_delivered(engine)
    assert engine.ask("GET", "/api/sinks/all")["status"] == "active"


def answer_410_during(engine: EngineProgram, database: Connection, receiver: Receiver, method: str, path: str, body: Any = None) -> None:
    """Answer a request of the sink `all` with 410 during an API call that waits for the store's write lock; return after both.

    Later requests wait for the receiver's gate.
    """

    def answer_once(path: str, messages: list[dict[str, Any]]) -> int:
        receiver.gate.clear()
        return 410

    receiver.script = answer_once
    receiver.gate.clear()
    engine.sink("all", receiver.url)
    insert(database, "no more")
    eventually(lambda: receiver.arrived, what="the request")
    headers = {"authorization": f"Bearer {engine.token}", "content-type": "application/json"}
    with (
        closing(sqlite3.connect(engine.config["store"], isolation_level=None)) as store,
        closing(http.client.HTTPConnection("127.0.0.1", engine.port)) as call,
    ):
        store.execute("begin immediate")
        call.request(method, path, json.dumps(body), headers)
        for _ in range(5):  # After these, the call is waiting for the store.
            engine.ask("GET", "/api/sinks/all")
        receiver.gate.set()
        eventually(lambda: "410" in str(engine.ask("GET", "/api/sinks/all")["health"]), what="the 410")
        store.execute("rollback")
        answer = call.getresponse()
        assert answer.status == 200, answer.read()
    engine.sink("other", receiver.url)  # This call is processed after the pause that the 410 triggers.


def test_a_sink_that_answers_410_while_it_is_deleted_stays_deleted(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    answer_410_during(engine, database, receiver, "DELETE", "/api/sinks/all")
    assert [sink["name"] for sink in engine.ask("GET", "/api/sinks")["data"]] == ["other"]
    engine.kill()
    engine.start()
    assert [sink["name"] for sink in engine.ask("GET", "/api/sinks")["data"]] == ["other"]


def test_a_sink_that_answers_410_while_it_is_changed_keeps_the_change(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    answer_410_during(engine, database, receiver, "PATCH", "/api/sinks/all", {"batch_size": 7})
    assert engine.ask("GET", "/api/sinks/all")["batch_size"] == 7
    receiver.gate.set()
    eventually(lambda: engine.ask("GET", "/api/sinks/all")["status"] == "paused", what="the pause")
    assert engine.ask("GET", "/api/sinks/all")["batch_size"] == 7


def test_a_sink_whose_url_changes_while_the_old_one_answers_410_stays_active(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    with closing(Receiver()) as new:
        answer_410_during(engine, database, receiver, "PATCH", "/api/destinations/http_endpoints/all", {"url": new.url})
        new.wait_for(1)
    assert engine.ask("GET", "/api/sinks/all")["status"] == "active"


def test_what_was_on_its_way_when_its_sink_was_disabled_is_not_tried_again_in_its_next_life(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    receiver.script = lambda path, messages: 500 if messages[0]["record"]["message"] == "of the first life" else 200
    receiver.gate.clear()
    engine.sink("all", receiver.url)
    insert(database, "of the first life")
    eventually(lambda: receiver.arrived, what="the request")
    patch(engine, status="disabled")
    patch(engine, status="active")
    receiver.gate.set()
    eventually(lambda: receiver.requests, what="the failure")
    insert(database, "of the second")
    receiver.wait_for(1)
    wait_until_delivered(engine)
    assert [m["record"]["message"] for request in receiver.requests for m in request.messages] == ["of the first life", "of the second"]


def test_what_waited_on_disk_keeps_the_types_of_its_columns_over_a_restart(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    database.execute("create domain counted as int")
    database.execute("alter table notifications add column stars counted default 5, add column tags int[] default '{1,2}'")
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    receiver.script = lambda path, messages: 500
    code = 'def filter(_action, record, _changes, _metadata) do\n  record["stars"] == 5\nend'
    engine.ask("POST", "/api/config/apply", {"yaml": json.dumps({"functions": [{"name": "five", "type": "filter", "code": code}]})})
    engine.sink("all", receiver.url, filter="five")
    insert(database, *map(str, range(3)))
    on_disk(engine, database)
    engine.kill()
    receiver.script = lambda path, messages: 200
    engine.start()
    receiver.wait_for(3)
    assert [(m["record"]["stars"], m["record"]["tags"]) for m in receiver.messages()] == [(5, [1, 2])] * 3


def test_a_column_filter_goes_on_when_its_columns_type_changes(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.sink(
        "all",
        receiver.url,
        source={},
        table="public.notifications",
        filters=[{"column_name": "user_id", "operator": "=", "comparison_value": 1}],
    )
    insert(database, "a whole number")
    receiver.wait_for(1)
    database.execute("alter table notifications drop constraint notifications_user_id_fkey, alter column user_id type numeric")
    insert(database, "a decimal one")
    receiver.wait_for(2)
    assert texts(receiver) == ["a whole number", "a decimal one"]
