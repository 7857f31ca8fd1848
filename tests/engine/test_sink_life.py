"""What a sink is owed when its settings or its tables change: the rows of the table in the engine's README, one by one."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.engine_program import EngineProgram
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
    """Wait until what is owed waits in the store alone."""
    query = "select pg_current_wal_insert_lsn() - confirmed_flush_lsn < 2000 from pg_replication_slots where slot_name = %s"
    eventually(lambda: database.execute(query, (engine.config["slot"],)).fetchone() == (True,), what="everything to be on disk")


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
    assert [(m["action"], m["record"]) for m in receiver.messages()] == [
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
