"""Webhooks: repeats the statements behind Sequin 0.14.6's recorded requests, in the same order, against the engine.

`requests.py` reads and normalizes requests. The values that it masks because they differ between servers (ids, host, database, LSN, and
time) are checked here against the running engine, receiver, and database.
"""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.contract.differences import LATE_ROWS, WEBHOOKS
from tests.contract.requests import FOLDER, Request, received, recorded, records
from tests.engine_program import EngineProgram
from tests.receiver import Received, Receiver
from tests.waiting import eventually
from userhooks.webhooks.database import Database

FIRST_MARKER = 9001
MARKERS = {
    "notifications": "insert into notifications (id, user_id, message) values (%s, 1, 'marker')",
    "typed": "insert into typed (id) values (%s)",
}
NOW = "select clock_timestamp(), (pg_current_wal_insert_lsn() - '0/0')::int8"
INSERT = """insert into notifications (id, user_id, message, created_at) select id, user_id, message, coalesce(created_at, now())
    from jsonb_to_recordset(%s) as r (id int, user_id int, message text, created_at timestamptz)"""
TYPED = """create table typed (id int8 primary key, t_bool bool, t_bytea bytea, t_char char(5), t_date date, t_float4 float4,
    t_float8 float8, t_inet inet, t_int2 int2, t_int8 int8, t_intarr int[], t_interval interval, t_json json, t_jsonb jsonb, t_money money,
    t_numeric numeric(14,6), t_point point, t_range int4range, t_text text, t_textarr text[], t_time time, t_timestamp timestamp,
    t_timestamptz timestamptz, t_timetz timetz, t_tsvector tsvector, t_uuid uuid, t_varchar varchar(9), t_xml xml)"""
TYPED_ROW = r"""insert into typed values (1, true, '\x00ff10', 'ab', '2024-02-29', 1.5, 0.1, '10.0.0.1/8', -5, 9007199254740993,
    '{1,2,NULL}', '1 day 02:03:04.5', '{"b": 1, "a": [1,2]}', '{"a": null, "b": 1.5}', 12.34, 12345678.9, '(1.5,2)', '[1,5)',
    E'héllo ☃ "q" \\ / \n tab\t', array['a','b c',NULL], '13:14:15.5', '2024-02-29 13:14:15.123456', '2024-02-29 13:14:15.123456+02',
    '13:14:15+02', 'cat fat', '6f1a2b3c-0000-4000-8000-000000000001', 'vc', NULL)"""
ODD_ROW = r"""insert into typed (id, t_bool, t_bytea, t_date, t_float8, t_int8, t_intarr, t_jsonb, t_numeric, t_text, t_timestamptz)
    values (3, false, '\x', '0001-01-01', 'NaN', 9223372036854775807, '{}', '[]', 'NaN', '', 'infinity')"""
LATER_UPDATE = r"""update typed set t_bool = true, t_bytea = '\x01', t_numeric = 2.2, t_textarr = '{z}', t_timestamptz = '2025-01-01+00'
    where id = 1"""


class World:
    """A running engine, a receiver, and a database. `problems` collects disagreements with the recordings."""

    def __init__(self, program: EngineProgram, receiver: Receiver, database: psycopg.Connection[Any]) -> None:
        self.program = program
        self.receiver = receiver
        self.database = database
        self.replayed: set[str] = set()
        self.problems: list[str] = []
        self._sink: dict[str, Any] = {}
        self._table = ""
        self._backfill_id = ""
        self._markers = itertools.count(FIRST_MARKER)
        (sequin_database,) = program.ask("GET", "/api/postgres_databases")["data"]
        self._database_id = sequin_database["id"]
        self._checked_until = self._now()

    def sink(self, name: str, url_path: str = "/ok/x", *, table: str = "notifications", **fields: Any) -> None:
        """Create the sink of the next recordings, after checking that the previous sink sends nothing more and deleting it."""
        if self._sink:
            self.nothing_more("before the next sink")
            self.program.ask("DELETE", f"/api/sinks/{self._sink['name']}")
        self._table = table
        self._sink = self.program.sink(name, self.receiver.url + url_path, source={"include_tables": [f"public.{table}"]}, **fields)

    def backfill(self) -> None:
        self._backfill_id = self.program.ask("POST", f"/api/sinks/{self._sink['name']}/backfills", {})["id"]

    def patch(self, **fields: Any) -> None:
        self.program.ask("PATCH", f"/api/sinks/{self._sink['name']}", fields)

    def sql(self, statement: str, *values: Any) -> None:
        self.database.execute(statement, values)

    def insert(self, *rows: dict[str, Any]) -> None:
        """Insert rows into notifications in a single statement."""
        self.sql(INSERT, json.dumps(rows))

    def hidden(self, act: Callable[[], None], count: int = 1) -> None:
        """Perform a step whose requests were not recorded, and discard them."""
        act()
        self._requests(count)

    def expect(self, name: str) -> None:
        """Compare the requests that arrive with the recording, or with what `differences.py` expects instead."""
        self.replayed.add(name)
        all_recorded = recorded(name)
        assert len(all_recorded) == announced(name)
        expected = WEBHOOKS.get(name, list)(all_recorded)
        if not expected:
            self.nothing_more(name)
            return
        actual = self._requests(len(expected))
        for actual_request, expected_request in zip(sorted(actual, key=_row), sorted(expected, key=_row), strict=True):
            if actual_request != expected_request:
                self.problems.append(f"{name}:\n  actual   {actual_request}\n  expected {expected_request}")

    def nothing_more(self, when: str) -> None:
        """Check that nothing arrives before a row that is inserted now."""
        marker = next(self._markers)
        self.sql(MARKERS[self._table], marker)
        (request,) = self._requests(1)
        if json.loads(request.messages[0])["record"]["id"] != marker:
            self.problems.append(f"{when}: unexpected request: {request}")

    def nothing_while_paused(self, name: str, act: Callable[[], None]) -> None:
        """Check that the paused sink sends nothing for `act`, although another sink receives a later commit from another table."""
        self.replayed.add(name)
        assert recorded(name) == []
        self._until_read(act)
        self.problems += [f"{name}: unexpected request: {request}" for request in self.receiver.requests if request.path != "/witness"]
        self.receiver.requests.clear()

    def insert_while_paused(self, *rows: dict[str, Any]) -> None:
        """Insert rows into notifications so that all are pending when the sink builds its first batch, however slowly the WAL is read."""
        self.patch(status="paused")
        self._until_read(lambda: self.insert(*rows))
        self.receiver.requests.clear()
        self.patch(status="active")

    def _until_read(self, act: Callable[[], None]) -> None:
        """Call `act` and wait until the engine has read its changes: until another sink receives a later commit from another table."""
        assert self._table == "notifications"
        self.program.sink("witness", f"{self.receiver.url}/witness", source={"include_tables": ["public.typed"]})
        marker = next(self._markers)
        act()
        self.sql(MARKERS["typed"], marker)
        self.receiver.wait_for(1, "/witness")
        self.program.ask("DELETE", "/api/sinks/witness")
        self.program.ask("DELETE", "/api/destinations/http_endpoints/witness")
        self.sql("delete from typed where id = %s", marker)

    def _requests(self, count: int) -> list[Request]:
        arrived = self.receiver.requests
        eventually(lambda: len(arrived) >= count, what=f"{count} requests, now {arrived}")
        requests = arrived[:count]
        del arrived[:count]
        self._check_masked_values(requests)
        return [received(request) for request in requests]

    def _check_masked_values(self, requests: list[Received]) -> None:
        """Check ids, host, and database, and that LSN and time are recent and the same for all changes of a transaction."""
        since, until = self._checked_until, self._now()
        commits = set()
        for request in requests:
            assert dict(request.headers)["host"] == self.receiver.url.removeprefix("http://")
            for message in request.messages:
                metadata = message["metadata"]
                assert metadata["consumer"]["id"] == self._sink["id"]
                assert metadata["database"]["id"] == self._database_id
                assert metadata["database"]["database"] == self.database.info.dbname
                time, lsn = datetime.fromisoformat(metadata["commit_timestamp"]), metadata["commit_lsn"]
                assert since[0] <= time <= until[0]
                if message["action"] == "read":
                    assert b64decode(metadata["idempotency_key"]).decode().startswith(f"{self._backfill_id}:")
                else:
                    assert since[1] <= lsn <= until[1]
                    commits.add((time, lsn))
        assert len(commits) <= 1
        self._checked_until = until

    def _now(self) -> tuple[datetime, int]:
        """Return the database's clock and its position in the WAL."""
        row = self.database.execute(NOW).fetchone()
        assert row is not None
        return row


def announced(name: str) -> int:
    """Return the number of requests that a recording's heading states."""
    heading = re.search(r"^# (\d+) request\(s\)", (FOLDER / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert heading, name
    return int(heading.group(1))


def _row(request: Request) -> int:
    """Return the sort key of requests, the row's id: requests for different rows may arrive in any order."""
    row: int = json.loads(request.messages[0])["record"]["id"]
    return row


@pytest.fixture
def world(database_url: str, tmp_path: Path, receiver: Receiver) -> Iterator[World]:
    Database(database_url).set_up(None)
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("alter table notifications replica identity default")
        database.execute("insert into users (id, name) values (4, 'four'), (5, 'five')")
        database.execute(TYPED)
        database.execute("create publication test_pub for tables in schema public")
        program = EngineProgram(database_url, tmp_path, publication="test_pub").start()
        try:
            yield World(program, receiver, database)
        finally:
            program.stop()


def test_every_recorded_statement_leads_to_the_recorded_requests(world: World) -> None:
    changes_under_both_replica_identities(world)
    transactions(world)
    filters_batches_and_paths(world)
    types_and_backfills(world)
    statuses(world)
    world.nothing_more("at the end")
    assert world.problems == []
    assert world.replayed == {path.name for path in FOLDER.glob("*.http")}
    assert world.receiver.requests == []


def changes_under_both_replica_identities(w: World) -> None:
    w.sink("basic")
    (row,) = records("01-insert.http")
    w.insert(row)
    w.expect("01-insert.http")
    w.sql("update notifications set message = 'changed' where id = 1")
    w.expect("02-update.http")
    w.sql("update notifications set message = message where id = 1")
    w.expect("03-update-no-change.http")
    w.hidden(lambda: w.sql("update notifications set id = 1001 where id = 1"))
    w.sql("delete from notifications where id = 1001")
    w.expect("05-delete.http")

    w.sql("alter table notifications replica identity full")
    (row,) = records("06-insert-rif.http")
    w.insert(row)
    w.expect("06-insert-rif.http")
    w.sql("update notifications set message = 'changed full', user_id = 3 where id = 2")
    w.expect("07-update-rif.http")
    w.sql("delete from notifications where id = 2")
    w.expect("09-delete-rif.http")
    w.sql("alter table notifications replica identity default")


def transactions(w: World) -> None:
    first, second, third, _, _ = records("10-transaction-5-changes.http")
    with w.database.transaction():
        w.insert(first)
        w.insert(second, third)
        w.sql("update notifications set message = 't1b' where id = 3")
        w.sql("delete from notifications where id = 4")
    w.expect("10-transaction-5-changes.http")

    with w.database.transaction(force_rollback=True):
        w.insert({"id": 6, "user_id": 1, "message": "rolled back"})
    w.expect("11-rollback.http")
    w.sql("truncate notifications")
    w.expect("12-truncate.http")

    (row,) = records("13-transaction-annotations.http")
    with w.database.transaction():
        w.sql("select pg_logical_emit_message(true, 'sequin:transaction_annotations.set', %s)", '{"who": "me"}')
        w.insert(row)
    w.expect("13-transaction-annotations.http")


def filters_batches_and_paths(w: World) -> None:
    code = 'def filter(action, record, changes, metadata) do\n        record["user_id"] == 1\n      end'
    w.program.ask("POST", "/api/config/apply", {"yaml": f"functions:\n  - name: only-user-1\n    type: filter\n    code: |-\n      {code}"})
    w.sink("filt", filter="only-user-1")
    (row,) = records("15-filter-function.http")
    w.insert(row, {"id": 11, "user_id": 2, "message": "not mine"})
    w.expect("15-filter-function.http")

    w.sink("batched", batch_size=10)
    w.insert_while_paused(*records("16-batch-size-10-of-25-one-statement.http"))
    w.expect("16-batch-size-10-of-25-one-statement.http")
    w.insert(*records("17-batch-size-10-one-row.http"))
    w.expect("17-batch-size-10-one-row.http")

    w.sink("unbatched", destination={"batch": False})
    w.insert(*records("18-batch-false.http"))
    w.expect("18-batch-false.http")

    w.sink("frag", url_path="")
    w.insert(*records("20-endpoint-url-without-path.http"))
    w.expect("20-endpoint-url-without-path.http")


def types_and_backfills(w: World) -> None:
    w.sink("typ", table="typed")
    w.sql(TYPED_ROW)
    w.expect("22-types-insert.http")
    w.sql("insert into typed (id) values (2)")
    w.expect("23-types-nulls.http")
    w.hidden(lambda: w.sql(ODD_ROW))
    w.sql("update typed set t_bool = false, t_numeric = 1.1, t_jsonb = '{\"c\": 2}' where id = 1")
    w.expect("25-types-update.http")
    w.hidden(lambda: w.sql("insert into typed (id, t_int2, t_text) values (4, 7, repeat('x', 20000))"))
    w.hidden(lambda: w.sql(LATER_UPDATE))
    w.backfill()
    w.expect("28-types-backfill-read.http")

    w.sql("truncate notifications")
    w.insert(*records("29-backfill-batched.http"))
    w.sink("bf", batch_size=5)
    w.backfill()
    w.expect("29-backfill-batched.http")


def statuses(w: World) -> None:
    w.sink("paus")
    w.patch(status="paused")
    (row,) = [r for r in records("31-paused-resumed.http") if r["message"] == "while paused"]
    w.nothing_while_paused("30-paused-insert.http", lambda: w.insert(row))
    w.patch(status="active")
    w.expect("31-paused-resumed.http")

    w.patch(status="disabled")
    w.insert(*records("32-disabled-insert.http"))
    w.patch(status="active")
    w.expect("32-disabled-insert.http")
    w.expect("33-disabled-resumed.http")
    w.insert(*records("34-after-resume-insert.http"))
    w.expect("34-after-resume-insert.http")

    w.sink("late")
    w.insert(*LATE_ROWS)
    w.expect("35-insert-right-after-create.http")
