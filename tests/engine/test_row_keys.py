"""Row identity and message order for every kind of key and replica identity, with a receiver that sometimes fails."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]

STEPS = 250
TABLES: dict[str, LiteralString] = {
    "plain": "create table plain (id int primary key, code int not null, v text)",
    "including": "create table including (id int, code int not null, v text, primary key (id) include (code))",
    "composite": "create table composite (id int, code int not null, v text, primary key (code, id))",
    "by_index": """create table by_index (id int, code int not null, v text);
        create unique index by_code on by_index (id) include (v);
        alter table by_index alter id set not null, replica identity using index by_code""",
    "whole": "create table whole (id int, code int not null, v text); alter table whole replica identity full",
    "whole_with_key": "create table whole_with_key (id int primary key, code int not null, v text); "
    "alter table whole_with_key replica identity full",
    "parts": """create table parts (id int primary key, code int not null, v text) partition by range (id);
        create table parts_all partition of parts for values from (0) to (1000000)""",
}


def sink(engine: EngineProgram, receiver: Receiver, *tables: str, **settings: Any) -> None:
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    engine.sink("keys", receiver.url, source={"include_tables": [f"public.{table}" for table in tables]}, **settings)


def test_the_order_per_row_holds_for_every_replica_identity(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for table, statement in TABLES.items():
        database.execute(statement)
        database.execute(f"alter publication test_pub add table {table}".encode())
    fails = random.Random(seed)
    receiver.script = lambda path, messages: 500 if fails.random() < 0.3 else 200
    sink(engine, receiver, *(table if table != "parts" else "parts_all" for table in TABLES), batch_size=rng.choice([1, 5]))
    rows: dict[str, dict[int, int]] = {table: {} for table in TABLES}  # For each table, maps the id of a row to the index of its history.
    histories: list[list[int]] = []
    by_id: dict[tuple[str, int], list[int]] = defaultdict(list)
    changes: dict[str, list[int]] = defaultdict(list)

    def run(table: str, step: int, statement: LiteralString, values: tuple[object, ...], *ids: int, history: int) -> None:
        database.execute(sql.SQL(statement).format(sql.Identifier(table)), values)
        changes["parts_all" if table == "parts" else table].append(step)
        histories[history].append(step)
        for id_ in ids if table != "whole" else ():  # Without a key, the ids do not identify rows.
            by_id[table, id_].append(step)

    for step in range(STEPS):
        table = rng.choice(list(TABLES))
        present = rows[table]
        free = sorted(set(range(4)) - present.keys())
        if free and (not present or rng.random() < 0.4):
            id_ = rng.choice(free)
            present[id_] = len(histories)
            histories.append([])
            run(table, step, "insert into {} values (%s, 7, %s)", (id_, str(step)), id_, history=present[id_])
            continue
        old = rng.choice(sorted(present))
        if free and rng.random() < 0.4:
            new = rng.choice(free)
            present[new] = present.pop(old)
            run(table, step, "update {} set id = %s, v = %s where id = %s", (new, str(step), old), old, new, history=present[new])
        elif rng.random() < 0.3:
            run(table, step, "delete from {} where id = %s", (old,), old, history=present.pop(old))
        else:
            run(table, step, "update {} set v = %s where id = %s", (str(step), old), old, history=present[old])
    eventually(lambda: len(receiver.messages()) >= STEPS, within=60, what=f"all changes to arrive; seed {seed}")
    positions = {(m["metadata"]["table_name"], m["metadata"]["commit_lsn"]): at for at, m in enumerate(receiver.messages())}
    position_of_step: dict[int, int] = {}
    for name, steps in changes.items():
        lsns = sorted(lsn for table, lsn in positions if table == name)
        position_of_step.update({step: positions[name, lsn] for step, lsn in zip(steps, lsns, strict=True)})
    for history in [*histories, *by_id.values()]:
        assert sorted(history, key=position_of_step.__getitem__) == history, f"a row's changes came out of order: {history}; seed {seed}"


def test_record_pks_hold_the_key_without_what_an_index_includes(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    database.execute(TABLES["including"])
    database.execute(TABLES["by_index"])
    database.execute("alter publication test_pub add table including, by_index")
    sink(engine, receiver, "including", "by_index")
    database.execute("insert into including values (1, 2, 'x')")
    database.execute("insert into by_index values (3, 4, 'y')")
    database.execute("delete from by_index")
    pks = {(m["metadata"]["table_name"], m["action"]): m["metadata"]["record_pks"] for m in receiver.wait_for(3)}
    assert pks == {("including", "insert"): ["1"], ("by_index", "insert"): ["3"], ("by_index", "delete"): ["3"]}


@pytest.mark.parametrize("identity", ["default", "full"])
def test_a_key_that_is_moved_is_noticed_without_a_restart(
    engine: EngineProgram, database: Connection, receiver: Receiver, identity: str
) -> None:
    database.execute("create table moved (id int primary key, code int not null)")
    database.execute(f"alter table moved replica identity {identity}".encode())
    database.execute("alter publication test_pub add table moved")
    sink(engine, receiver, "moved")
    database.execute("insert into moved values (1, 10)")
    assert receiver.wait_for(1)[0]["metadata"]["record_pks"] == ["1"]
    database.execute("alter table moved drop constraint moved_pkey, add primary key (code)")
    database.execute("insert into moved values (2, 20)")
    assert receiver.wait_for(2)[1]["metadata"]["record_pks"] == ["20"]
