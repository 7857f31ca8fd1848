"""Unusual values, names, and tables: live changes and backfills look the same, and nothing stops the stream or a sink."""

from __future__ import annotations

import json
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


def refresh(engine: EngineProgram) -> None:
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})


def prepare(engine: EngineProgram, database: Connection, statements: LiteralString) -> None:
    """Run SQL statements, and have the engine read the tables again."""
    database.execute(statements)
    refresh(engine)


def sink(engine: EngineProgram, name: str, receiver: Receiver, *tables: str, **settings: Any) -> None:
    engine.sink(name, f"{receiver.url}/{name}", source={"include_tables": list(tables)}, **settings)


def read_again(engine: EngineProgram, name: str, table: str) -> None:
    """Run a backfill of the table until it completes."""
    backfill = engine.ask("POST", f"/api/sinks/{name}/backfills", {"table": table})
    path = f"/api/sinks/{name}/backfills/{backfill['id']}"
    eventually(lambda: engine.ask("GET", path)["state"] == "completed", within=20, what=path)


DEEP = "[" * 900 + "]" * 900  # As deep as the receiver can parse.
ODD: dict[LiteralString, list[LiteralString]] = {
    "numeric": ["'NaN'", "'Infinity'", "'-Infinity'", "repeat('9', 131072)::numeric", "('0.' || repeat('1', 16383))::numeric", "-0.000"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "float8": ["'NaN'", "'-Infinity'", "1.7976931348623157e308", "5e-324", "'-0'"],
    "float4": ["3.4028235e38", "1e-45"],
    "date": ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'0001-01-01 BC'"],
    "timestamp": ["'infinity'", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"],
    "timestamptz": ["'-infinity'", "'4713-01-02 00:00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'", "'0001-12-31 23:00:00+00 BC'"],
    "time": ["'24:00:00'", "'00:00:00.000001'"],
    "timetz": ["'24:00:00-15:59'", "'00:00:00+15:59'"],
    "interval": ["'178000000 years'", "'-178000000 years'", "'2147483647 days'", "'-0.000001 s'"],
    "money": ["'-92233720368547758.08'", "'92233720368547758.07'"],
    "bit varying": ["B''", "repeat('10', 5000)::bit varying"],
    "bytea": ["''", "'\\x00ff'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'"],
    "inet": ["'::ffff:1.2.3.4/128'", "'fe80::1/64'"],
    "tsvector": ["'''it''s'':1A \\\\\\\\b'::tsvector", "''"],
    "tsquery": ["'a & !(b | c:*)'"],
    "json": ['\'{"a" : 9007199254740993,\n "a": 1e400, "s": "\\ud83d\\ude00\\u0000"}\'', "(repeat('[', 900) || repeat(']', 900))::json"],
    "jsonb": ["'12345678901234567890123.45'", "(repeat('[', 900) || repeat(']', 900))::jsonb", "'\"\"'"],
    "int4range": ["'empty'", "'(,)'", "'[1,2]'"],
    "tstzrange": ["'[-infinity, infinity]'", "'[2025-01-01 00:00:00+00,)'"],
    "nummultirange": ["'{}'", "'{[1,2],(3.5,)}'"],
    "int4[]": ["'{}'", "'{{{1},{NULL}}}'", "'[-2:-1][0:1]={{1,2},{3,4}}'"],
    "text[]": ["array['NULL', NULL, '', '\"', '\\', '{}', ',', E'\\n']", "array[array['a'],array['\u00e9 \"x\"']]"],
    "jsonb[]": ['array[\'{"a": [1, null, "}"]}\'::jsonb, null]'],
    "box[]": ["'{(1,1),(0,0);(3,3),(2,2)}'"],
    "timestamptz[]": ["array['infinity'::timestamptz, '0044-03-15 12:00:00+00 BC']"],
    "point": ["'(1e300,-Infinity)'", "'(NaN,0)'"],
    "polygon": ["'((0,0),(1,1),(1,0))'"],
    "path": ["'[(0,0),(1,1)]'"],
    "line": ["'{1,2,3}'"],
    "lseg": ["'[(0,0),(1,1)]'"],
    "circle": ["'<(0,0),5>'"],
    "macaddr8": ["'08:00:2b:01:02:03:04:05'"],
    "char(5)": ["'a'", "''"],
    "name": ["repeat('n', 63)"],
    "pg_lsn": ["'FFFFFFFF/FFFFFFFF'"],
    "mood": ["'sad \"1\"'", "''"],
    "mood[]": ["array['sad \"1\"', '']::mood[]"],
    "short": ["'abc'"],
    "place": ["row('Main \"St\", \\', null, array['1 day'::interval])::place", "row(null, null, null)::place"],
    "place[]": ["array[row('a,b', 1, null)::place, null]"],
}


def test_odd_values_of_every_type_look_the_same_live_and_read_again_and_stop_nothing(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    prepare(
        engine,
        database,
        """create type mood as enum ('sad "1"', ''); create domain short as text check (length(value) < 9);
           create type place as (street text, number int, since interval[])""",
    )
    columns = {f"c{i}": (kind, values) for i, (kind, values) in enumerate(ODD.items())}
    database.execute(
        "create table odd (id int primary key, " + ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items()) + ")"  # type: ignore[arg-type]
    )
    database.execute("alter publication test_pub add table odd")
    refresh(engine)
    sink(engine, "odd", receiver, "public.odd")
    number = 0
    for name, (_, values) in columns.items():
        for value in values:
            number += 1
            database.execute(f"insert into odd (id, {name}) values ({number}, {value})")  # type: ignore[arg-type]  # noqa: S608
    live = {m["record"]["id"]: m["record"] for m in receiver.wait_for(number, "/odd", within=30)}
    read_again(engine, "odd", "public.odd")
    read = {m["record"]["id"]: m["record"] for m in receiver.wait_for(2 * number, "/odd", within=30) if m["action"] == "read"}
    assert [repr(read[n]) for n in range(1, number + 1)] == [repr(live[n]) for n in range(1, number + 1)]
    by_kind: dict[str, list[Any]] = {}
    for n in range(1, number + 1):
        for name, (kind, _) in columns.items():
            if live[n][name] is not None:
                by_kind.setdefault(kind, []).append(live[n][name])
    assert {kind: len(values) for kind, values in by_kind.items()} == {kind: len(values) for kind, values in ODD.items()}
    assert by_kind["numeric"][3:5] == ["9" * 131072, "0." + "1" * 16383]
    assert by_kind["timestamptz"][1:3] == ["4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"]
    assert json.dumps(by_kind["jsonb"][1]) == DEEP


TEXTS = [
    "😀👩\u200d👩\u200d👧 e\u0301 \uffff \ufffe \U0010ffff",
    "עברית \u202eabc\u202c العربية",
    "\"'\\ % %s %b {} ${x} \\u0000 \\x00",
    "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f\u2028\u2029\ufeff",
]
SCHEMAS = ["public", 'Sch.ema "q"', "%s ü😀"]
TABLES = ['Up.per "Case" 😀', "%b %s 'q' \\", "x" * 63]


def test_text_of_all_planes_in_values_and_in_names_of_schemas_tables_and_columns(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    column = 'Ünï "c".%s \\ 😀'
    names = [(schema, table) for schema in SCHEMAS for table in TABLES]
    for schema, table in names:
        database.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
        where = sql.Identifier(schema, table)
        database.execute(sql.SQL("create table {} (id int primary key, {} text)").format(where, sql.Identifier(column)))
        database.execute(sql.SQL("alter publication test_pub add table {}").format(where))
    refresh(engine)
    engine.sink("all", f"{receiver.url}/all", source={"include_schemas": SCHEMAS})
    expected = []
    for schema, table in names:
        for number, value in enumerate(TEXTS):
            where = sql.Identifier(schema, table)
            database.execute(sql.SQL("insert into {} values ({}, {})").format(where, number, value))
            expected.append((schema, table, {"id": number, column: value}))
    messages = receiver.wait_for(len(expected), "/all")
    seen = [(m["metadata"]["table_schema"], m["metadata"]["table_name"], m["record"]) for m in messages]
    assert sorted(seen, key=repr) == sorted(expected, key=repr)


def test_tables_of_every_kind_beside_each_other(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    """The tables have generated and dropped columns, no key, every replica identity, column lists, and row filters."""
    prepare(
        engine,
        database,
        """create table gen (id int primary key, gone int, n int, twice int generated always as (n * 2) stored);
           alter table gen drop column gone;
           create table keyless (id int, v text);
           create table by_index (id int primary key, code text not null unique, v text);
           alter table by_index replica identity using index by_index_code_key;
           create table nothing (id int primary key, v text);
           alter table nothing replica identity nothing;
           create table partly (id int primary key, shown text, hidden text);
           create table chosen (id int primary key, n int);
           alter table chosen replica identity full;
           alter publication test_pub add table gen, keyless, by_index, partly (id, shown), chosen where (n > 10);
           create publication inserts for table nothing with (publish = 'insert')""",
    )
    for table in ("gen", "keyless", "by_index", "partly", "chosen"):
        sink(engine, table, receiver, f"public.{table}", actions=["insert", "update", "delete"])
    database.execute("insert into gen (id, n) values (1, 21)")
    database.execute("alter table gen drop column n cascade")
    database.execute("alter table gen add column late text default 'x'")
    database.execute("insert into gen (id) values (2)")
    database.execute("insert into keyless values (1, 'a'), (1, 'a'), (null, null)")
    database.execute("insert into by_index values (1, 'c', 'x')")
    database.execute("update by_index set v = 'y'")
    database.execute("delete from by_index")
    database.execute("insert into partly values (1, 's', 'h')")
    database.execute("update partly set hidden = 'i'")
    database.execute("insert into chosen values (1, 5), (2, 15)")
    database.execute("update chosen set n = n + 6")
    database.execute("update chosen set n = 0 where id = 2")

    def seen(table: str, count: int) -> list[tuple[str, Any]]:
        return [(m["action"], m["record"]) for m in receiver.wait_for(count, f"/{table}")]

    assert sorted(seen("gen", 2), key=repr) == [("insert", {"id": 1, "n": 21}), ("insert", {"id": 2, "late": "x"})]
    assert sorted(seen("keyless", 3), key=repr) == [
        ("insert", {"id": 1, "v": "a"}),
        ("insert", {"id": 1, "v": "a"}),
        ("insert", {"id": None, "v": None}),
    ]
    # With a replica identity other than the primary key, a delete has only the columns of that identity.
    assert [r for r in seen("by_index", 3) if r[0] == "delete"] == [("delete", {"id": None, "code": "c", "v": None})]
    assert seen("partly", 2) == [("insert", {"id": 1, "shown": "s"}), ("update", {"id": 1, "shown": "s"})]
    # A row that enters the publication's row filter is published as an insert, and one that leaves it as a delete (since Postgres 15).
    messages = seen("chosen", 4)
    assert [(a, r) for a, r in messages if r["id"] == 1] == [("insert", {"id": 1, "n": 11})]
    assert [(a, r["n"]) for a, r in messages if r["id"] == 2] == [("insert", 15), ("update", 21), ("delete", 21)]


def test_a_partitioned_table_published_by_its_root_is_one_table(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    prepare(
        engine,
        database,
        """create table events (id int, region text, v text, primary key (id, region)) partition by list (region);
           create table events_a partition of events for values in ('a');
           create table events_b partition of events for values in ('b');
           alter publication test_pub set (publish_via_partition_root = true);
           alter publication test_pub add table events""",
    )
    sink(engine, "events", receiver, "public.events")
    database.execute("insert into events values (1, 'a', 'x')")
    receiver.wait_for(1, "/events")
    database.execute("update events set region = 'b'")
    database.execute("create table events_c (region text, id int not null, v text, primary key (id, region))")
    database.execute("alter table events attach partition events_c for values in ('c')")
    database.execute("insert into events values (2, 'c', 'y')")
    receiver.wait_for(4, "/events")
    database.execute("alter table events detach partition events_a")
    database.execute("insert into events values (3, 'b', 'z')")
    messages = receiver.wait_for(5, "/events")
    assert {m["metadata"]["table_name"] for m in messages} == {"events"}
    moved = [(m["action"], m["record"]["region"]) for m in messages if m["record"]["id"] == 1]
    assert sorted(moved) == [("delete", "a"), ("insert", "a"), ("insert", "b")]
    assert [m["record"] for m in messages if m["record"]["id"] > 1] == [
        {"id": 2, "region": "c", "v": "y"},
        {"id": 3, "region": "b", "v": "z"},
    ]


def test_a_backfill_of_a_table_reads_none_that_inherit_from_it(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    prepare(
        engine,
        database,
        """create table people (id int primary key);
           create table clients (rebate int, primary key (id)) inherits (people);
           alter publication test_pub add table only people;""",
    )
    sink(engine, "people", receiver, "public.people")
    database.execute("insert into people values (1); insert into clients values (2, 5); insert into people values (3)")
    receiver.wait_for(2)
    assert sorted(receiver.ids()) == [1, 3]
    read_again(engine, "people", "public.people")
    receiver.wait_for(4)
    assert sorted(receiver.ids()) == [1, 1, 3, 3]
    [backfill] = engine.ask("GET", "/api/sinks/people/backfills")["data"]
    assert (backfill["rows_initial_count"], backfill["rows_processed_count"]) == (2, 2)


def test_a_users_own_types_may_have_the_names_of_others(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    prepare(
        engine,
        database,
        """create schema mine;
           create type mine.box as enum ('a', 'b;c', 'd');
           create type mine.vector;
           create function mine.inward(cstring) returns mine.vector language internal immutable strict as 'textin';
           create function mine.outward(mine.vector) returns cstring language internal immutable strict as 'textout';
           create type mine.vector (input = mine.inward, output = mine.outward, like = text, delimiter = '^', category = 'A');
           create table own (id int primary key, boxes mine.box[], vector mine.vector, vectors mine.vector[]);
           alter publication test_pub add table own""",
    )
    sink(engine, "own", receiver, "public.own")
    database.execute("insert into own values (1, '{a,b;c,d}', 'north, [far', '{x^\"y, z\"^null}')")
    [message] = receiver.wait_for(1, "/own")
    assert message["record"] == {"id": 1, "boxes": ["a", "b;c", "d"], "vector": "north, [far", "vectors": ["x", "y, z", None]}


def test_a_value_without_json_fails_its_message_visibly_and_no_other(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    prepare(
        engine,
        database,
        """create type odd;
           create function odd_in(cstring) returns odd language internal immutable strict as 'textin';
           create function odd_out(odd) returns cstring language internal immutable strict as 'textout';
           create type odd (input = odd_in, output = odd_out, like = text, delimiter = '{');
           create table odds (id int primary key, v odd[]);
           alter publication test_pub add table odds""",
    )
    sink(engine, "odds", receiver, "public.odds", batch_size=10, max_retry_count=2)
    database.execute("insert into odds values (1, array['a'::odd]), (2, array['a'::odd, 'b'::odd]), (3, null)")
    assert sorted(m["record"]["id"] for m in receiver.wait_for(2, "/odds")) == [1, 3]
    discarded = eventually(lambda: engine.ask("GET", "/api/sinks/odds/discarded")["data"], what="the message to be discarded")
    assert [(message["key"], message["error"]) for message in discarded] == [("2", "[message]: a malformed array")]
    assert all(json.loads(request.body) for request in receiver.requests)


def test_partitions_published_one_by_one_are_tables_of_their_own(engine: EngineProgram, database: Connection, receiver: Receiver) -> None:
    prepare(
        engine,
        database,
        """create table events (id int, region text, primary key (id, region)) partition by list (region);
           create table events_a partition of events for values in ('a');
           create table events_b partition of events for values in ('b');
           alter publication test_pub add table events""",
    )
    with pytest.raises(AssertionError, match=r"Table 'public.events' not found"):
        sink(engine, "events", receiver, "public.events")
    engine.sink("parts", f"{receiver.url}/parts", source={"include_tables": ["public.events_a", "public.events_b"]})
    database.execute("insert into events values (1, 'a')")
    database.execute("update events set region = 'b'")
    seen = [(m["action"], m["metadata"]["table_name"]) for m in receiver.wait_for(3, "/parts")]
    assert sorted(seen) == [("delete", "events_a"), ("insert", "events_a"), ("insert", "events_b")]
