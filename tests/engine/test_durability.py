"""Messages that cannot be delivered at once: they wait on disk in order, hold up neither slot nor other sinks, and survive kill -9."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


def insert(database: Connection, user: int, count: int, text: str = "row") -> list[int]:
    query = "insert into notifications (user_id, message) select %s, %s || ' ' || g from generate_series(1, %s) g returning id"
    return [row[0] for row in database.execute(query, (user, text, count)).fetchall()]


def touch(database: Connection, times: int, only: int | None = None) -> None:
    """Update every row, or only the row with the id `only`, `times` times, each time in a separate transaction."""
    for n in range(times):
        database.execute("update notifications set message = %s where id = coalesce(%s, id)", (f"version {n}", only))


def versions(messages: list[dict[str, Any]]) -> dict[int, list[str]]:
    """Return the texts that arrived for each row, in order and without repeats."""
    keys: set[str] = set()
    texts: dict[int, list[str]] = {}
    for message in messages:
        key = message["metadata"]["idempotency_key"]
        if key not in keys:
            keys.add(key)
            texts.setdefault(message["record"]["id"], []).append(message["record"]["message"])
    return texts


def unconfirmed(database: Connection, slot: str) -> int:
    """Return the number of bytes of WAL after the slot's confirmed LSN."""
    query = "select pg_current_wal_insert_lsn() - confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
    row = database.execute(query, (slot,)).fetchone()
    assert row is not None
    return int(row[0])


def health(engine: EngineProgram, sink: str) -> str:
    return " ".join(check.get("error", "") for check in engine.ask("GET", f"/api/sinks/{sink}")["health"]["checks"])


def knows_oldest(engine: EngineProgram, sink: str) -> bool:
    page = re.sub(r"<[^>]+>", " ", engine.http.get(f"/sinks/{sink}").text)
    return re.search(r"oldest \d", page) is not None


@contextmanager
def deaf_port() -> Iterator[str]:
    """Yield the URL of a receiver that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        connections: list[socket.socket] = []
        listener.settimeout(0.1)
        is_over = threading.Event()

        def accept() -> None:
            while not is_over.is_set():
                try:
                    connections.append(listener.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            is_over.set()
            thread.join()
            for connection in connections:
                connection.close()


def test_what_fails_does_not_hold_the_slot_and_survives_a_crash_in_order(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url)
    receiver.script = lambda *_: 500
    ids = insert(database, 1, 20)
    touch(database, 3)
    eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000, what="the slot to be confirmed past the failing messages")
    engine.kill()
    receiver.script = lambda *_: 200
    engine.start()
    receiver.wait_for(80)
    by_row = versions(receiver.messages())
    assert set(by_row) == set(ids)
    assert {tuple(texts[1:]) for texts in by_row.values()} == {("version 0", "version 1", "version 2")}


def test_a_paused_sinks_changes_wait_on_disk_through_a_crash_and_come_in_order(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url, batch_size=10)
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "paused"})
    ids = insert(database, 1, 3000)
    touch(database, 2)
    eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000, what="the slot to be confirmed past the pending messages")
    engine.kill()
    engine.start()
    insert(database, 1, 1, "after")
    eventually(lambda: knows_oldest(engine, "user-1"), what="the age of the oldest message in the console")
    assert receiver.requests == []
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    receiver.wait_for(9001)
    by_row = versions(receiver.messages())
    assert len(by_row) == 3001
    assert {tuple(by_row[row][1:]) for row in ids} == {("version 0", "version 1")}


def test_one_row_that_fails_for_long_holds_back_thousands_of_its_own_and_no_other(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url)
    [bad, good] = insert(database, 1, 2)
    receiver.wait_for(2)
    is_fixed = threading.Event()
    receiver.script = lambda _, messages: 500 if messages[0]["record"]["id"] == bad and not is_fixed.is_set() else 200
    with database.transaction():
        touch(database, 600, bad)
    touch(database, 50, good)
    eventually(lambda: len(versions(receiver.messages())[good]) == 51)
    eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000, what="the slot to be confirmed past the pending messages")
    is_fixed.set()
    eventually(lambda: len(versions(receiver.messages())[bad]) == 601, within=30)
    assert versions(receiver.messages())[bad][1:] == [f"version {n}" for n in range(600)]


def test_a_stop_waits_for_the_answers_to_what_is_on_its_way(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    receiver.gate.clear()
    engine.sink("all", receiver.url)
    ids = insert(database, 1, 20)
    eventually(lambda: receiver.arrived == 20, what="all requests")
    threading.Timer(0.5, receiver.gate.set).start()
    engine.stop()
    engine.start()
    later = insert(database, 1, 1)
    receiver.wait_for(21)
    assert sorted(receiver.ids()) == [*ids, *later]


def test_a_deleted_sinks_waiting_messages_leave_the_store(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url, status="paused")
    engine.user_sink(2, f"{receiver.url}/2", status="paused")
    for user in (1, 2):
        insert(database, user, 2000, "x" * 500)
    eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000)
    engine.ask("DELETE", "/api/sinks/user-1")
    engine.kill()
    engine.start()
    engine.ask("PATCH", "/api/sinks/user-2", {"status": "active"})
    receiver.wait_for(2000)
    assert {r.path for r in receiver.requests} == {"/2"}


def test_what_waits_is_judged_by_the_filter_of_the_present_and_sent_to_the_url_of_the_present(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, f"{receiver.url}/old", status="paused")
    mine = insert(database, 1, 1500)
    eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000)
    engine.ask("PATCH", "/api/destinations/http_endpoints/user-1", {"url": f"{receiver.url}/new"})
    engine.ask("PATCH", "/api/sinks/user-1", {"annotations": {"user_id": "2"}})
    theirs = insert(database, 2, 1)
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    receiver.wait_for(1)
    assert receiver.ids("/new") == theirs
    assert not set(mine) & set(receiver.ids())


def test_a_message_out_of_attempts_is_kept_listed_and_sent_again(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url, max_retry_count=2)
    receiver.script = lambda *_: 503
    [first, second] = insert(database, 1, 2)
    eventually(lambda: len(engine.ask("GET", "/api/sinks/user-1/discarded")["data"]) == 2)
    engine.kill()
    engine.start()
    listed = engine.ask("GET", "/api/sinks/user-1/discarded")["data"]
    assert {(m["table"], m["key"], m["action"], m["attempts"], m["error"]) for m in listed} == {
        ("public.notifications", str(row), "insert", 2, "[http_endpoint]: Unexpected status code: 503") for row in (first, second)
    }
    assert "discarded after" in health(engine, "user-1")
    assert len(receiver.requests) == 4, "attempts in total"
    receiver.script = lambda *_: 200
    engine.ask("PUT", "/api/sinks/user-1", {"status": "disabled"})
    with pytest.raises(AssertionError, match="set its status to active first"):
        engine.ask("POST", "/api/sinks/user-1/redeliver", {})
    engine.ask("PUT", "/api/sinks/user-1", {"status": "active"})
    chosen = next(m["id"] for m in listed if m["key"] == str(second))
    assert engine.ask("POST", "/api/sinks/user-1/redeliver", {"ids": [chosen]}) == {"redelivered": 1}
    receiver.wait_for(1)
    assert receiver.ids() == [second]
    assert engine.ask("POST", "/api/sinks/user-1/redeliver", {}) == {"redelivered": 1}
    receiver.wait_for(2)
    assert engine.ask("GET", "/api/sinks/user-1/discarded")["data"] == []
    eventually(lambda: health(engine, "user-1").strip() == "")


def test_an_endpoint_that_answers_410_pauses_its_sink_which_says_why(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url)
    receiver.script = lambda *_: 410
    ids = insert(database, 1, 1)
    eventually(lambda: engine.ask("GET", "/api/sinks/user-1")["status"] == "paused")
    ids += insert(database, 1, 5)
    assert "410 Gone" in health(engine, "user-1")
    engine.kill()
    engine.start()
    assert "410 Gone" in health(engine, "user-1")
    assert len(receiver.requests) == 1
    receiver.script = lambda *_: 200
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    receiver.wait_for(6)
    assert sorted(receiver.ids()) == ids
    eventually(lambda: "410" not in health(engine, "user-1"))


def test_receivers_that_never_answer_hold_up_nobody_else(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    with deaf_port() as deaf:
        for n in range(30):
            engine.sink(f"deaf-{n}", deaf)
        engine.user_sink(1, receiver.url)
        insert(database, 2, 200)
        mine = insert(database, 1, 200)
        receiver.wait_for(200)
        assert sorted(receiver.ids()) == mine
        eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000, what="the slot to be confirmed past the pending messages")


def test_a_full_store_is_said_loudly_and_loses_nothing(database_url: str, database: Connection, receiver: Receiver, tmp_path: Any) -> None:
    engine = EngineProgram(database_url, tmp_path, publication="test_pub", store_max_pages=60).start()
    try:
        engine.user_sink(1, receiver.url)
        receiver.script = lambda *_: 500
        # Ten transactions, because Postgres may let the slot be confirmed up to just before the first pending commit.
        ids = [row for _ in range(10) for row in insert(database, 1, 100, "x" * 400)]
        eventually(lambda: "store cannot be written" in health(engine, "user-1"))
        assert "store cannot be written" in engine.log.read_text()
        assert unconfirmed(database, engine.config["slot"]) > 100_000, "Postgres keeps what the store cannot"
        engine.kill()
        engine.start()
        receiver.script = lambda *_: 200
        eventually(lambda: set(receiver.ids()) == set(ids), within=30)
        eventually(lambda: "store cannot" not in health(engine, "user-1"))
        eventually(lambda: unconfirmed(database, engine.config["slot"]) < 2000)
    finally:
        engine.stop()


@pytest.mark.parametrize("ids", ["all", [1, "2"], [1.5]])
def test_redelivering_takes_a_list_of_integers(engine: EngineProgram, receiver: Receiver, ids: Any) -> None:
    engine.user_sink(1, receiver.url)
    answer = engine.http.post("/api/sinks/user-1/redeliver", json={"ids": ids})
    assert answer.status_code == 422
    assert "integers" in answer.json()["summary"]


def test_a_long_queue_of_one_group_keeps_its_order_in_batches(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.sink("all", receiver.url, batch_size=10, tables=[{"name": "public.notifications", "group_column_names": ["user_id"]}])
    receiver.gate.clear()
    ids = insert(database, 1, 2000)
    receiver.gate.set()
    receiver.wait_for(2000)
    assert receiver.ids() == ids


def test_a_changed_filter_loses_nothing_of_a_batch_in_backoff(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    receiver.script = lambda *_: 500
    engine.sink("all", receiver.url, batch_size=4)
    ids = insert(database, 1, 20)
    eventually(lambda: len(receiver.requests) >= 5)
    engine.ask("PATCH", "/api/sinks/all", {"actions": ["insert"]})
    receiver.script = lambda *_: 200
    receiver.wait_for(20)
    assert sorted(set(receiver.ids())) == ids
