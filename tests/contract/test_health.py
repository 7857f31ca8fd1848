"""The `health` of a sink, state by state, as recorded from Sequin 0.14.6, or where there is no recording, as in its source code.

`clock-of-health.jsonl` has one line for each change of a sink's health over four minutes. Its `checks` are those that are not healthy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

RECORDED = Path(__file__).parents[1] / "recordings" / "0.14.6" / "clock-of-health.jsonl"
NAMES = ["Sink configuration", "Message filtering", "Message ingestion", "Messages pending delivery", "Message delivery"]
SINK = "/api/sinks/one"
FUNCTIONS = {
    "filter": 'def filter(_action, record, _changes, _metadata) do\n  not record["message"]\nend',
    "transform": 'def transform(_action, record, _changes, _metadata) do\n  "<" <> record["user_id"]\nend',
    "routing": 'def route(_action, record, _changes, _metadata) do\n  %{method: record["message"]}\nend',
}

Shown = tuple[str, dict[str, str]]
"""The overall status, and the status of each check that is not healthy."""


def recorded() -> list[Shown]:
    lines = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    return [(line["health"], dict(line["checks"])) for line in lines if "health" in line]


def shown(engine: EngineProgram) -> Shown:
    health = engine.ask("GET", SINK)["health"]
    checks = health["checks"]
    assert health["name"] == "Consumer health"
    assert [check["name"] for check in checks] == NAMES
    assert all(set(check) == {"name", "status"} | ({"error"} if check["status"] == "error" else set()) for check in checks)
    return health["status"], {check["name"]: check["status"] for check in checks if check["status"] != "healthy"}


def insert(database: psycopg.Connection[Any]) -> None:
    database.execute("insert into notifications (user_id, message) values (1, 'hello')")


def test_waiting_healthy_paused_failing_and_healthy_again_are_the_recorded_states_in_their_order(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    states: list[Shown] = []

    def record_states(until: str) -> None:
        """Record each new state until the overall status is `until`."""

        def is_reached() -> bool:
            states.extend([now] if (now := shown(engine)) not in states[-1:] else [])
            return now[0] == until

        eventually(is_reached, what=f"the health to be {until}")

    engine.sink("one", receiver.url)
    record_states("waiting")
    insert(database)
    record_states("healthy")
    engine.ask("PATCH", SINK, {"status": "paused"})
    insert(database)
    record_states("paused")
    engine.ask("PATCH", SINK, {"status": "active"})
    record_states("healthy")
    receiver.wait_for(2)
    receiver.script = lambda *_: 503
    insert(database)
    record_states("error")
    receiver.script = lambda *_: 200
    record_states("healthy")
    expected = [state for index, state in enumerate(recorded()) if state not in recorded()[index - 1 : index]]
    assert expected[0][0] == "initializing", "the engine omits this state, since its sinks are live when the create call returns"
    # Between the first message and its response, fewer than four checks are briefly waiting.
    assert [state for state in states if state[0] != "waiting" or len(state[1]) == 4] == expected[1:]


@pytest.mark.parametrize(
    ("kind", "marked"),
    [
        ("filter", ["Message filtering", "Message delivery"]),
        ("transform", ["Message delivery"]),
        ("routing", ["Message delivery"]),
    ],
)
def test_a_function_that_fails_on_the_first_message_marks_these_checks_and_no_other(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver, kind: str, marked: list[str]
) -> None:
    lines = "".join(f"      {line}\n" for line in FUNCTIONS[kind].splitlines())
    sink_type = "    sink_type: webhook\n" if kind == "routing" else ""
    yaml = f"functions:\n  - name: failing\n    type: {kind}\n{sink_type}    code: |-\n{lines}"
    engine.ask("POST", "/api/config/apply", {"yaml": yaml})
    engine.sink("one", receiver.url, **{kind: "failing"})
    insert(database)
    eventually(lambda: shown(engine)[0] == "error", what="the health to be error")
    assert shown(engine) == ("error", dict.fromkeys(marked, "error"))
    errors = {check["error"] for check in engine.ask("GET", SINK)["health"]["checks"] if "error" in check}
    assert len(errors) == 1, errors
    assert receiver.requests == []


def test_a_receiver_that_refuses_the_first_message_leaves_the_checks_before_it_healthy(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda *_: 500
    engine.sink("one", receiver.url)
    insert(database)
    eventually(lambda: shown(engine) == ("error", {"Message delivery": "error"}), what="delivery alone to be in error")
    assert engine.ask("GET", SINK)["health"]["checks"][-1]["error"] == "[http_endpoint]: Unexpected status code: 500"


def test_a_disabled_sink_is_paused_and_a_sink_with_a_backfill_is_healthy_once_a_row_came(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    insert(database)
    engine.sink("one", receiver.url)
    engine.ask("POST", f"{SINK}/backfills", {})
    receiver.wait_for(1)
    eventually(lambda: shown(engine) == ("healthy", {}), what="the health to be healthy")
    engine.ask("PATCH", SINK, {"status": "disabled"})
    assert shown(engine) == ("paused", {})
