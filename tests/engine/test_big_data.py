"""Rows of 50 MB and very large transactions: everything arrives, other sinks are not delayed, and memory stays bounded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver

Connection = psycopg.Connection[Any]
MB = 1_000_000


def sink(engine: EngineProgram, name: str, receiver: Receiver, table: str, **settings: Any) -> None:
    engine.sink(name, f"{receiver.url}/{name}", source={"include_tables": [table]}, **settings)


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def publish(engine: EngineProgram, database: Connection, columns: str) -> None:
    """Create and publish the table `large`, and have the engine read the tables again."""
    database.execute(f"create table large ({columns})")  # type: ignore[arg-type]
    database.execute("alter publication test_pub add table large")
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", "repeat('0123456789', 5000000)"),
        ("jsonb", "jsonb_build_object('a', repeat('0123456789', 5000000))"),
        ("bytea", "convert_to(repeat('0123456789', 2500000), 'UTF8')"),
    ],
)
def test_a_row_of_50_mb_arrives_whole_beside_another_sink(
    engine: EngineProgram, database: Connection, receiver: Receiver, kind: str, value: str
) -> None:
    publish(engine, database, f"id int primary key, n int, v {kind}")
    sink(engine, "large", receiver, "public.large")
    engine.sink("small", f"{receiver.url}/small")
    database.execute(f"insert into large values (1, 1, {value})")  # type: ignore[arg-type]  # noqa: S608
    database.execute("insert into notifications (user_id, message) values (1, 'beside')")
    receiver.wait_for(1, "/small")
    database.execute("update large set n = 2")
    database.execute("alter table large replica identity full")
    database.execute("update large set n = 3")
    inserted, unchanged, whole = (m["record"] for m in receiver.wait_for(3, "/large", within=30))
    expected = "0123456789" * 5_000_000
    if kind == "jsonb":
        shown = [r["v"]["a"] for r in (inserted, whole)]
    elif kind == "bytea":
        expected = "\\x" + (b"0123456789" * 2_500_000).hex()
        shown = [r["v"] for r in (inserted, whole)]
    else:
        shown = [r["v"] for r in (inserted, whole)]
    assert [digest(v) for v in shown] == [digest(expected)] * 2
    assert unchanged == {"id": 1, "n": 2, "v": "unchanged_toast"}


def peak_mb(pid: int) -> float:
    """Return the peak memory of a process in MB, or its current memory where the system does not record the peak."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return psutil.Process(pid).memory_info().rss / MB
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1000


def large_rows(database: Connection, count: int, *, user_every: int = 100) -> None:
    """Insert rows of 1 MB in one transaction; every `user_every`-th row belongs to user 5."""
    database.execute(
        "insert into large select n, case when mod(n, %s) = 0 then 5 else 1 end, repeat('0123456789', 100000)"
        " from generate_series(1, %s) n",
        (user_every, count),
    )


def test_a_transaction_of_1_gb_passes_a_sink_that_wants_ten_rows_of_it(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    """Changes that no sink wants are not kept, so memory holds a few rows and libpq's buffer, whatever the transaction's size."""
    publish(engine, database, "id int primary key, user_id int, v text")
    engine.user_sink(5, receiver.url, source={"include_tables": ["public.large"]})
    before = peak_mb(engine.pid)
    large_rows(database, 1000)
    assert sorted(m["record"]["id"] for m in receiver.wait_for(10, within=40)) == list(range(100, 1001, 100))
    grown = peak_mb(engine.pid) - before
    print(f"memory grew by {grown:.0f} MB")
    assert grown < 60


def test_400_mb_of_large_rows_wait_for_a_receiver_in_bounded_memory(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    """At most 64 MB of changes are neither delivered nor stored, and another 16 MB are in flight as requests."""
    publish(engine, database, "id int primary key, user_id int, v text")
    sink(engine, "all", receiver, "public.large")
    prompt = Receiver()
    try:
        engine.sink("later", prompt.url)
        before = peak_mb(engine.pid)
        receiver.gate.clear()
        large_rows(database, 400)
        database.execute("insert into notifications (user_id, message) values (1, 'read after all of it')")
        prompt.wait_for(1, within=30)
        receiver.gate.set()
        messages = receiver.wait_for(400, "/all", within=30)
    finally:
        prompt.close()
    assert sorted(m["record"]["id"] for m in messages) == list(range(1, 401))
    grown = peak_mb(engine.pid) - before
    print(f"memory grew by {grown:.0f} MB")
    assert grown < 200


def test_a_backfill_of_400_mb_of_large_rows_takes_bounded_memory(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    """The first page holds 100 rows, and each later page about 8 MB; at most three pages are read ahead of delivery."""
    publish(engine, database, "id int primary key, user_id int, v text")
    large_rows(database, 400)
    sink(engine, "all", receiver, "public.large")
    before = peak_mb(engine.pid)
    engine.ask("POST", "/api/sinks/all/backfills", {})
    assert sorted(m["record"]["id"] for m in receiver.wait_for(400, "/all", within=40)) == list(range(1, 401))
    grown = peak_mb(engine.pid) - before
    print(f"memory grew by {grown:.0f} MB")
    assert grown < 350


def test_a_transaction_of_100_000_rows_arrives_whole_in_bounded_memory(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    """At most 50,000 undelivered messages are in memory, at 2 kB each."""
    engine.sink("all", f"{receiver.url}/all", batch_size=1000)
    engine.user_sink(2, f"{receiver.url}/two", batch_size=1000)
    before = peak_mb(engine.pid)
    database.execute(
        "insert into notifications (user_id, message) select case when mod(n, 1000) = 0 then 2 else 1 end, 'row ' || n"
        " from generate_series(1, 100000) n"
    )
    assert len({m["record"]["id"] for m in receiver.wait_for(100, "/two", within=40)}) == 100
    assert len({m["record"]["id"] for m in receiver.wait_for(100_000, "/all", within=40)}) == 100_000
    grown = peak_mb(engine.pid) - before
    print(f"memory grew by {grown:.0f} MB")
    assert grown < 150


def test_changes_behind_many_rows_that_fail_for_ever_wait_in_bounded_memory(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    """The receiver rejects every other row, so 800 rows wait for a retry, each with 60 changes of 3.5 kB queued behind it."""
    receiver.script = lambda path, messages: 422 if messages[0]["record"]["id"] % 2 else 200
    publish(engine, database, "id int primary key, n int, v text")
    sink(engine, "large", receiver, "public.large")
    database.execute("insert into large select id, 0, '' from generate_series(1, 1600) id")
    receiver.wait_for(800, "/large", within=60)
    for n in range(60):
        database.execute("update large set n = %s, v = repeat('0123456789', 350) where mod(id, 2) = 1", (n,))
    database.execute("insert into large values (2000, 0, '')")
    receiver.wait_for(801, "/large", within=60)
    assert peak_mb(engine.pid) < 280
    database.execute("delete from large")
    receiver.script = lambda path, messages: 200
    engine.ask("PATCH", "/api/sinks/large", {"batch_size": 100})
    receiver.wait_for(800 + 801 + 62 * 800, "/large", within=120)
    received: dict[int, list[int]] = {}
    for message in receiver.messages("/large"):
        if message["action"] == "update":
            received.setdefault(message["record"]["id"], []).append(message["record"]["n"])
    assert received == {row: list(range(60)) for row in range(1, 1600, 2)}
