"""The Management API: replays recorded exchanges of Sequin 0.14.6, and those of 0.9.4 with column filters, against the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from tests.contract.differences import API
from tests.contract.exchanges import Bindings, Exchange, read
from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.webhooks.database import Database

TOKEN = "local-measuring-token"
RECORDED_RECEIVER = {"0.14.6": "127.0.0.1:9912", "0.9.4": "127.0.0.1:9911"}
RECORDED_DATABASE = {"port": 25433, "database": "postgres"}
ROWS = 303


class Server:
    """The engine in the recorded server's initial state: the same token, names of database, slot, and publication, tables, and rows."""

    def __init__(self, program: EngineProgram, receiver: Receiver, database: psycopg.Connection[Any]) -> None:
        self.program = program
        self.receiver = receiver
        self.database = database
        self.bindings = Bindings()

    def send(self, exchange: Exchange, version: str) -> httpx.Response:
        receiver = self.receiver.url.removeprefix("http://")
        body = self.bindings.translate(exchange.body).replace(RECORDED_RECEIVER[version], receiver)
        headers = [(name, value) for name, value in exchange.headers if name.lower() not in ("host", "content-length")]
        path = self.bindings.translate(exchange.path)
        return httpx.request(exchange.method, self.program.url + path, headers=headers, content=body.encode() or None, timeout=10)

    def disagreement(self, exchange: Exchange, answer: httpx.Response, version: str) -> str | None:
        """Return how a response differs from the recorded one, or None."""
        if answer.status_code != exchange.status:
            return f"status {exchange.status} recorded, {answer.status_code} actual: {answer.text}"
        recorded_type = (exchange.content_type or "").partition(";")[0]
        if answer.headers.get("content-type", "").partition(";")[0] != recorded_type:
            return f"content type {recorded_type!r} recorded, {answer.headers.get('content-type')!r} actual"
        if exchange.json is None:
            return None if answer.text == exchange.answer else f"{exchange.answer!r} recorded, {answer.text!r} actual"
        return self.bindings.disagreement(self._localized(exchange.json, version), answer.json())

    def _localized(self, recorded: Any, version: str) -> Any:
        """Return a recorded response with this test's receiver and database in place of the recorded ones."""
        if isinstance(recorded, dict):
            localized = {key: self._localized(value, version) for key, value in recorded.items()}
            if "slot" in localized or "replication_slots" in localized:
                info = self.database.info
                localized |= {"port": info.port, "database": info.dbname}
            return localized
        if isinstance(recorded, list):
            return [self._localized(entry, version) for entry in recorded]
        if isinstance(recorded, str):
            return recorded.replace(RECORDED_RECEIVER[version], self.receiver.url.removeprefix("http://"))
        return recorded


@pytest.fixture
def server(database_url: str, tmp_path: Path, receiver: Receiver) -> Iterator[Server]:
    Database(database_url).set_up(None)
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("alter table notifications replica identity default")
        database.execute("create publication sequin_pub for tables in schema public")
        # the last of the recorded rows is inserted during the replay
        database.execute("insert into notifications (user_id, message) select 1, 'x' from generate_series(1, %s)", (ROWS - 1,))
        program = EngineProgram(database_url, tmp_path, publication="sequin_pub", slot="sequin_slot", api_token=TOKEN)
        program.http.headers["authorization"] = f"Bearer {TOKEN}"
        program.start(module=("-m", "tests.patient_engine"))  # the replay holds the receiver's responses for seconds
        try:
            yield Server(program, receiver, database)
        finally:
            program.stop()


# --- steps between the recorded ones -----------------------------------------------------------------------------------

SINK: dict[str, Any] = {
    "status": "active",
    "database": "postgres",
    "table": "public.notifications",
    "destination": {"type": "webhook", "http_endpoint": "user-1-endpoint"},
}
LATEST = "/api/sinks/user-1-notifications/backfills"


def delete_all_but(s: Server, kept: str) -> None:
    for sink in s.program.ask("GET", "/api/sinks")["data"]:
        if sink["name"] != kept:
            s.program.ask("DELETE", f"/api/sinks/{sink['name']}")


def deliver_one_row(s: Server) -> None:
    s.database.execute("insert into notifications (user_id, message) values (1, 'x')")
    s.receiver.wait_for(1)
    s.receiver.gate.clear()


def let_the_backfill_finish(s: Server) -> None:
    s.receiver.gate.set()
    eventually(lambda: s.program.ask("GET", LATEST)["data"][0]["state"] == "completed")
    s.receiver.gate.clear()


def await_count(s: Server) -> None:
    eventually(lambda: s.program.ask("GET", LATEST)["data"][0]["rows_initial_count"] == ROWS)


def cancel_latest(s: Server) -> None:
    await_count(s)
    s.program.ask("PATCH", f"{LATEST}/{s.program.ask('GET', LATEST)['data'][0]['id']}", {"state": "cancelled"})


Step = Callable[[Server], object]


def patch_sink(sink: str, **fields: Any) -> Step:
    return lambda s: s.program.ask("PATCH", f"/api/sinks/{sink}", fields)


def create_sink(name: str, **fields: Any) -> Step:
    return lambda s: s.program.ask("POST", "/api/sinks", {"name": name, **SINK, **fields})


BEFORE: dict[str, list[Step]] = {
    "017": [lambda s: s.program.ask("POST", "/api/api_keys", {"name": "local", "token": "another"})],
    "040": [lambda s: s.program.endpoint("x10", f"http://user:secret@{s.receiver.url.removeprefix('http://')}/ok")],
    "059": [lambda s: s.program.ask("DELETE", "/api/sinks/user-1-notifications")],
    "064": [create_sink("case-1")],
    "068": [create_sink("case-5")],
    "071": [create_sink("case-8")],
    "076": [create_sink("case-13", actions=[])],
    "122": [lambda s: delete_all_but(s, "user-1-notifications")],
    "127": [deliver_one_row],
    "139": [patch_sink("user-1-renamed", name="user-1-notifications")],
    "153": [await_count],
    "157": [let_the_backfill_finish],
    "174": [cancel_latest],
    "175": [patch_sink("user-1-notifications", status="paused")],
    "176": [await_count],
    "177": [patch_sink("user-1-notifications", status="disabled")],
    "179": [patch_sink("user-1-notifications", status="active"), await_count],
}


def replay(server: Server, version: str, exchanges: list[Exchange]) -> list[str]:
    """Replay the exchanges in order and return the disagreements."""
    problems = []
    for exchange in exchanges:
        number = exchange.name[:3]
        for step in BEFORE.get(number, []) if version == "0.14.6" else []:
            step(server)
        is_expected = API[version].get(number)
        if is_expected is not None:
            answer = server.send(exchange, version)
            if not is_expected(answer):
                problems.append(f"{exchange.name}: not the deliberate difference: {answer.status_code} {answer.text}")
            continue
        problem = attempt(server, exchange, version)
        if problem:
            problems.append(f"{exchange.name}: {problem}")
    return problems


def attempt(server: Server, exchange: Exchange, version: str) -> str | None:
    """Send a request and compare the response. Repeat a GET for a while, since health and counters may lag."""
    if exchange.name.startswith("179"):
        return exported(server, exchange, version)

    def once() -> str | None:
        return server.disagreement(exchange, server.send(exchange, version), version)

    if exchange.method != "GET":
        return once()
    problem: list[str | None] = [None]

    def agrees() -> bool:
        problem[0] = once()
        return problem[0] is None

    try:
        eventually(agrees, within=4)
    except AssertionError:
        return problem[0]
    return None


def exported(server: Server, exchange: Exchange, version: str) -> str | None:
    """Compare the exported YAML as data: the order of its keys does not matter."""
    answer = server.send(exchange, version)
    recorded, actual = (yaml.safe_load(body["yaml"]) for body in (exchange.json, answer.json()))
    for side in (recorded, actual):
        for sink in side["sinks"]:
            for backfill in sink["active_backfills"]:
                backfill.pop("inserted_at"), backfill.pop("updated_at")
        side["data"] = side.pop("http_endpoints")
    recorded = json.loads(json.dumps(recorded).replace(RECORDED_RECEIVER[version], server.receiver.url.removeprefix("http://")))
    recorded["databases"][0] |= {"port": server.database.info.port, "database": server.database.info.dbname}
    return server.bindings.disagreement(recorded, actual)


def test_it_answers_as_sequin_0_14_6(server: Server) -> None:
    exchanges = read("0.14.6")
    assert len(exchanges) > 120
    assert replay(server, "0.14.6", exchanges) == []


def test_it_takes_the_column_filters_of_0_9_4(server: Server) -> None:
    exchanges = read("0.9.4")
    server.program.endpoint("user-1-endpoint", f"{server.receiver.url}/ok/user-1")
    first, others = exchanges[:1], exchanges[1:]
    assert first[0].name.startswith("058")
    assert replay(server, "0.9.4", first) == []
    server.program.ask("PATCH", "/api/sinks/user-1-notifications", {"batch_size": 25})
    deliver_one_row(server)
    assert replay(server, "0.9.4", others) == []
