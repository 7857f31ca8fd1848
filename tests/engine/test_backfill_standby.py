"""Backfills while commits in the WAL are not visible to a SELECT yet, or the reverse: synchronous standbys, asynchronous commits."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.engine.test_backfill_storm import backfill, set_up, sink, storm
from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer

Connection = psycopg.Connection[Any]
STANDBY = "synchronous_standby_names"
ROWS = 1500
MANY = "do $$ begin for n in 1..12000 loop insert into notifications (user_id, message) values (2, 'x'); commit; end loop; end $$"
"""A statement with more transactions than the engine remembers."""


@contextmanager
def setting(server: PostgresServer, name: str, value: str) -> Iterator[Connection]:
    """Change a server setting for the block; yields a connection with which the block can change it again."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        before = current(admin, name)
        change(admin, name, value)
        try:
            yield admin
        finally:
            change(admin, name, before)
            admin.execute(f"alter system reset {name}".encode())


def current(admin: Connection, name: str) -> str:
    row = admin.execute("select setting from pg_settings where name = %s", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def change(admin: Connection, name: str, value: str) -> None:
    """Change a server setting, and wait until it is in effect."""
    admin.execute(f"alter system set {name} = '{value}'".encode())
    admin.execute("select pg_reload_conf()")
    eventually(lambda: current(admin, name) == value, what=f"{name} to be {value!r}")


@contextmanager
def waiting_for_a_standby(url: str, statement: str) -> Iterator[None]:
    """Run a statement whose commit waits for a missing standby during the block; the commit is already in the WAL."""

    def commit() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def fill(database: Connection) -> None:
    database.execute("insert into notifications (user_id, message) select 1, 'old' from generate_series(1, %s)", (ROWS,))


def state(database: Connection, row: int) -> str:
    result = database.execute("select message from notifications where id = %s", (row,)).fetchone()
    assert result is not None
    return str(result[0])


def messages_of(receiver: Receiver, row: int) -> list[tuple[str, str]]:
    return [(m["action"], m["record"]["message"]) for m in receiver.messages() if m["record"]["id"] == row]


@pytest.mark.parametrize("with_other_commits", [False, True])
def test_a_change_that_waits_for_a_standby_is_never_followed_by_the_row_as_it_was_before(
    engine: EngineProgram,
    database: Connection,
    database_url: str,
    receiver: Receiver,
    postgres_server: PostgresServer,
    with_other_commits: bool,
) -> None:
    """This holds however many other transactions commit in the meantime."""
    fill(database)
    engine.user_sink(1, receiver.url, batch_size=100)
    with setting(postgres_server, STANDBY, "nobody") as admin:
        with waiting_for_a_standby(database_url, "update notifications set message = 'new' where id = 7"):
            try:
                eventually(lambda: messages_of(receiver, 7) == [("update", "new")], what="the change to arrive from the WAL")
                assert state(database, 7) == "old"
                if with_other_commits:
                    database.execute("set synchronous_commit = off")
                    database.execute(MANY)
                    database.execute("insert into notifications (user_id, message) values (1, 'the last of the others')")
                    eventually(lambda: receiver.messages()[-1]["record"]["message"] == "the last of the others", within=20)
                started = engine.ask("POST", "/api/sinks/user-1/backfills", {})
                eventually(lambda: "not visible yet" in str(engine.ask("GET", "/api/sinks/user-1")["health"]), what="the sink's health")
                assert {m["action"] for m in receiver.messages()} <= {"update", "insert"}
                assert state(database, 7) == "old"
            finally:
                change(admin, STANDBY, "")
        path = f"/api/sinks/user-1/backfills/{started['id']}"
        eventually(lambda: engine.ask("GET", path)["state"] == "completed", what=path)
    assert messages_of(receiver, 7) == [("update", "new"), ("read", "new")]
    read = [m["record"]["id"] for m in receiver.messages() if m["action"] == "read"]
    assert len(read) == len(set(read)) == ROWS + (1 if with_other_commits else 0)
    assert "not visible yet" not in str(engine.ask("GET", "/api/sinks/user-1")["health"])


def test_a_storm_of_writes_beside_a_standby_that_comes_and_goes(
    engine: EngineProgram, database: Connection, database_url: str, receiver: Receiver, postgres_server: PostgresServer
) -> None:
    set_up(database, engine, "full")
    sink(engine, "mine", receiver)
    items = {"source": {"include_tables": ["public.items"]}, "filter": "rows-of-user", "annotations": {"user_id": "1"}}
    engine.sink("inserts", f"{receiver.url}/inserts", **items, actions=["insert"], batch_size=50)
    rng = random.Random(1)
    stop = threading.Event()

    def come_and_go(admin: Connection) -> None:
        while not stop.is_set():
            change(admin, STANDBY, "nobody")
            stop.wait(rng.uniform(0, 0.05))
            change(admin, STANDBY, "")
            stop.wait(rng.uniform(0, 0.05))

    with setting(postgres_server, "wal_writer_delay", "10000") as admin, storm(database_url) as failures:
        flicker = threading.Thread(target=come_and_go, args=(admin,))
        flicker.start()
        try:
            ends = [backfill(engine, name)["state"] for name in ("mine", "inserts")]
        finally:
            stop.set()
            flicker.join()
    assert (failures, ends) == ([], ["completed", "completed"])
    truth = dict(database.execute("select id, version from items where user_id = 1").fetchall())
    tags = {row[0] for row in database.execute("select tag from items where user_id = 1")}

    def latest() -> dict[int, int]:
        return {m["record"]["id"]: m["record"]["version"] for m in receiver.messages("/mine") if m["action"] != "delete"}

    def inserted() -> set[int]:
        return {m["record"]["tag"] for m in receiver.messages("/inserts")}

    eventually(lambda: truth.items() <= latest().items(), within=20, what="the last message of each row to show its current state")
    eventually(lambda: tags <= inserted(), within=20, what="every row to arrive as a read or an insert")
    versions: dict[int, int] = {}
    for message in receiver.messages("/mine"):
        record = message["record"]
        assert record["version"] >= versions.get(record["id"], 0), message
        versions[record["id"]] = record["version"]


def test_a_commit_that_is_seen_before_it_is_in_the_wal_on_disk_comes_before_the_read(
    engine: EngineProgram, database: Connection, receiver: Receiver, postgres_server: PostgresServer
) -> None:
    fill(database)
    engine.user_sink(1, receiver.url, batch_size=100)
    with setting(postgres_server, "wal_writer_delay", "10000"):
        database.execute("set synchronous_commit = off")
        database.execute("update notifications set message = 'new' where id = 7")
        database.execute("delete from notifications where id = 8")
        database.execute("insert into notifications (user_id, message) values (1, 'born')")
        on_disk = database.execute("select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()").fetchone()
        assert on_disk == (False,)
        assert backfill(engine, "user-1")["state"] == "completed"
    assert messages_of(receiver, 7) == [("update", "new"), ("read", "new")]
    assert messages_of(receiver, 8) == [("delete", "old")]
    assert messages_of(receiver, ROWS + 1) == [("insert", "born"), ("read", "born")]
