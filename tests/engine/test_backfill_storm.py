"""Backfills during heavy writes: no row is missed, and no `read` shows an older state than an earlier change of the row."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import PUBLICATION
from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]
ROWS = 8000
WRITERS = 3


def set_up(database: Connection, engine: EngineProgram, identity: str) -> None:
    """Create `items`: rows with a constant `tag`, a primary key that may change, and a `version` that grows with every update."""
    database.execute("create table items (id bigint primary key, tag bigint not null, user_id int not null, version int not null)")
    database.execute(f"alter table items replica identity {identity}".encode())
    database.execute(f"alter publication {PUBLICATION} add table items".encode())
    database.execute("create sequence numbers start 100000")
    database.execute("insert into items select n * 10, n, 1 + n %% 2, 0 from generate_series(1, %s) n", (ROWS,))
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})


@contextmanager
def storm(url: str) -> Iterator[list[BaseException]]:
    """Run writers that change rows of users 1 and 2 across the table, with single statements and longer transactions."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    stop = threading.Event()
    failures: list[BaseException] = []

    def write(rng: random.Random) -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                while not stop.is_set():
                    if rng.random() < 0.3:
                        with connection.transaction(force_rollback=rng.random() < 0.1):
                            for _ in range(5):
                                change_row(connection, rng)
                    else:
                        change_row(connection, rng)
        except psycopg.errors.DeadlockDetected:
            if not stop.is_set():
                write(rng)
        except BaseException as exc:
            failures.append(exc)

    def change_row(connection: Connection, rng: random.Random) -> None:
        tag = rng.randrange(1, ROWS + 1)
        match rng.choices(["update", "delete", "insert", "move"], [10, 1, 1, 4])[0]:
            case "update":
                connection.execute("update items set version = version + 1 where tag = %s", (tag,))
            case "delete":
                connection.execute("delete from items where tag = %s and tag %% 10 = 0", (tag,))
            case "insert":
                connection.execute("insert into items select n, n, 1 + n %% 2, 0 from nextval('numbers') n", ())
            case "move":  # To a new key far ahead of the backfill's position or far behind it; keys are never reused.
                sign = rng.choice([1, -1])
                connection.execute("update items set id = %s * nextval('numbers'), version = version + 1 where tag = %s", (sign, tag))

    threads = [threading.Thread(target=write, args=(random.Random(seed + n),)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def sink(engine: EngineProgram, name: str, receiver: Receiver, **settings: Any) -> None:
    engine.user_sink(1, f"{receiver.url}/unused")
    engine.sink(
        name,
        f"{receiver.url}/{name}",
        source={"include_tables": ["public.items"]},
        filter="rows-of-user",
        annotations={"user_id": "1"},
        batch_size=50,
        **settings,
    )


def backfill(engine: EngineProgram, name: str) -> dict[str, Any]:
    path = f"/api/sinks/{name}/backfills"
    started = engine.ask("POST", path, {})
    return eventually(lambda: (b := engine.ask("GET", f"{path}/{started['id']}"))["state"] != "active" and b, within=40, what=path)


@pytest.mark.parametrize("identity", ["full", "default"])
def test_the_last_message_of_each_row_is_its_present_state(
    engine: EngineProgram, database: Connection, receiver: Receiver, database_url: str, identity: str
) -> None:
    set_up(database, engine, identity)
    sink(engine, "mine", receiver)
    with storm(database_url) as failures:
        eventually(lambda: len(receiver.messages("/mine")) > 100, what="live changes")
        done = backfill(engine, "mine")
    assert failures == []
    assert done["state"] == "completed", done
    truth = dict(database.execute("select id, version from items where user_id = 1").fetchall())

    def latest() -> dict[int, int]:
        return {m["record"]["id"]: m["record"]["version"] for m in receiver.messages("/mine") if m["action"] != "delete"}

    eventually(lambda: truth.items() <= latest().items(), within=20, what="the last message of each row to show its current state")
    versions: dict[int, int] = {}
    deleted: set[int] = set()
    for message in receiver.messages("/mine"):
        record = message["record"]
        if message["action"] == "delete":
            deleted.add(record["id"])
            continue
        assert record["user_id"] == 1
        assert record["version"] >= versions.get(record["id"], 0), message
        assert record["id"] not in deleted, message
        versions[record["id"]] = record["version"]
    assert [m["action"] for m in receiver.messages("/mine")].count("read") > ROWS // 8


@pytest.mark.parametrize("identity", ["full", "default"])
def test_rows_whose_changes_are_not_sent_are_all_read(
    engine: EngineProgram, database: Connection, receiver: Receiver, database_url: str, identity: str
) -> None:
    """The sink does not receive updates, so only a `read` can deliver a row that changes or moves to another key meanwhile."""
    set_up(database, engine, identity)
    sink(engine, "inserts", receiver, actions=["insert"])
    with storm(database_url) as failures:
        done = backfill(engine, "inserts")
    assert failures == []
    assert done["state"] == "completed", done
    tags = {row[0] for row in database.execute("select tag from items where user_id = 1")}

    def received() -> set[int]:
        return {m["record"]["tag"] for m in receiver.messages("/inserts")}

    eventually(lambda: tags <= received(), within=20, what="every row to arrive as a read or an insert")
    assert {m["record"]["user_id"] for m in receiver.messages("/inserts")} == {1}


def test_several_at_once_on_one_table_and_on_others(
    engine: EngineProgram, database: Connection, receiver: Receiver, database_url: str
) -> None:
    database.execute(f"alter publication {PUBLICATION} add table users".encode())
    set_up(database, engine, "full")
    for n in range(6):
        engine.sink(f"s{n}", f"{receiver.url}/s{n}/", source={"include_tables": ["public.items", "public.users"]}, batch_size=100)
    started = []
    with storm(database_url) as failures:
        for n in range(6):
            for table in ("public.items", "public.users"):
                path = f"/api/sinks/s{n}/backfills"
                started.append(f"{path}/{engine.ask('POST', path, {'table': table})['id']}")
        for path in started:
            eventually(lambda path=path: engine.ask("GET", path)["state"] == "completed", within=60, what=path)  # type: ignore[misc]
    assert failures == []
    truth = dict(database.execute("select id, version from items").fetchall())
    users = {row[0] for row in database.execute("select id from users")}

    def is_complete(n: int) -> bool:
        messages = receiver.messages(f"/s{n}/")
        items = {m["record"]["id"]: m["record"]["version"] for m in messages if m["metadata"]["table_name"] == "items"}
        return truth.items() <= items.items() and users <= {m["record"]["id"] for m in messages if m["metadata"]["table_name"] == "users"}

    for n in range(6):
        eventually(lambda n=n: is_complete(n), within=30, what=f"all rows at sink {n}")  # type: ignore[misc]
