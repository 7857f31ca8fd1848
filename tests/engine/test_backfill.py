"""Backfills beside live writes: the real program, real pages, real watermarks."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


def fill(database: Connection, rows: int) -> None:
    database.execute(
        "insert into notifications (user_id, message) select 1 + mod(n, 3), 'row ' || n from generate_series(1, %s) n", (rows,)
    )


def finished(engine: EngineProgram, sink: str, backfill: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/sinks/{sink}/backfills/{backfill['id']}"
    return eventually(lambda: (b := engine.ask("GET", path))["state"] != "active" and b, within=30, what=path)


def test_it_sends_every_row_of_the_user_once_as_read(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database, 3500)
    engine.user_sink(2, receiver.url, batch_size=50)
    backfill = engine.ask("POST", "/api/sinks/user-2/backfills", {})
    done = finished(engine, "user-2", backfill)
    expected = [row[0] for row in database.execute("select id from notifications where user_id = 2 order by id")]
    messages = receiver.messages()
    assert sorted(receiver.ids()) == expected
    assert {m["action"] for m in messages} == {"read"}
    assert {(m["metadata"]["commit_lsn"], m["metadata"]["commit_idx"], m["changes"]) for m in messages} == {(None, None, None)}
    assert (done["state"], done["rows_initial_count"], done["rows_processed_count"]) == ("completed", 1167, 1167)


def test_no_stale_row_follows_a_newer_change(engine: EngineProgram, database: Connection, receiver: Receiver, database_url: str) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    luck = random.Random(seed)
    fill(database, 6000)
    engine.user_sink(1, receiver.url, batch_size=100)
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            n = 0
            while not stop.is_set():
                n += 1
                ids = [luck.randrange(1, 6001) for _ in range(5)]
                connection.execute("update notifications set message = 'version ' || %s where id = any(%s)", (n, ids))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backfill = engine.ask("POST", "/api/sinks/user-1/backfills", {})
        finished(engine, "user-1", backfill)
    finally:
        stop.set()
        writer.join()
    truth = dict(database.execute("select id, message from notifications where user_id = 1").fetchall())

    def latest() -> dict[int, str]:
        return {m["record"]["id"]: m["record"]["message"] for m in receiver.messages()}

    eventually(lambda: latest() == truth, within=15, what="the last message of each row to tell the row's present state")


def test_a_cancelled_backfill_stops(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database, 9000)
    receiver.gate.clear()
    engine.user_sink(1, receiver.url)
    backfill = engine.ask("POST", "/api/sinks/user-1/backfills", {})
    answer = engine.ask("PATCH", f"/api/sinks/user-1/backfills/{backfill['id']}", {"state": "cancelled"})
    receiver.gate.set()
    assert answer["state"] == "cancelled"
    assert answer["canceled_at"]
    database.execute("insert into notifications (user_id, message) values (1, 'live')")
    eventually(lambda: "live" in [m["record"]["message"] for m in receiver.messages()])
    assert len(receiver.messages()) < 3000


def test_it_goes_on_after_the_engine_was_killed(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database, 9000)
    engine.user_sink(1, receiver.url, batch_size=10)
    backfill = engine.ask("POST", "/api/sinks/user-1/backfills", {})
    receiver.wait_for(1100)
    engine.kill()
    engine.start()
    done = finished(engine, "user-1", backfill)
    expected = {row[0] for row in database.execute("select id from notifications where user_id = 1")}
    assert done["state"] == "completed"
    assert set(receiver.ids()) == expected
    assert len(receiver.ids()) < 2 * len(expected)


def test_it_goes_on_after_its_connection_was_cut(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database, 9000)
    engine.user_sink(1, receiver.url, batch_size=10)
    backfill = engine.ask("POST", "/api/sinks/user-1/backfills", {})
    receiver.wait_for(500)
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'userhooks-engine' and datname = %s"
    assert len(database.execute(cut, (database.info.dbname,)).fetchall()) >= 2
    done = finished(engine, "user-1", backfill)
    expected = {row[0] for row in database.execute("select id from notifications where user_id = 1")}
    assert done["state"] == "completed"
    assert set(receiver.ids()) == expected
