"""Filter functions that compute, and one that never ends: a slow function affects only its own sink."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

COMPUTED = """\
def filter(action, record, _changes, metadata) do
  words = record["message"] |> String.split(" ") |> Enum.map(&String.downcase/1)
  minimum = String.to_integer(metadata.consumer.annotations["minimum"] || "0")

  case {action, words} do
    {"insert", ["order", number]} -> String.to_integer(number) >= minimum and Regex.match?(~r/^\\d+$/, number)
    _ -> false
  end
end"""
ENDLESS = """\
def filter(_action, record, _changes, _metadata) do
  x = String.duplicate("a", 40)
  Regex.match?(~r/(a+)+$/, x <> record["message"])
end"""


def apply(engine: EngineProgram, name: str, code: str) -> None:
    lines = "".join(f"      {line}\n" for line in code.splitlines())
    engine.ask("POST", "/api/config/apply", {"yaml": f"functions:\n  - name: {name}\n    type: filter\n    code: |-\n{lines}"})


def insert(database: psycopg.Connection[Any], *messages: str) -> None:
    database.execute("insert into notifications (user_id, message) select 1, unnest(%s::text[])", (list(messages),))


def test_a_filter_may_compute(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    apply(engine, "orders", COMPUTED)
    engine.sink("orders", receiver.url, filter="orders", annotations={"minimum": "10"})
    insert(database, "Order 9", "ORDER 10", "order", "hello", "order 12")
    receiver.wait_for(2)
    assert {m["record"]["message"] for m in receiver.messages()} == {"ORDER 10", "order 12"}


def test_a_filter_that_would_never_end_costs_its_own_sink_only(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    """If the engine ran the function to its limit for each of the 3,000 rows, this would take a minute and a half on an idle machine."""
    apply(engine, "endless", ENDLESS)
    engine.sink("endless", f"{receiver.url}/endless", filter="endless")
    engine.user_sink(1, f"{receiver.url}/fine")
    started = time.monotonic()
    insert(database, *["b"] * 3000)
    receiver.wait_for(3000, "/fine", within=60)
    assert time.monotonic() - started < 60
    checks = eventually(lambda: [c for c in engine.ask("GET", "/api/sinks/endless")["health"]["checks"] if c.get("error")])
    assert "[filter]: the function" in checks[0]["error"]
    assert receiver.messages("/endless") == []
