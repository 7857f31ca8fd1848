"""Values recorded from Sequin 0.14.6: the engine sends the same values, or `DIFFERENCES.md` lists the type and the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import userhooks.engine
from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

RECORDINGS = Path(__file__).parents[1] / "recordings" / "0.14.6" / "side_by_side" / "values.jsonl"
RECORDED = [json.loads(line) for line in RECORDINGS.read_text(encoding="utf-8").splitlines()]
VALUES = list(dict.fromkeys((line["type"], line["sql"]) for line in RECORDED))
"""Each type and SQL literal once; the index is the id of its row and the number of its column."""
DIFFERENCES = Path(userhooks.engine.__file__).with_name("DIFFERENCES.md")


def named_differences() -> set[tuple[str, str]]:
    """Read the table of values in DIFFERENCES.md, and return pairs of a type and `live` or `read`."""
    section = DIFFERENCES.read_text(encoding="utf-8").split("\n## Values\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in section.splitlines() if line.startswith("| `")]
    return {(name, when) for types, where, *_ in rows for name in re.findall(r"`([^`]+)`", types) for when in where.split(", ")}


def sent_values(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> dict[str, dict[int, Any]]:
    """Write and backfill each value in each recorded way, and return the received values by kind and row id."""
    columns = ", ".join(f"c{at} {name}" for at, (name, _) in enumerate(VALUES))
    database.execute("create type mood as enum ('happy', 'sad'); create type pair as (number int, word text)")
    database.execute(f"create table recorded (id int primary key, n int, {columns})".encode())
    database.execute("alter table recorded replica identity full; alter publication test_pub add table recorded")
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    source = {"include_tables": ["public.recorded"]}
    engine.sink("iso", f"{receiver.url}/iso", source=source, batch_size=100)
    engine.sink("unix", f"{receiver.url}/unix", source=source, batch_size=100, timestamp_format="unix_microsecond")

    database.execute("create cast (bytea as xml) without function")  # A server built without libxml cannot parse text as xml.
    for at, (name, text) in enumerate(VALUES):
        literal = f"{text}::bytea::xml" if name == "xml" else text
        database.execute(f"insert into recorded (id, c{at}) values ({at}, {literal})".encode())  # noqa: S608
    count = len(VALUES)
    receiver.wait_for(count, "/unix")
    receiver.wait_for(count, "/iso")
    backfill = engine.ask("POST", "/api/sinks/iso/backfills", {"table": "public.recorded"})
    path = f"/api/sinks/iso/backfills/{backfill['id']}"
    eventually(lambda: engine.ask("GET", path)["state"] == "completed", within=20, what=path)
    database.execute("update recorded set n = 1")
    nulls = sql.SQL(", ").join(sql.SQL("{} = null").format(sql.Identifier(f"c{at}")) for at in range(count))
    database.execute(sql.SQL("update recorded set {}").format(nulls))
    messages = receiver.wait_for(4 * count, "/iso")

    def values(messages: list[dict[str, Any]], part: str) -> dict[int, Any]:
        return {m["record"]["id"]: m[part][f"c{m['record']['id']}"] for m in messages}

    updates = [m for m in messages if m["action"] == "update"]
    return {
        "insert iso8601": values([m for m in messages if m["action"] == "insert"], "record"),
        "insert unix_microsecond": values([m for m in receiver.messages("/unix") if m["action"] == "insert"], "record"),
        "read": values([m for m in messages if m["action"] == "read"], "record"),
        "update record": values([m for m in updates if "n" in m["changes"]], "record"),
        "update changes": values([m for m in updates if "n" not in m["changes"]], "changes"),
    }


def test_a_value_is_the_recorded_one_or_its_type_is_a_named_difference(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    named = named_differences()
    sent = sent_values(engine, database, receiver)
    wrong = []
    for line in RECORDED:
        value = sent[line["kind"]][VALUES.index((line["type"], line["sql"]))]
        when = "read" if line["kind"] == "read" else "live"
        is_equal = (type(value), value) == (type(line["real"]), line["real"])
        if is_equal is ((line["type"], when) in named):
            wrong.append((line, value, "equal, but listed as a difference" if is_equal else "different, but not listed"))
    assert not wrong
    assert named <= {(line["type"], "read" if line["kind"] == "read" else "live") for line in RECORDED}
