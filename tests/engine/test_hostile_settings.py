"""The engine under environment variables and database settings that change every default: its messages stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import PUBLICATION
from tests.engine_program import EngineProgram
from tests.hostile import SETTINGS, VARIABLES
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

Connection = psycopg.Connection[Any]

ROW = {
    "id": 1,
    "at": "2025-07-01T12:00:00.000000Z",
    "day": "2025-02-03",
    "span": {"days": 1, "microseconds": 7_200_000_000, "months": 0},
    "ratio": 0.1234567890123456,
    "raw": "\\x00ff",
    "word": "Grüße",
}


@pytest.fixture
def values(database: Connection) -> Connection:
    database.execute(
        "create table public.odd (id int primary key, at timestamptz, day date, span interval, ratio float8, raw bytea, word text)"
    )
    database.execute("alter publication test_pub add table public.odd")
    return database


def insert(database: Connection, row_id: int) -> None:
    database.execute(
        "insert into public.odd values (%s, '2025-07-01 12:00:00+00', '2025-02-03', '1 day 2 hours', 0.1234567890123456,"
        " '\\x00ff', 'Grüße')",
        [row_id],
    )


def check_live_and_backfilled(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    """Check the messages of live inserts and of a backfill."""
    insert(database, 1)
    engine.sink("odd", f"{receiver.url}/odd", source={"include_tables": ["public.odd"]})
    insert(database, 2)
    receiver.wait_for(1)
    backfill = engine.ask("POST", "/api/sinks/odd/backfills", {"table": "public.odd"})
    path = f"/api/sinks/odd/backfills/{backfill['id']}"
    eventually(lambda: engine.ask("GET", path)["state"] == "completed", within=20, what="the backfill to be completed")
    records = sorted((message["record"] for message in receiver.wait_for(3)), key=lambda record: record["id"])
    assert records == [ROW, {**ROW, "id": 2}, {**ROW, "id": 2}]


@pytest.mark.parametrize("variables", [["PGTZ", "PGDATESTYLE"], list(VARIABLES)], ids=["session", "all"])
def test_no_variable_of_libpq_changes_what_is_sent(
    variables: list[str], values: Connection, database_url: str, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineProgram(database_url, tmp_path, publication=PUBLICATION)
    with monkeypatch.context() as environment:
        for name in variables:
            environment.setenv(name, VARIABLES[name])
        engine.start()
    try:
        check_live_and_backfilled(engine, values, receiver)
    finally:
        engine.stop()


@pytest.fixture
def hostile(values: Connection) -> Iterator[Connection]:
    for name, value in SETTINGS.items():
        database = sql.Identifier(values.info.dbname)
        values.execute(sql.SQL("alter database {} set {} = {}").format(database, sql.Identifier(name), value))
    return values


def test_what_the_database_sets_changes_nothing_that_is_sent(
    hostile: Connection, database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    engine = EngineProgram(database_url, tmp_path, publication=PUBLICATION).start()
    try:
        check_live_and_backfilled(engine, hostile, receiver)
        sessions = "select pid from pg_stat_activity where application_name = 'userhooks-engine' order by pid"
        before = eventually(
            lambda: len(pids := hostile.execute(sessions).fetchall()) == 2 and pids, what="the backfill's connections to be closed"
        )
        hostile.execute("select pg_sleep(0.2)")  # Longer than the database lets sessions be idle.
        insert(hostile, 3)
        receiver.wait_for(4)
        assert hostile.execute(sessions).fetchall() == before
        assert engine.ask("GET", "/health")["ok"] is True
    finally:
        engine.stop()


def test_a_value_of_a_database_without_an_encoding_stops_nobody(
    postgres_server: PostgresServer, receiver: Receiver, tmp_path: Path
) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute("create database no_encoding encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0")
        url = postgres_server.url("no_encoding")
        Database(url).set_up(PUBLICATION)
        engine = EngineProgram(url, tmp_path, publication=PUBLICATION).start()
        try:
            engine.sink("all", receiver.url)
            with psycopg.connect(url, autocommit=True, client_encoding="SQL_ASCII") as connection:
                for message in ("Grüße".encode(), b"Gr\xfc\xdfe", b"after"):
                    connection.execute(b"insert into notifications (user_id, message) values (1, '" + message + b"')")
            texts = {m["record"]["message"] for m in receiver.wait_for(3)}
            assert texts == {"Grüße", "Gr\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}e", "after"}
            assert engine.ask("GET", "/api/sinks/all")["health"]["status"] == "healthy"
        finally:
            engine.stop()
            admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = 'no_encoding'")
            admin.execute("drop database no_encoding with (force)")
