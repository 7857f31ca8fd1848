"""Delivery by the real engine process: recipients, order, batches, and behavior when a receiver fails."""

from __future__ import annotations

import random
from typing import Any

import httpx
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


def insert(database: Connection, user: int, *texts: str) -> list[int]:
    query = "insert into notifications (user_id, message) select %s, unnest(%s::text[]) returning id"
    return [row[0] for row in database.execute(query, (user, list(texts))).fetchall()]


def actions_and_texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(m["action"], m["record"]["message"]) for m in messages]


def counted(engine: EngineProgram, name: str) -> float:
    """Return the value of a metric of user 1's sink; 0 if the page does not have it yet."""
    page = httpx.get(f"http://127.0.0.1:{engine.config['metrics_port']}/metrics").text
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{") and 'consumer_name="user-1"' in line]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_each_user_gets_their_own_rows_and_nobody_elses(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    for user in (1, 2):
        engine.user_sink(user, f"{receiver.url}/{user}")
    expected = {user: insert(database, user, "a", "b", "c") for user in (1, 2, 3)}
    receiver.wait_for(6)
    assert sorted(receiver.ids("/1")) == expected[1]
    assert sorted(receiver.ids("/2")) == expected[2]
    assert len(receiver.messages()) == 6


def test_a_rows_life_arrives_in_order(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url)
    insert(database, 1, "born")
    for text in ("older", "wiser"):
        database.execute("update notifications set message = %s", (text,))
    database.execute("delete from notifications")
    messages = receiver.wait_for(4)
    assert actions_and_texts(messages) == [("insert", "born"), ("update", "older"), ("update", "wiser"), ("delete", "wiser")]
    assert messages[1]["changes"] == {"message": "born"}


def test_a_row_that_moves_to_another_user_is_withheld_from_both(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    for user in (1, 2):
        engine.user_sink(user, f"{receiver.url}/{user}")
    insert(database, 1, "mine")
    database.execute("update notifications set user_id = 2")
    database.execute("update notifications set message = 'now theirs'")
    receiver.wait_for(2)
    assert actions_and_texts(receiver.messages("/1")) == [("insert", "mine")]
    assert actions_and_texts(receiver.messages("/2")) == [("update", "now theirs")]


def test_a_sink_is_live_when_the_create_call_returns_and_not_before(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    for n in range(5):
        insert(database, 1, f"before {n}")
        engine.sink(f"sink-{n}", f"{receiver.url}/{n}/")
        insert(database, 1, f"after {n}")
    receiver.wait_for(25)
    for n in range(5):
        texts = {text for _, text in actions_and_texts(receiver.messages(f"/{n}/"))}
        assert f"before {n}" not in texts
        assert texts >= {f"after {m}" for m in range(n, 5)}


def test_a_failing_message_holds_back_its_own_row_only(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url)
    receiver.script = lambda _, messages: 500 if messages[0]["record"]["id"] == stubborn and not is_fixed else 200
    is_fixed = False
    [stubborn] = insert(database, 1, "first")
    [other] = insert(database, 1, "another row")
    database.execute("update notifications set message = 'second' where id = %s", (stubborn,))
    receiver.wait_for(1)
    eventually(lambda: len([r for r in receiver.requests if r.status == 500]) >= 3)
    assert receiver.ids() == [other]
    is_fixed = True
    messages = [m for m in receiver.wait_for(3) if m["record"]["id"] == stubborn]
    assert actions_and_texts(messages) == [("insert", "first"), ("update", "second")]


def test_rows_that_are_refused_for_ever_keep_nothing_back_from_others(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    receiver.script = lambda path, messages: 422 if messages[0]["record"]["message"] == "refused" else 200
    engine.user_sink(1, receiver.url)
    insert(database, 1, *["refused"] * 12)
    eventually(lambda: len(receiver.requests) > 60, what="many attempts")
    for n in range(20):
        insert(database, 1, f"fine {n}")
    receiver.wait_for(20)
    insert(database, 1, *["refused"] * 12)
    attempts = len(receiver.requests)
    eventually(lambda: len(receiver.requests) > attempts + 12, what="more attempts")
    insert(database, 1, "last")
    assert [text for _, text in actions_and_texts(receiver.wait_for(21))][-1] == "last"


def test_only_the_offending_message_of_a_batch_waits(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url, batch_size=10)
    receiver.script = lambda _, messages: 500 if "poison" in [m["record"]["message"] for m in messages] else 200
    insert(database, 1, *["fine"] * 12, "poison", *["fine"] * 12)
    receiver.wait_for(24)
    assert all(text == "fine" for _, text in actions_and_texts(receiver.messages()))


def test_batches_are_full_when_there_is_enough(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url, batch_size=10)
    insert(database, 1, *["x"] * 25)
    receiver.wait_for(25)
    assert sorted(len(r.messages) for r in receiver.requests) == [5, 10, 10]


def test_the_retry_limit_counts_attempts_and_then_frees_the_row(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, receiver.url, max_retry_count=3)
    receiver.script = lambda _, messages: 500 if messages[0]["record"]["message"] == "bad" else 200
    insert(database, 1, "bad")
    database.execute("update notifications set message = 'good'")
    assert actions_and_texts(receiver.wait_for(1)) == [("update", "good")]
    assert [r.status for r in receiver.requests] == [500, 500, 500, 200]


def test_a_request_that_met_a_closing_connection_is_sent_again_and_is_no_attempt_of_its_own(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url, max_retry_count=1)
    receiver.script = lambda *_: 0 if len(receiver.requests) == 1 else 200
    insert(database, 1, "first")
    receiver.wait_for(1)
    insert(database, 1, "second")
    receiver.wait_for(2)
    assert [(r.status, r.connection) for r in receiver.requests] == [(200, 1), (0, 1), (200, 2)]
    assert receiver.requests[1].body == receiver.requests[2].body
    eventually(lambda: counted(engine, "sequin_message_deliver_success_count") == 2, what="both messages to be delivered")
    assert counted(engine, "sequin_message_deliver_attempt_count") == 2
    assert counted(engine, "sequin_message_deliver_failure_count") == 0
    assert counted(engine, "userhooks_requests_repeated") == 1


def test_a_receiver_that_ends_every_connection_unanswered_gets_no_more_than_one_repeat_an_attempt(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url, max_retry_count=2)
    receiver.script = lambda *_: 0 if receiver.requests else 200
    insert(database, 1, "first")
    receiver.wait_for(1)
    insert(database, 1, "second")
    eventually(lambda: counted(engine, "userhooks_messages_discarded") == 1, what="the message to be discarded")
    assert [(r.status, r.connection) for r in receiver.requests] == [(200, 1), (0, 1), (0, 2), (0, 3)]
    assert counted(engine, "userhooks_requests_repeated") == 1


@pytest.mark.parametrize("end", ["paused", "deleted"])
def test_a_request_of_a_sink_that_has_ended_is_not_sent_again(
    engine: EngineProgram, database: Connection, receiver: Receiver, end: str
) -> None:
    receiver.script = lambda path, _: 0 if path == "/1" and receiver.requests else 200
    engine.user_sink(1, f"{receiver.url}/1")
    engine.user_sink(2, f"{receiver.url}/2")
    insert(database, 1, "first")
    receiver.wait_for(1)
    receiver.gate.clear()
    insert(database, 1, "second")
    eventually(lambda: receiver.arrived == 2, what="the request that will not be answered")
    if end == "paused":
        engine.ask("PATCH", "/api/sinks/user-1", {"status": "paused"})
    else:
        engine.ask("DELETE", "/api/sinks/user-1")
    receiver.gate.set()
    eventually(lambda: len(receiver.requests) == 2, what="the connection to be closed")
    insert(database, 2, "of another user")
    receiver.wait_for(1, "/2")
    assert [(r.path, r.status) for r in receiver.requests] == [("/1", 200), ("/1", 0), ("/2", 200)]


@pytest.mark.parametrize(("key", "value"), [("headers", "gzip"), ("encrypted_headers", " GZIP")])
@pytest.mark.parametrize("batch", [True, False])
def test_an_endpoint_whose_header_promises_gzip_gets_gzip(
    engine: EngineProgram, database: Connection, receiver: Receiver, key: str, value: str, batch: bool
) -> None:
    engine.endpoint("packed", f"{receiver.url}/packed", **{key: {"Content-Encoding": value}})
    sink = {"name": "packed", "database": "postgres", "destination": {"type": "webhook", "http_endpoint": "packed", "batch": batch}}
    engine.ask("POST", "/api/sinks", sink)
    insert(database, 1, "x" * 20_000)
    assert actions_and_texts(receiver.wait_for(1)) == [("insert", "x" * 20_000)]
    [request] = receiver.requests
    assert ("content-encoding", "gzip") in request.headers
    assert len(request.body) < 2_000
    engine.ask("PATCH", "/api/destinations/http_endpoints/packed", {key: {}})
    insert(database, 1, "plain")
    receiver.wait_for(2)
    assert "content-encoding" not in dict(receiver.requests[-1].headers)
    assert b'"plain"' in receiver.requests[-1].body


@pytest.mark.parametrize("status", [301, 307, 404, 429, 500, 503])
def test_everything_but_2xx_is_tried_again(engine: EngineProgram, database: Connection, receiver: Receiver, status: int) -> None:
    engine.user_sink(1, receiver.url)
    receiver.script = lambda *_: status if len(receiver.requests) < 2 else 204
    insert(database, 1, "hello")
    receiver.wait_for(1)
    assert [r.status for r in receiver.requests] == [status, status, 204]
    keys = {r.messages[0]["metadata"]["idempotency_key"] for r in receiver.requests}
    assert len(keys) == 1


def test_a_paused_sink_keeps_what_it_owes_until_it_is_active(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, f"{receiver.url}/1")
    engine.sink("all", f"{receiver.url}/all")
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "paused"})
    insert(database, 1, "one", "two")
    receiver.wait_for(2, "/all")
    assert receiver.messages("/1") == []
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    receiver.wait_for(2, "/1")


def test_a_disabled_sink_collects_nothing(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, f"{receiver.url}/1")
    engine.sink("all", f"{receiver.url}/all")
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "disabled"})
    insert(database, 1, "unseen")
    receiver.wait_for(1, "/all")
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    insert(database, 1, "seen")
    receiver.wait_for(2, "/all")
    assert actions_and_texts(receiver.wait_for(1, "/1")) == [("insert", "seen")]


def test_a_row_that_failed_before_its_sink_was_disabled_is_delivered_again_once_it_changes(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    engine.user_sink(1, receiver.url)
    receiver.script = lambda *_: 500
    insert(database, 1, "failing")
    eventually(lambda: len(receiver.requests) >= 2)
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "disabled"})
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    receiver.script = lambda *_: 200
    database.execute("update notifications set message = 'changed'")
    assert ("update", "changed") in actions_and_texts(receiver.wait_for(1))


def test_a_filter_that_raises_delivers_nothing_and_says_so(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    code = 'def filter(action, record, changes, metadata) do\n        not record["message"]\n      end'
    engine.ask("POST", "/api/config/apply", {"yaml": f"functions:\n  - name: raising\n    type: filter\n    code: |-\n      {code}\n"})
    engine.sink("raising", f"{receiver.url}/raising", filter="raising")
    engine.sink("all", f"{receiver.url}/all")
    insert(database, 1, "x")
    receiver.wait_for(1, "/all")

    def errors() -> dict[str, str]:
        checks = engine.ask("GET", "/api/sinks/raising")["health"]["checks"]
        return {check["name"]: check["error"] for check in checks if check["status"] == "error"}

    assert list(eventually(errors)) == ["Message filtering", "Message delivery"]
    (error,) = set(errors().values())
    assert error.startswith("[filter]: argument error (line: 2)")
    assert receiver.messages("/raising") == []


def test_a_changed_filter_is_asked_again_about_what_waits(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    engine.user_sink(1, f"{receiver.url}/changed", status="paused")
    engine.user_sink(2, f"{receiver.url}/witness")
    insert(database, 1, "of user 1")
    insert(database, 2, "of user 2")
    receiver.wait_for(1, "/witness")  # Both changes have been read by then.
    engine.ask("PATCH", "/api/sinks/user-1", {"annotations": {"user_id": "2"}})
    engine.ask("PATCH", "/api/sinks/user-1", {"status": "active"})
    insert(database, 2, "later")
    assert [text for _, text in actions_and_texts(receiver.wait_for(1, "/changed"))] == ["later"]


def test_waiting_messages_go_to_the_endpoints_new_url(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    receiver.script = lambda path, _: 500 if path == "/old" else 200
    engine.user_sink(1, f"{receiver.url}/old")
    insert(database, 1, "hello")
    eventually(lambda: receiver.requests)
    engine.ask("PATCH", "/api/destinations/http_endpoints/user-1", {"url": f"{receiver.url}/new"})
    assert actions_and_texts(receiver.wait_for(1, "/new")) == [("insert", "hello")]


def test_nothing_is_lost_or_reordered_over_kill_and_restart(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    receiver.script = lambda *_: 500 if rng.random() < 0.1 else 200
    for user in (1, 2, 3):
        engine.user_sink(user, f"{receiver.url}/{user}")
    written: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for round_ in range(4):
        for _ in range(30):
            user = rng.choice((1, 2, 3))
            written[user] += insert(database, user, *["x"] * rng.randrange(1, 20))
        engine.kill()
        user = rng.choice((1, 2, 3))
        written[user] += insert(database, user, f"while the engine was down {round_}")
        engine.start()
    for user, ids in written.items():
        eventually(lambda user=user, ids=ids: set(receiver.ids(f"/{user}")) >= set(ids), within=30)
        assert set(receiver.ids(f"/{user}")) == set(ids)


def test_the_slot_moves_on_when_nothing_is_owed(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    database.execute("create table elsewhere (x int)")

    def confirmed() -> int:
        query = "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"
        row = database.execute(query, (engine.config["slot"],)).fetchone()
        return int(row[0]) if row else 0

    row = database.execute("insert into elsewhere select generate_series(1, 1000); select pg_current_wal_lsn() - '0/0'::pg_lsn") and None
    assert row is None
    end = int(database.execute("select pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()[0])  # type: ignore[index]
    eventually(lambda: confirmed() >= end, within=15, what="the confirmed position to pass unpublished changes")


def test_a_table_made_while_the_engine_runs_is_understood(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    database.execute("create table public.orders (id int primary key, what text)")
    database.execute("alter publication test_pub add table public.orders")
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    engine.endpoint("orders", receiver.url)
    destination = {"type": "webhook", "http_endpoint": "orders"}
    source = {"include_tables": ["public.orders"]}
    engine.ask("POST", "/api/sinks", {"name": "orders", "database": "postgres", "source": source, "destination": destination})
    database.execute("insert into orders values (1, 'tea')")
    database.execute("alter table orders add column price numeric(10, 2)")
    database.execute("insert into orders values (2, 'cake', 3.5)")
    records = sorted((message["record"] for message in receiver.wait_for(2)), key=lambda record: record["id"])  # rows have no order
    assert records == [{"id": 1, "what": "tea"}, {"id": 2, "what": "cake", "price": "3.50"}]
