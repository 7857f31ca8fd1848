"""Postgres values as JSON, compared with recordings of Sequin 0.14.6 and with the output of a real Postgres."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.engine import wal
from userhooks.engine.postgres.pg_types import TimestampFormat, TypeCatalog, days_since_1970

on_one_server = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Postgres:
    """A real server that evaluates expressions; `setup` creates additional types."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.types = wal.catalog_of(connection)

    def raw(self, expression: str, *params: object) -> tuple[int, bytes | None]:
        """Return the type OID and the text of an SQL expression, as the engine gets them."""
        result = self.connection.execute(f"SELECT {expression}", params).pgresult
        assert result is not None
        return result.ftype(0), result.get_value(0, 0)

    def shown(self, expression: str, *params: object, timestamp_format: TimestampFormat = "iso8601") -> Any:
        """Return the JSON value that a message shows for an SQL expression."""
        oid, raw = self.raw(expression, *params)
        assert raw is not None
        assert self.types.knows(oid)
        return json.loads(self.types.json_encoder(oid, timestamp_format)(raw))

    def seen(self, expression: str) -> Any:
        """Return the value that a filter function sees for an SQL expression."""
        oid, raw = self.raw(expression)
        assert raw is not None
        return self.types.decoder(oid)(raw)

    def says(self, expression: str, *params: object) -> Any:
        """Return the value of an SQL expression in Postgres."""
        row = self.connection.execute(f"SELECT {expression}", params).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def postgres(database_url: str) -> Iterator[Postgres]:
    with wal.connect(database_url) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad \"1\"', 'fine')")
        connection.execute("CREATE DOMAIN user_id AS int8")
        connection.execute("CREATE DOMAIN special_id AS user_id")
        connection.execute("CREATE DOMAIN tags AS text[]")
        connection.execute("CREATE TYPE place AS (street text, number int, since interval)")
        yield Postgres(connection)


RECORDED = [
    ("true", True),
    ("'\\x00ff10'::bytea", "\\x00ff10"),
    ("'ab'::char(5)", "ab   "),
    ("'2024-02-29'::date", "2024-02-29"),
    ("1.5::float4", 1.5),
    ("0.1::float8", 0.1),
    ("'NaN'::float8", "NaN"),
    ("'10.0.0.1/8'::inet", "10.0.0.1/8"),
    ("-5::int2", -5),
    ("9007199254740993::int8", 9007199254740993),
    ("'{1,2,NULL}'::int[]", [1, 2, None]),
    ("'1 day 02:03:04.5'::interval", {"days": 1, "microseconds": 7384500000, "months": 0}),
    ("""'{"b": 1, "a": [1,2]}'::json""", {"a": [1, 2], "b": 1}),
    ("""'{"a": null, "b": 1.5}'::jsonb""", {"a": None, "b": 1.5}),
    ("12.34::money", "$12.34"),
    ("12345678.9::numeric(14,6)", "12345678.900000"),
    ("'(1.5,2)'::point", "(1.5,2)"),
    ("'[1,5)'::int4range", "[1,5)"),
    ("E'héllo ☃ \"q\" \\\\ / \\n tab\\t'", 'héllo ☃ "q" \\ / \n tab\t'),
    ("array['a','b c',NULL]", ["a", "b c", None]),
    ("'13:14:15.5'::time", "13:14:15"),
    ("'2024-02-29 13:14:15.123456'::timestamp", "2024-02-29T13:14:15.123456"),
    ("'2024-02-29 13:14:15.123456+02'::timestamptz", "2024-02-29T11:14:15.123456Z"),
    ("'2025-01-01+00'::timestamptz", "2025-01-01T00:00:00.000000Z"),
    ("'infinity'::timestamptz", "infinity"),
    ("'13:14:15+02'::timetz", "13:14:15"),
    ("'cat fat'::tsvector", "'cat' 'fat'"),
    ("'6F1A2B3C-0000-4000-8000-000000000001'::uuid", "6f1a2b3c-0000-4000-8000-000000000001"),
    ("'vc'::varchar(9)", "vc"),
]


def test_values_look_as_recorded(postgres: Postgres) -> None:
    assert [(e, postgres.shown(e)) for e, _ in RECORDED] == RECORDED


OTHERS = [
    ("7::oid", 7),
    ("'{7,8}'::special_id[]", [7, 8]),
    ("'sad \"1\"'::mood", 'sad "1"'),
    ("array['fine','sad \"1\"']::mood[]", ["fine", 'sad "1"']),
    ("('Main \"St\"', 1, '1 day')::place", '("Main ""St""",1,"1 day")'),
    ("'10.0.0.0/8'::cidr", "10.0.0.0/8"),
    ("'08:00:2b:01:02:03'::macaddr", "08:00:2b:01:02:03"),
    ("B'101'", "101"),
    ("'{[1,3),[5,6)}'::int4multirange", "{[1,3),[5,6)}"),
    ("'[\"2025-01-01 00:00:00\",)'::tsrange", '["2025-01-01 00:00:00",)'),
    ("'1 2 3'::int2vector", "1 2 3"),
    ("'1 2 3'::oidvector", "1 2 3"),
    ("array['1 2'::int2vector]", ["1 2"]),
    ("'NaN'::numeric", "NaN"),
    ("'-Infinity'::float8", "-Infinity"),
    ("'Infinity'::float4", "Infinity"),
    ("1e300::float8", 1e300),
    ("3::float8", 3.0),
    ("array[3::float4]", [3.0]),
    ("1e-7::float8", 1e-7),
    ("'-0'::float8", -0.0),
    ("'infinity'::date", "infinity"),
    ("'-infinity'::timestamp", "-infinity"),
    ("'12345-01-01'::date", "12345-01-01"),
    ("'0044-03-15 BC'::date", "0044-03-15 BC"),
    ("'0001-03-15 BC'::date", "0001-03-15 BC"),
    ("'0044-03-15 12:00:00.123 BC'::timestamp", "0044-03-15 12:00:00.123 BC"),
    ("'0044-03-15 12:00:00.123+00 BC'::timestamptz", "0044-03-15 12:00:00.123+00 BC"),
    ("'12345-03-15 12:00:00.12345+00'::timestamptz", "12345-03-15 12:00:00.12345+00"),
    ("'24:00:00'::time", "24:00:00"),
    ("'-1 years -2 mons +3 days -04:05:06.7'::interval", {"days": 3, "microseconds": -14_706_700_000, "months": -14}),
    ("'0'::interval", {"days": 0, "microseconds": 0, "months": 0}),
    ("array['1 mon'::interval, NULL]", [{"days": 0, "microseconds": 0, "months": 1}, None]),
    ("'{}'::int[]", []),
    ("'{{1,2},{3,NULL}}'::int[]", [[1, 2], [3, None]]),
    ("'[0:1]={7,8}'::int[]", [7, 8]),
    ("'[-1:0][2:3]={{1,2},{3,4}}'::int[]", [[1, 2], [3, 4]]),
    ("array['NULL', 'null', NULL, '', ' ', '{', '}', ',', '\"', '\\']", ["NULL", "null", None, "", " ", "{", "}", ",", '"', "\\"]),
    ("array['(1,1),(0,0)'::box, '(3,3),(2,2)'::box]", ["(1,1),(0,0)", "(3,3),(2,2)"]),
    ("array['2025-01-01+00'::timestamptz]", ["2025-01-01T00:00:00.000000Z"]),
    ("array[true, false]", [True, False]),
    ("array['{\"a\": [1]}'::jsonb]", [{"a": [1]}]),
    ("array['\\x01'::bytea]", ["\\x01"]),
    ("'[1, {\"a\":\n 12345678901234567890123}]'::json", [1, {"a": 12345678901234567890123}]),
    ("'null'::jsonb", None),
]


def test_values_of_other_types_keep_to_the_same_rules(postgres: Postgres) -> None:
    assert [(e, postgres.shown(e)) for e, _ in OTHERS] == OTHERS


def test_a_domain_looks_like_the_type_below_it(postgres: Postgres) -> None:
    for domain, text, shown in (
        ("user_id", b"7", 7),
        ("special_id", b"7", 7),
        ("tags", b"{a,NULL}", ["a", None]),
        ("_user_id", b"{7}", [7]),
    ):
        oid = postgres.says("%s::regtype::oid::int8", domain)
        assert json.loads(postgres.types.json_encoder(oid)(text)) == shown


def test_a_filter_function_sees_what_the_message_shows(postgres: Postgres) -> None:
    for expression, shown in RECORDED + OTHERS:
        seen = postgres.seen(expression)
        assert (type(seen), seen) == (type(shown), shown), expression


def test_an_infinite_interval_is_text(postgres: Postgres) -> None:
    if postgres.connection.info.server_version < 170_000:
        return  # older versions have no infinite intervals
    assert postgres.shown("'infinity'::interval") == "infinity"


TEXT_LIKE = """
create schema {schema};
create type {schema}.{name};
create function {schema}.inward(cstring) returns {schema}.{name} language internal immutable strict as 'textin';
create function {schema}.outward({schema}.{name}) returns cstring language internal immutable strict as 'textout';
create type {schema}.{name} (input = {schema}.inward, output = {schema}.outward, like = text, category = 'A', delimiter = '{delimiter}');
create domain {schema}.short as {schema}.{name};
"""


def test_a_users_own_type_is_text_and_its_delimiter_is_the_types_whatever_its_name(postgres: Postgres) -> None:
    texts = ["a;b", "c,d", "e:f^g]h-i", "", "null", 'q"\\', "[1,2", "{x}", "plain", "7"]
    own = [
        (f"mine{number}", name, delimiter)
        for number, (name, delimiter) in enumerate([("box", ","), ("geometry", "^"), ("vector", "]"), ("halfvec", "-"), ("other", ";")])
    ]
    for schema, name, delimiter in own:
        postgres.connection.execute(TEXT_LIKE.format(schema=schema, name=name, delimiter=delimiter).encode())
    postgres.types = wal.catalog_of(postgres.connection)
    for schema, name, delimiter in own:
        assert [postgres.shown(f"%s::text::{schema}.{name}", value) for value in texts] == texts
        for cast in (f"{schema}.{name}", f"{schema}.short"):
            for some in (texts, ["plain", "7"]):
                each = ", ".join(f"%s::text::{schema}.{name}::{cast}" for _ in some)
                assert postgres.shown(f"array[{each}]", *some) == some, (name, delimiter)
                assert postgres.shown(f"array[array[{each}], array[{each}]]", *some, *some) == [some, some]
            assert postgres.shown(f"array[null, 'a']::{cast}[]") == [None, "a"]


def test_the_built_in_box_has_its_own_delimiter(postgres: Postgres) -> None:
    assert postgres.shown("array['(1,1),(0,0)', '(2,2),(0,0)']::box[]") == ["(1,1),(0,0)", "(2,2),(0,0)"]


@pytest.mark.parametrize("name", ["box", "vector"])
def test_an_enum_may_have_the_name_of_a_type_with_another_delimiter(postgres: Postgres, name: str) -> None:
    postgres.connection.execute(f"create schema mine; create type mine.{name} as enum ('a;b', 'c')".encode())
    postgres.types = wal.catalog_of(postgres.connection)
    assert postgres.shown(f"array['a;b', 'c']::mine.{name}[]") == ["a;b", "c"]


@pytest.mark.parametrize("raw", [b'{"a": "\xff"}', b'"caf\xe9"'])
@pytest.mark.parametrize("oid", [114, 3802])
def test_json_of_a_database_without_an_encoding_still_is_json(oid: int, raw: bytes) -> None:
    assert json.loads(TypeCatalog([]).json_encoder(oid)(raw)) == json.loads(raw.decode(errors="replace"))


def test_vectors_are_lists_and_other_types_of_extensions_are_text() -> None:
    types = TypeCatalog(
        [(50_000, "vector", "b", 0, 0, ","), (50_001, "hstore", "b", 0, 0, ","), (50_002, "embedding", "d", 0, 50_000, ",")]
    )
    assert types.json_encoder(50_000)(b"[1,2.5,1e-05]") == b"[1,2.5,1e-05]"
    assert types.json_encoder(50_002)(b"[1]") == b"[1]"
    assert types.json_encoder(50_001)(b'"a"=>"1"') == rb'"\"a\"=>\"1\""'


def test_a_type_that_nobody_knows_is_text() -> None:
    types = TypeCatalog([])
    assert not types.knows(99)
    assert types.json_encoder(99)(b"1") == b'"1"'


def test_text_that_is_no_utf8_still_gives_json() -> None:
    assert json.loads(TypeCatalog([]).json_encoder(25)(b"a\xffb")) == "a\ufffdb"


@on_one_server
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_survives(postgres: Postgres, text: str) -> None:
    assert postgres.shown("%s::text", text) == text


nested_texts = st.integers(0, 3).flatmap(
    lambda width: st.lists(
        st.lists(
            st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6),
            min_size=width,
            max_size=width,
        ),
        max_size=3,
    )
)


@on_one_server
@given(nested_texts)
def test_any_array_of_texts_is_what_postgres_makes_of_it(postgres: Postgres, array: list[list[str | None]]) -> None:
    assert postgres.shown("%s::text[]", array) == postgres.says("to_jsonb(%s::text[])", array)


@on_one_server
@given(st.floats(), st.floats(width=32))
def test_any_float_survives_and_what_json_cannot_say_is_text(postgres: Postgres, double: float, single: float) -> None:
    for number, type_name in ((double, "float8"), (single, "float4")):
        shown = postgres.shown(f"%s::{type_name}", number)
        if math.isfinite(number):
            assert (to_single(shown) if type_name == "float4" else shown) == number
        else:
            assert shown == postgres.says(f"%s::{type_name}::text", number)


def to_single(number: float) -> float:
    """Return the float4 nearest to a number."""
    (single,) = struct.unpack("f", struct.pack("f", number))
    return float(single)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abc"\\ ', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@on_one_server
@given(json_values)
def test_any_json_is_what_postgres_makes_of_it(postgres: Postgres, value: Any) -> None:
    for type_name in ("json", "jsonb"):
        assert postgres.shown(f"%s::{type_name}", json.dumps(value)) == postgres.says(f"%s::{type_name}", json.dumps(value))


@on_one_server
@given(st.integers(-210_000_000_000, 9_200_000_000_000), st.integers(0, 999_999))
def test_any_timestamp_is_what_postgres_makes_of_it(postgres: Postgres, seconds: int, micro: int) -> None:
    days, rest = divmod(seconds, 86400)
    moment = f"('epoch'::timestamptz + '{days} days {rest} seconds {micro} microseconds'::interval)"
    for expression, zone in ((moment, '"Z"'), (f"{moment}::timestamp", "")):
        if 1 <= int(postgres.says(f"extract(year from {moment})")) <= 9999:
            assert postgres.shown(expression) == postgres.says(f"to_char({expression}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US{zone}')")
            assert postgres.shown(expression, timestamp_format="unix_microsecond") == seconds * 1_000_000 + micro
        else:
            assert postgres.shown(expression) == postgres.says(f"{expression}::text")
            assert postgres.shown(expression, timestamp_format="unix_microsecond") == postgres.says(f"{expression}::text")


def test_infinite_timestamps_have_no_microseconds(postgres: Postgres) -> None:
    assert postgres.shown("'-infinity'::timestamptz", timestamp_format="unix_microsecond") == "-infinity"
    assert postgres.shown("array['epoch'::timestamp]", timestamp_format="unix_microsecond") == [0]


@on_one_server
@given(st.integers(-4000, 4000), st.integers(-5000, 5000), st.integers(-(10**15), 10**15))
def test_any_interval_is_its_three_parts(postgres: Postgres, months: int, days: int, micro: int) -> None:
    interval = f"('{months} months'::interval + '{days} days'::interval + {micro} * '1 microsecond'::interval)"
    assert postgres.shown(interval) == {"months": months, "days": days, "microseconds": micro}


@on_one_server
@given(st.decimals(-(10**20), 10**20, places=5), st.integers(0, 8))
def test_a_numeric_keeps_the_scale_of_its_column(postgres: Postgres, number: Any, scale: int) -> None:
    expression = f"'{number}'::numeric(60,{scale})"
    assert postgres.shown(expression) == postgres.says(f"{expression}::text")


def test_days_are_counted_as_python_counts_them() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(2000):
        day = date.fromordinal(rng.randint(1, date.max.toordinal()))
        assert days_since_1970(day.year, day.month, day.day) == (day - date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("type_name", "scalar", "text"),
    [
        ("int4", True, False),
        ("user_id", True, False),
        ("bool", True, False),
        ("text", True, True),
        ("numeric", True, True),
        ("uuid", True, True),
        ("citext", True, True),
        ("timestamptz", True, False),
        ("float8", True, False),
        ("json", False, False),
        ("jsonb", False, False),
        ("interval", False, False),
        ("_text", False, False),
    ],
)
def test_the_catalog_knows_which_json_is_a_scalar_and_which_is_plain_text(type_name: str, scalar: bool, text: bool) -> None:
    oid = wal.OIDS[type_name]
    assert (wal.TYPES.is_scalar(oid), wal.TYPES.is_text(oid)) == (scalar, text)
