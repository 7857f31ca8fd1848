"""Routing functions: each message is sent with the method, path, and headers that the function returns."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

ROUTE = """\
def route(action, record, _changes, metadata) do
  method = if action == "delete", do: "DELETE", else: "PUT"
  %{
    method: method,
    endpoint_path: "/users/#{record["user_id"]}/#{metadata.table_name}?m=#{URI.encode_www_form(record["message"] || "")}",
    headers: %{"X-Action" => action, "accept" => "text/plain"}
  }
end"""


def function(name: str, code: str, **attributes: str) -> str:
    lines = "".join(f"      {line}\n" for line in code.splitlines())
    extra = "".join(f"    {key}: {value}\n" for key, value in attributes.items())
    return f"functions:\n  - name: {name}\n    type: routing\n{extra}    code: |-\n{lines}"


def apply(engine: EngineProgram, name: str, code: str) -> None:
    engine.ask("POST", "/api/config/apply", {"yaml": function(name, code, sink_type="webhook")})


def insert(database: psycopg.Connection[Any], *messages: str) -> list[int]:
    query = "insert into notifications (user_id, message) select 1, unnest(%s::text[]) returning id"
    return [row[0] for row in database.execute(query, (list(messages),)).fetchall()]


def test_a_message_goes_where_its_routing_function_says(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    apply(engine, "rest", ROUTE)
    sink = engine.user_sink(1, f"{receiver.url}/base", routing="rest")
    assert sink["routing"] == "rest"
    insert(database, "a b")
    receiver.wait_for(1)
    database.execute("delete from notifications")
    receiver.wait_for(2)
    put, delete = receiver.requests
    assert put.line == "PUT /base/users/1/notifications?m=a+b HTTP/1.1"
    assert delete.line == "DELETE /base/users/1/notifications?m=a+b HTTP/1.1"
    assert dict(put.headers)["x-action"] == "insert"
    assert dict(put.headers)["accept"] == "text/plain"
    assert put.messages[0]["record"]["message"] == "a b"


def test_a_batch_holds_messages_of_one_route(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    apply(engine, "rest", 'def route(_action, record, _changes, _metadata), do: %{endpoint_path: "/" <> record["message"]}')
    engine.user_sink(1, receiver.url, routing="rest", batch_size=10)
    insert(database, "a", "a", "b", "a", "b", "b")
    receiver.wait_for(6)
    for request in receiver.requests:
        assert {f"/{m['record']['message']}" for m in request.messages} == {request.path}
    assert {request.line for request in receiver.requests} == {"POST /a HTTP/1.1", "POST /b HTTP/1.1"}
    assert len(receiver.requests) < 6


def test_an_answer_to_head_has_no_body_to_wait_for(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    apply(engine, "head", 'def route(_action, _record, _changes, _metadata), do: %{method: "HEAD"}')
    engine.user_sink(1, receiver.url, routing="head")
    insert(database, "a", "b", "c")
    receiver.wait_for(3, within=10)
    eventually(lambda: engine.ask("GET", "/api/sinks/user-1")["health"]["status"] == "healthy")
    assert len(receiver.requests) == 3


def test_a_route_that_cannot_be_used_fails_the_message_until_it_is_mended(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    apply(engine, "odd", 'def route(_action, record, _changes, _metadata), do: %{method: record["message"]}')
    engine.user_sink(1, receiver.url, routing="odd")
    insert(database, "a")

    def delivery_error() -> str:
        checks = engine.ask("GET", "/api/sinks/user-1")["health"]["checks"]
        return str(next((check.get("error", "") for check in checks if check["name"] == "Message delivery"), ""))

    eventually(lambda: "[routing]: Invalid routing attributes: method: is invalid" in delivery_error())
    assert receiver.requests == []
    apply(engine, "odd", 'def route(_action, _record, _changes, _metadata), do: %{endpoint_path: "good"}')
    receiver.wait_for(1)
    assert receiver.requests[0].path == "/good"


def test_a_routing_function_is_for_webhooks_and_for_routing(engine: EngineProgram, receiver: Receiver) -> None:
    code = "def route(_action, _record, _changes, _metadata), do: %{}"
    for attributes, expected_error in (({}, 'sink_type: ["can\'t be blank"]'), ({"sink_type": "kafka"}, 'sink_type: ["is invalid"]')):
        answer = engine.http.post("/api/config/apply", json={"yaml": function("r", code, **attributes)})
        assert answer.status_code == 400
        assert expected_error in answer.json()["summary"]
    apply(engine, "r", code)
    assert "sink_type: webhook" in engine.ask("GET", "/api/config/export")["yaml"]
    engine.user_sink(1, receiver.url, routing="r")
    assert engine.http.patch("/api/sinks/user-1", json={"transform": "r"}).status_code == 422
    assert engine.http.patch("/api/sinks/user-1", json={"routing": "rows-of-user"}).status_code == 422
    assert engine.http.patch("/api/sinks/user-1", json={"routing": "none"}).json()["routing"] == "none"
