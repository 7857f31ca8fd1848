"""Transform functions: a receiver gets exactly what the function returns for a change."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

CUSTOM = """\
def transform(action, record, changes, metadata) do
  %{
    id: record["id"],
    title: "#{action} of " <> metadata.table_name,
    body: Map.take(record, ["message", "user_id"]),
    mine: metadata.consumer.annotations["user_id"] == to_string(record["user_id"]),
    was: changes["message"]
  }
end"""
FRAGILE = 'def transform(_action, record, _changes, _metadata) do\n  %{text: "<" <> record["message"] <> ">"}\nend'
STURDY = 'def transform(_action, record, _changes, _metadata) do\n  %{text: "<#{record["message"]}>"}\nend'


def apply(engine: EngineProgram, name: str, code: str) -> None:
    lines = "".join(f"      {line}\n" for line in code.splitlines())
    engine.ask("POST", "/api/config/apply", {"yaml": f"functions:\n  - name: {name}\n    type: transform\n    code: |-\n{lines}"})


def insert(database: psycopg.Connection[Any], *messages: str | None) -> list[int]:
    query = "insert into notifications (user_id, message) select 1, unnest(%s::text[]) returning id"
    return [row[0] for row in database.execute(query, (list(messages),)).fetchall()]


def test_a_receiver_gets_the_map_that_the_function_builds(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    apply(engine, "custom", CUSTOM)
    engine.user_sink(1, receiver.url, transform="custom")
    [row] = insert(database, "hello")
    receiver.wait_for(1)
    database.execute("update notifications set message = 'bye'")
    body = {"user_id": 1, "message": "hello"}
    first = {"id": row, "title": "insert of notifications", "body": body, "mine": True, "was": None}
    second = first | {"title": "update of notifications", "body": body | {"message": "bye"}, "was": "hello"}
    assert receiver.wait_for(2) == [first, second]


def test_a_path_picks_a_part_and_a_batch_holds_several(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    yaml = "functions:\n  - name: only-text\n    type: path\n    path: record.message\n"
    engine.ask("POST", "/api/config/apply", {"yaml": yaml})
    engine.user_sink(1, receiver.url, transform="only-text", batch_size=3)
    insert(database, "a", "b", "c")
    assert sorted(receiver.wait_for(3)) == ["a", "b", "c"]  # type: ignore[type-var]


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_nil_and_false_are_an_empty_body_unless_in_a_batch(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver, encoding: str | None
) -> None:
    answers = 'case record["message"] do\n    "none" -> nil\n    "no" -> false\n    "word" -> "null"\n    _ -> 0\n  end'
    apply(engine, "little", f"def transform(_action, record, _changes, _metadata) do\n  {answers}\nend")
    headers = {"headers": {"content-encoding": encoding}} if encoding else {}
    source = {"include_tables": ["public.notifications"]}
    for name, batch in (("alone", False), ("batched", True)):
        engine.ask("POST", "/api/destinations/http_endpoints", {"name": name, "url": f"{receiver.url}/{name}", **headers})
        destination = {"type": "webhook", "http_endpoint": name, "batch": batch}
        sink = {"name": name, "database": "postgres", "source": source, "destination": destination, "transform": "little"}
        engine.ask("POST", "/api/sinks", sink | {"filter": "none"})
    insert(database, "none", "no", "word", "zero")
    eventually(lambda: len(receiver.requests) == 8, what="one request for each row and sink")

    requests = [request for request in receiver.requests if request.path == "/alone"]
    empty = [dict(request.headers) for request in requests if not request.body]
    full = [dict(request.headers) for request in requests if request.body]
    assert sorted(map(repr, receiver.messages("/alone"))) == ["'null'", "0"]
    assert [(h["content-length"], h.keys() & {"content-type", "accept", "content-encoding"}) for h in empty] == [("0", set())] * 2
    assert [(h["content-type"], h.get("content-encoding")) for h in full] == [("application/json", encoding)] * 2
    assert sorted(map(repr, receiver.messages("/batched"))) == ["'null'", "0", "False", "None"]


def test_a_transform_that_raises_fails_its_message_alone_until_it_is_mended(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    database.execute("alter table notifications alter message drop not null")
    apply(engine, "fragile", FRAGILE)
    engine.user_sink(1, receiver.url, transform="fragile", batch_size=5)
    insert(database, "a", None, "c", None, "e")
    receiver.wait_for(3)

    def delivery_error() -> str:
        checks = engine.ask("GET", "/api/sinks/user-1")["health"]["checks"]
        return next((check.get("error", "") for check in checks if check["name"] == "Message delivery"), "")

    eventually(lambda: "[transform]:" in delivery_error())
    assert sorted(m["text"] for m in receiver.messages()) == ["<a>", "<c>", "<e>"]
    apply(engine, "fragile", STURDY)
    receiver.wait_for(5)
    assert sorted(m["text"] for m in receiver.messages()) == ["<>", "<>", "<a>", "<c>", "<e>"]
    eventually(lambda: not delivery_error())


def test_a_rows_order_holds_through_a_transform_that_raises(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    database.execute("alter table notifications alter message drop not null")
    apply(engine, "fragile", FRAGILE)
    engine.user_sink(1, receiver.url, transform="fragile", batch_size=10)
    with database.transaction():
        [row] = insert(database, "1")
        for text in ("2", None, "4", None, "6"):
            database.execute("update notifications set message = %s where id = %s", (text, row))
    receiver.wait_for(2)
    apply(engine, "fragile", STURDY)
    receiver.wait_for(6)
    assert [m["text"] for m in receiver.messages()] == ["<1>", "<2>", "<>", "<4>", "<>", "<6>"]


def test_what_cannot_run_is_refused_when_it_is_applied(engine: EngineProgram, receiver: Receiver) -> None:
    code = "def transform(action, record, changes, metadata) do\n  Enum.random(Map.values(record))\nend"
    yaml = "functions:\n  - name: bad\n    type: transform\n    code: |-\n" + "".join(f"      {line}\n" for line in code.splitlines())
    answer = engine.http.post("/api/config/apply", json={"yaml": yaml})
    assert answer.status_code == 400
    assert "Error creating function 'bad'" in answer.json()["summary"]
    assert "Enum.random/1" in answer.json()["summary"]
    assert engine.http.post("/api/sinks", json={"name": "x", "database": "postgres", "transform": "bad"}).status_code == 422
