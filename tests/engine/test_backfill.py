"""Backfills during live writes, with the real engine process and several pages of rows."""

from __future__ import annotations

import random
import threading
from itertools import pairwise
from typing import Any

import httpx
import psycopg

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]
MOST_REPEATED = 3000
"""Rows that may be repeated after a crash: three pages, as the engine's README promises."""


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
    rng = random.Random(seed)
    fill(database, 6000)
    engine.user_sink(1, receiver.url, batch_size=100)
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            n = 0
            while not stop.is_set():
                n += 1
                ids = [rng.randrange(1, 6001) for _ in range(5)]
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

    eventually(lambda: latest() == truth, within=15, what="the last message of each row to show the row's current state")


def test_a_row_that_moves_behind_the_reading_position_while_the_receiver_is_slow_is_read_all_the_same(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    """The sink does not receive the row's update, so only a `read` can deliver it."""
    fill(database, 9000)
    other = Receiver()
    try:
        engine.sink("updates", other.url, actions=["update"])
        engine.sink("inserts", receiver.url, actions=["insert"], batch_size=100)
        receiver.gate.clear()
        backfill = engine.ask("POST", "/api/sinks/inserts/backfills", {})
        path = f"/api/sinks/inserts/backfills/{backfill['id']}"
        eventually(lambda: engine.ask("GET", path)["rows_initial_count"] == 9000)
        for n in range(8500, 8600):
            database.execute("update notifications set id = -id where id = %s", (n,))
        other.wait_for(100)
        receiver.gate.set()
    finally:
        other.close()
    assert finished(engine, "inserts", backfill)["state"] == "completed"
    assert {abs(row_id) for row_id in receiver.ids()} == set(range(1, 9001))


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


def pending_messages(engine: EngineProgram) -> float:
    """Return the number of pending messages on the metrics page."""
    page = httpx.get(f"http://127.0.0.1:{engine.config['metrics_port']}/metrics").text
    counts = [float(line.split()[-1]) for line in page.splitlines() if line.startswith("sequin_messages_buffered{")]
    assert counts
    return sum(counts)


def test_a_paused_backfill_sends_nothing_and_goes_on_where_it_was(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database, 12_000)
    engine.sink("all", receiver.url, batch_size=20)
    backfill = engine.ask("POST", "/api/sinks/all/backfills", {})
    path = f"/api/sinks/all/backfills/{backfill['id']}"
    receiver.wait_for(2500)
    assert engine.ask("PATCH", path, {"state": "paused"})["state"] == "paused"
    database.execute("insert into notifications (user_id, message) values (1, 'first')")
    eventually(lambda: "first" in [m["record"]["message"] for m in receiver.messages()])
    eventually(lambda: not pending_messages(engine), what="the messages in flight at the pause to arrive")
    before = receiver.messages()
    database.execute("insert into notifications (user_id, message) values (1, 'second')")
    eventually(lambda: "second" in [m["record"]["message"] for m in receiver.messages()])
    assert len(receiver.messages()) == len(before) + 1
    assert engine.ask("GET", path)["state"] == "paused"
    assert engine.ask("PATCH", path, {"state": "active"})["state"] == "active"
    done = finished(engine, "all", backfill)
    assert (done["state"], done["rows_processed_count"]) == ("completed", 12_002)
    read = [m["record"]["id"] for m in receiver.messages() if m["action"] == "read"]
    assert set(read) == set(range(1, 12_003))
    assert len(read) - 12_002 <= MOST_REPEATED


def test_killed_again_and_again_it_repeats_three_pages_at_most(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    fill(database, 15_000)
    engine.sink("all", receiver.url, batch_size=20)
    backfill = engine.ask("POST", "/api/sinks/all/backfills", {})
    kills = []
    for reached in (500, 5000, 9000):
        eventually(lambda reached=reached: len(set(receiver.ids())) >= reached, within=30)  # type: ignore[misc]
        assert engine.ask("GET", "/api/sinks/all/backfills")["data"][0]["state"] == "active"
        engine.kill()
        receiver.settle()  # Requests of the killed engine that are read only now do not count as repeats of the next one.
        kills.append(len(receiver.ids()))
        engine.start()
    assert finished(engine, "all", backfill)["state"] == "completed"
    received = receiver.ids()
    repeated = [len([*filter(set(received[:kill]).__contains__, received[kill:end])]) for kill, end in pairwise([*kills, len(received)])]
    print("repeated after each kill:", repeated)
    assert max(repeated) <= MOST_REPEATED
    assert set(received) == set(range(1, 15_001))


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


def test_a_few_rows_of_a_big_table_are_read_by_their_index_and_no_others(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    database.execute("insert into users (id, name) values (77, 'rare') on conflict do nothing")
    fill(database, 60_000)
    database.execute("insert into notifications (user_id, message) select 77, n from generate_series(1, 30) n")
    database.execute("create index on notifications (user_id)")
    database.execute("alter table notifications alter user_id set statistics 1")
    database.execute("analyze notifications")  # With one statistics target, the planner assumes thousands of rows for each user.
    counters = "select seq_scan, seq_tup_read, coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'notifications'"
    database.execute("select pg_stat_force_next_flush()")

    def read() -> tuple[int, int, int]:
        row = database.execute(counters).fetchone()
        assert row is not None
        return tuple(row)

    engine.user_sink(77, receiver.url)
    before = read()
    done = finished(engine, "user-77", engine.ask("POST", "/api/sinks/user-77/backfills", {}))
    assert (done["state"], done["rows_initial_count"], done["rows_processed_count"]) == ("completed", 30, 30)
    assert {m["record"]["user_id"] for m in receiver.wait_for(30)} == {77}
    fetched = eventually(lambda: (now := read())[2] >= before[2] + 30 and now, what="the counters of rows read")
    assert fetched[:2] == before[:2]
    assert fetched[2] - before[2] <= 60  # Each row once for reading and once for counting.
