"""Backfills of tables with every kind of key: each row is read once, in pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PUBLICATION
from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer

Connection = psycopg.Connection[Any]

ROWS = 2100
"""Rows of a table, enough for more than two pages."""

KEYS = {
    "negative and extreme bigints": (
        "id bigint primary key",
        "select 3 - n from numbers where n > 2 union values (-9223372036854775808), (9223372036854775807)",
    ),
    "composite, in another order than the columns": (
        "a int, b text, c smallint, primary key (c, b, a)",
        "select -n, chr(65 + n % 7), n % 3 from numbers",
    ),
    "enum whose labels are not in alphabetical order": (
        "a mood, b int, primary key (a, b)",
        "select (array['zealous', 'calm', 'merry'])[1 + n % 3]::mood, n from numbers",
    ),
    "uuid": ("id uuid primary key", "select md5(n::text)::uuid from numbers"),
    "text in byte order": (
        'id text collate "C" primary key',
        "select chr(33 + n % 90) || 'é' || n || ' ''\"\\%' from numbers",
    ),
    "text in the database's collation": ("id text primary key", "select chr(33 + n % 90) || '-' || n from numbers"),
    "padded text": ("id char(8) primary key", "select n::text from numbers"),
    "domains": ("a small, b short, primary key (b, a)", "select n, 'x' || n % 5 from numbers"),
    "finite and infinite numbers": (
        "id numeric primary key",
        "select n / 7.0 from numbers where n > 3 union values ('NaN'::numeric), ('Infinity'), ('-Infinity')",
    ),
    "floats": ("id float8 primary key", "select n / 7.0::float8 from numbers where n > 1 union values ('NaN'::float8)"),
    "times without a time zone, and infinite ones": (
        "a timestamp, b date, primary key (a, b)",
        (
            "select case n when 1 then 'infinity' when 2 then '-infinity' else '2026-03-29 02:30'::timestamp + n * interval '1 min' end,"
            " date '0044-03-15 BC' + n from numbers"
        ),
    ),
    "times with a time zone": ("id timestamptz primary key", "select now() + n * interval '1.000001 s' from numbers"),
    "bytes": ("id bytea primary key", "select sha256(n::text::bytea) from numbers"),
    "addresses and booleans": (
        "a inet, b boolean, primary key (b, a)",
        "select '10.0.0.0'::inet + n, n % 2 = 0 from numbers",
    ),
    "arrays": ("id int[] primary key", "select array[n % 3, n] from numbers"),
}


@pytest.fixture(scope="module")
def lab(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProgram, Connection]]:
    """One database and one engine, shared by all tests of the module."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute("create database keys")
        url = postgres_server.url("keys")
        folder: Path = tmp_path_factory.mktemp("keys")
        with psycopg.connect(url, autocommit=True) as database:
            database.execute(f"create publication {PUBLICATION}".encode())
            database.execute("create table numbers (n int)")
            database.execute("insert into numbers select generate_series(1, %s)", (ROWS,))
            database.execute("create type mood as enum ('zealous', 'calm', 'merry')")
            database.execute("create domain small as int check (value > 0)")
            database.execute("create domain short as text")
            engine = EngineProgram(url, folder, publication=PUBLICATION).start()
            try:
                yield engine, database
            finally:
                engine.stop()
            database.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = 'keys'")
        admin.execute("drop database keys with (force)")


def make(engine: EngineProgram, database: Connection, receiver: Receiver, table: str, columns: str) -> None:
    """Create a published table, and a sink for it named after the alphanumeric part of its name."""
    quoted = psycopg.sql.Identifier(table).as_string()
    database.execute(f"create table {quoted} ({columns})".encode())
    database.execute(f"alter publication {PUBLICATION} add table {quoted}".encode())
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    sink = "".join(c for c in table if c.isalnum())
    engine.sink(sink, receiver.url, source={"include_tables": [f"public.{table}"]}, batch_size=500)


def read(engine: EngineProgram, sink: str) -> dict[str, Any]:
    """Run a backfill to its end, and return it."""
    path = f"/api/sinks/{sink}/backfills"
    backfill = engine.ask("POST", path, {})
    return eventually(lambda: (b := engine.ask("GET", f"{path}/{backfill['id']}"))["state"] != "active" and b, within=20, what=path)


@pytest.mark.parametrize("kind", KEYS)
def test_each_row_is_read_once(lab: tuple[EngineProgram, Connection], receiver: Receiver, kind: str) -> None:
    engine, database = lab
    columns, rows = KEYS[kind]
    table = f"t{list(KEYS).index(kind)}"
    make(engine, database, receiver, table, columns)
    database.execute(f"insert into {table} {rows}".encode())
    receiver.wait_for(ROWS)  # The live inserts, which are not part of the backfill.
    receiver.requests.clear()
    done = read(engine, table)
    assert done["state"] == "completed", done
    assert (done["rows_initial_count"], done["rows_processed_count"]) == (ROWS, ROWS)
    messages = receiver.messages()
    assert len(messages) == len({str(m["metadata"]["record_pks"]) for m in messages}) == ROWS


def test_names_need_not_be_plain(lab: tuple[EngineProgram, Connection], receiver: Receiver) -> None:
    engine, database = lab
    make(engine, database, receiver, 'Odd "Table" %s', '"Key ""%" int primary key, "select" text')
    database.execute('insert into "Odd ""Table"" %s" select n, n from generate_series(1, 1500) n')
    receiver.wait_for(1500)
    receiver.requests.clear()
    assert read(engine, "OddTables")["state"] == "completed"
    assert sorted(m["record"]['Key "%'] for m in receiver.messages()) == list(range(1, 1501))


@pytest.mark.parametrize("rows", [0, 1, 1000, 2000])
def test_the_last_page_may_be_empty_or_full(lab: tuple[EngineProgram, Connection], receiver: Receiver, rows: int) -> None:
    engine, database = lab
    make(engine, database, receiver, f"rows{rows}", "id int primary key")
    database.execute(f"insert into rows{rows} select generate_series(1, {rows})".encode())
    receiver.wait_for(rows)
    receiver.requests.clear()
    done = read(engine, f"rows{rows}")
    assert (done["state"], done["rows_initial_count"], done["rows_processed_count"]) == ("completed", rows, rows)
    assert sorted(receiver.ids()) == list(range(1, rows + 1))


def test_a_row_that_is_read_has_the_columns_of_a_live_one(lab: tuple[EngineProgram, Connection], receiver: Receiver) -> None:
    engine, database = lab
    make(engine, database, receiver, "made", "id int primary key, price int, twice int generated always as (price * 2) stored")
    database.execute("insert into made values (1, 21)")
    [live] = receiver.wait_for(1)
    assert read(engine, "made")["state"] == "completed"
    assert receiver.wait_for(2)[1]["record"] == live["record"]


def test_only_rows_and_columns_that_are_published_are_read(lab: tuple[EngineProgram, Connection], receiver: Receiver) -> None:
    engine, database = lab
    make(engine, database, receiver, "partly", "id int primary key, kind text, secret text")
    database.execute(f"alter publication {PUBLICATION} drop table partly".encode())
    database.execute(f"alter publication {PUBLICATION} add table partly (id, kind) where (kind like 'a%')".encode())
    database.execute("insert into partly values (1, 'apple', 'x'), (2, 'pear', 'x')")
    [live] = receiver.wait_for(1)
    done = read(engine, "partly")
    assert (done["state"], done["rows_initial_count"]) == ("completed", 1)
    assert [m["record"] for m in receiver.messages()] == [live["record"]] * 2 == [{"id": 1, "kind": "apple"}] * 2


def test_a_table_without_a_usable_key_is_refused_in_words(lab: tuple[EngineProgram, Connection], receiver: Receiver) -> None:
    engine, database = lab
    make(engine, database, receiver, "keyless", "x int")
    answer = engine.http.post("/api/sinks/keyless/backfills", json={})
    assert answer.status_code == 422
    assert "public.keyless cannot be read by a backfill: it has no primary key" in answer.json()["summary"]
    database.execute("alter table keyless add primary key (x)")
    assert read(engine, "keyless")["state"] == "completed"
