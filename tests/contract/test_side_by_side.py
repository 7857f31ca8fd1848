"""Replays of API calls that Sequin 0.14.6 and an earlier version of the engine answered differently.

The engine's response must agree with each line of the recordings, unless `userhooks/engine/DIFFERENCES.md` names the line's label. Ids and
times are masked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.waiting import eventually
from userhooks.webhooks.database import Database

RECORDINGS = Path(__file__).parents[1] / "recordings" / "0.14.6" / "side_by_side"
DIFFERENCES = Path(__file__).parents[2] / "userhooks" / "engine" / "DIFFERENCES.md"
LINES: list[dict[str, Any]] = [
    json.loads(line)
    for name in ("api_endpoints_and_sinks.jsonl", "api_changes_and_backfills.jsonl")
    for line in (RECORDINGS / name).read_text(encoding="utf-8").splitlines()
]
"""The recorded calls and answers. `body` is the text that was sent; `cut` marks an answer that was recorded only in part."""
ROWS = 20
ENDPOINTS = {
    "c-e1": "http://127.0.0.1:9/new?z=1#f",
    "c-e2": "http://127.0.0.1:9/a?x=1&y=2",
    "c-e3": "http://127.0.0.1:9",
    "c-e4": "http://127.0.0.1:9/",
    "c-e5": "http://example.com/a",
    "c-e6": "https://example.com",
}
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_NAMED = "### Calls that are answered differently"


def named() -> set[str]:
    """Return the labels in the first column of the table of calls in DIFFERENCES.md."""
    table = DIFFERENCES.read_text(encoding="utf-8").partition(_NAMED)[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {label for cell in cells for label in re.findall("`([^`]+)`", cell)}


def masked(value: Any) -> Any:
    """Mask the values that differ between servers: ids, times, the password, and the database's address."""
    if isinstance(value, dict):
        database = {"database": "<database>", "hostname": "<host>", "port": 0, "slot_name": "<slot>", "password": "<password>"}
        masks = database if "replication_slots" in value else {"slot_name": "<slot>"}
        return {key: masks.get(key, masked(inner)) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    if not isinstance(value, str):
        return value
    return _TIME.sub(lambda match: f"<time{len(match.group(1) or '')}>", _ID.sub("<id>", value))


def part(actual: Any, recorded: Any) -> Any:
    """Reduce an actual answer to the part that was recorded of a cut one: the same keys, or the same number of entries."""
    if set(recorded) == {"data"}:
        by_name = {entry.get("name"): entry for entry in actual["data"]}
        if all("name" in entry for entry in recorded["data"]):  # endpoints are listed in any order
            return {"data": [by_name.get(entry["name"]) for entry in recorded["data"]]}
        return {"data": actual["data"][: len(recorded["data"])]}
    return {key: actual.get(key) for key in recorded}


class World:
    """A running engine with the recorded server's tables, endpoints, and sinks."""

    def __init__(self, program: EngineProgram) -> None:
        self.program = program
        self.backfill = ""

    def fill(self) -> None:
        for name, url in ENDPOINTS.items():
            self.program.endpoint(name, url)
        self.program.ask("POST", "/api/api_keys", {"name": "tutorial", "token": "tutorial"})
        self.sink("c-p", ["public.cmp_a"], batch_size=10)
        self.sink("c-other", ["public.cmp_a"])
        self.sink("c-all", None)
        self.sink("c-none", ["public.cmp_nopk"])

    def sink(self, name: str, tables: list[str] | None, **fields: Any) -> None:
        destination = {"type": "webhook", "http_endpoint": "c-e1"}
        source = {} if tables is None else {"include_tables": tables}
        self.program.ask(
            "POST", "/api/sinks", {"name": name, "database": "postgres", "source": source, "destination": destination, **fields}
        )

    def before(self, label: str) -> None:
        """Perform the steps before a recorded call that the recordings omit because their answers agreed."""
        backfills = "/api/sinks/c-p/backfills"
        if label == "patch message_grouping false":  # an earlier call may have given it column filters
            self.program.ask("DELETE", "/api/sinks/c-p")
            self.sink("c-p", ["public.cmp_a"], batch_size=10)
        elif label == "backfill second":
            self.program.ask("PATCH", "/api/sinks/c-p", {"status": "paused"})  # so that the backfill does not proceed
            self.backfill = self.program.ask("POST", backfills, {})["id"]
            eventually(lambda: self.program.ask("GET", f"{backfills}/{self.backfill}")["rows_initial_count"] == ROWS)

    def send(self, line: dict[str, Any]) -> httpx.Response:
        body = line.get("body")
        path = line["path"].replace("{backfill}", self.backfill)
        headers = {} if line["method"] == "GET" else {"content-type": "application/json"}
        return self.program.http.request(line["method"], path, content=body, headers=headers)


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    Database(database_url).set_up(None)
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("create table cmp_a (id int primary key, user_id int)")
        database.execute("create table cmp_b (id int primary key)")
        database.execute("create table cmp_nopk (id int)")
        database.execute("create schema cmp_other create table t (id int primary key)")
        database.execute("insert into cmp_a select n, 1 from generate_series(1, %s) n", (ROWS,))
        database.execute("create publication sequin_pub for tables in schema public")
    program = EngineProgram(database_url, tmp_path, publication="sequin_pub")
    program.start()
    try:
        world = World(program)
        world.fill()
        yield world
    finally:
        program.stop()


def agrees(line: dict[str, Any], answer: httpx.Response) -> bool:
    """Return whether the engine answered as recorded."""
    if answer.status_code != line["status"]:
        return False
    recorded = line.get("answer")
    if recorded is None:
        return True
    if isinstance(recorded, str):
        return bool(answer.text == recorded)
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return False
    actual = masked(answer.json())
    return bool((part(actual, recorded) if line.get("cut") else actual) == masked(recorded))


def test_every_call_is_answered_as_by_0_14_6_or_its_difference_is_named(world: World) -> None:
    labels = [line["label"] for line in LINES]
    assert len(set(labels)) == len(LINES) == 96
    assert named() <= set(labels)
    problems = []
    for line in LINES:
        world.before(line["label"])
        answer = world.send(line)
        if agrees(line, answer) == (line["label"] in named()) or answer.status_code >= 500:
            problems.append(f"{line['label']}: {line['status']} {line.get('answer')} recorded, {answer.status_code} {answer.text} actual")
    if problems:
        pytest.fail("\n".join(problems))
