"""Messages, compared byte for byte with bodies sent by a real Sequin 0.14.6."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine import wal
from userhooks.engine.change import Change, changes_of, group_key, record_of
from userhooks.engine.message_format import METADATA, SinkForm, render, timestamp
from userhooks.engine.postgres.pg_types import TimestampFormat
from userhooks.engine.postgres.pgoutput import UNCHANGED, DecodeError, Value

RECORDINGS = Path(__file__).parents[2] / "recordings" / "0.14.6" / "webhooks"
NOTIFICATIONS = wal.shape_of({"id": "int8", "user_id": "int4", "message": "text", "created_at": "timestamptz"}, ["id"])
DATABASE = {"id": "d-1", "name": "postgres", "hostname": "127.0.0.1", "database": "postgres", "annotations": {}}
FORM = SinkForm({"id": "c-1", "name": "basic", "annotations": {}}, DATABASE, "iso8601")


def recorded(name: str) -> list[bytes]:
    """Return the messages of a recording as they were sent."""
    text = (RECORDINGS / name).read_bytes()
    bodies = re.findall(rb"^\{.*\}$", text, re.MULTILINE)
    messages = []
    for body in bodies:
        inside = body.removeprefix(b'{"data":[').removesuffix(b"]}") if body.startswith(b'{"data":[') else body
        first, *others = inside.split(b',{"record":')
        messages += [first, *[b'{"record":' + other for other in others]]
    return messages


def microseconds(text: str) -> int:
    """Return the timestamp of a message in microseconds, as in the WAL."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000 + int(text[20:26])


def form_of(message: dict[str, Any]) -> SinkForm:
    """Return the sink form of a recorded message."""
    return SinkForm(message["metadata"]["consumer"], message["metadata"]["database"], "iso8601")


def wal_row(record: dict[str, Any]) -> list[Value]:
    """Return the row of notifications that a recorded record was rendered from."""

    def text(column: str) -> bytes | None:
        value = record[column]
        if value is None:
            return None
        return re.sub(r"T(.*)Z", r" \1+00", value).encode() if column == "created_at" else str(value).encode()

    return [text(column.name) for column in NOTIFICATIONS.columns]


def replay(message: dict[str, Any], event: bytes) -> Change:
    """Return the change that a recorded message was rendered from."""
    metadata = message["metadata"]
    note = metadata["transaction_annotations"]
    return wal.change_of(
        NOTIFICATIONS,
        event,
        lsn=metadata["commit_lsn"],
        index=metadata["commit_idx"],
        commit_us=microseconds(metadata["commit_timestamp"]),
        annotations=None if note is None else orjson.dumps(note),
    )


@pytest.mark.parametrize(
    "name",
    [
        "01-insert.http",
        "06-insert-rif.http",
        "13-transaction-annotations.http",
        "16-batch-size-10-of-25-one-statement.http",
        "18-batch-false.http",
    ],
)
def test_an_insert_is_rendered_as_recorded(name: str) -> None:
    for body in recorded(name):
        message = json.loads(body)
        assert render(replay(message, wal.insert(1, wal_row(message["record"]))), form_of(message)) == body


@pytest.mark.parametrize("name", ["02-update.http", "03-update-no-change.http"])
def test_an_update_under_default_identity_is_rendered_as_recorded(name: str) -> None:
    (body,) = recorded(name)
    message = json.loads(body)
    assert render(replay(message, wal.update(1, wal_row(message["record"]))), form_of(message)) == body


def test_an_update_under_full_identity_is_rendered_as_recorded() -> None:
    (body,) = recorded("07-update-rif.http")
    message = json.loads(body)
    old = wal_row({**message["record"], **message["changes"]})
    assert render(replay(message, wal.update(1, wal_row(message["record"]), old)), form_of(message)) == body


@pytest.mark.parametrize(("name", "whole"), [("05-delete.http", False), ("09-delete-rif.http", True)])
def test_a_delete_is_rendered_as_recorded(name: str, whole: bool) -> None:
    (body,) = recorded(name)
    message = json.loads(body)
    assert render(replay(message, wal.delete(1, wal_row(message["record"]), whole=whole)), form_of(message)) == body


def test_a_row_of_a_backfill_is_rendered_as_recorded() -> None:
    bodies = recorded("29-backfill-batched.http")
    assert len(bodies) == 12
    for body in bodies:
        message = json.loads(body)
        backfill_id, _ = b64decode(message["metadata"]["idempotency_key"]).decode().split(":")
        row = [value for value in wal_row(message["record"]) if value is not UNCHANGED]
        change = Change.read(NOTIFICATIONS, row, backfill_id, microseconds(message["metadata"]["commit_timestamp"]))
        assert render(change, form_of(message)) == body


TYPED = """CREATE TABLE typed (id int8 PRIMARY KEY, t_bool bool, t_bytea bytea, t_char char(5), t_date date, t_float4 float4,
    t_float8 float8, t_inet inet, t_int2 int2, t_int8 int8, t_intarr int[], t_interval interval, t_json json, t_jsonb jsonb, t_money money,
    t_numeric numeric(14,6), t_point point, t_range int4range, t_text text, t_textarr text[], t_time time, t_timestamp timestamp,
    t_timestamptz timestamptz, t_timetz timetz, t_tsvector tsvector, t_uuid uuid, t_varchar varchar(9), t_xml text)"""
INSERT = r"""INSERT INTO typed VALUES (1, true, '\x00ff10', 'ab', '2024-02-29', 1.5, 0.1, '10.0.0.1/8', -5, 9007199254740993, '{1,2,NULL}',
    '1 day 02:03:04.5', '{"b": 1, "a": [1,2]}', '{"a": null, "b": 1.5}', 12.34, 12345678.9, '(1.5,2)', '[1,5)',
    E'héllo ☃ "q" \\ / \n tab\t', array['a','b c',NULL], '13:14:15.5', '2024-02-29 13:14:15.123456', '2024-02-29 13:14:15.123456+02',
    '13:14:15+02', 'cat fat', '6f1a2b3c-0000-4000-8000-000000000001', 'vc', NULL)"""


def test_all_types_of_the_recording_come_out_of_real_wal_as_recorded(database_url: str) -> None:
    with wal.connect(database_url) as connection:
        messages = wal.real_wal(
            connection, INSERT, "UPDATE typed SET t_bool = false, t_numeric = 1.1, t_jsonb = '{\"c\": 2}'", setup=[TYPED]
        )
        changes = wal.changes_in(messages, wal.catalog_of(connection), {"typed": ["id"]})
    for change, name in zip(changes, ["22-types-insert.http", "25-types-update.http"], strict=True):
        (body,) = recorded(name)
        ours, theirs = json.loads(render(change, FORM)), json.loads(body)
        assert ours["record"] == theirs["record"]
        assert list(ours["record"]) == list(theirs["record"])
        assert ours["changes"] == theirs["changes"]


def test_domains_and_types_made_by_users_come_out_of_real_wal(database_url: str) -> None:
    with wal.connect(database_url) as connection:
        messages = wal.real_wal(
            connection,
            "INSERT INTO odd VALUES (7, '{a,b}', 'fine', '(1,2)', '{fine}')",
            setup=[
                "CREATE DOMAIN user_id AS int8",
                "CREATE DOMAIN tags AS text[]",
                "CREATE TYPE mood AS ENUM ('fine')",
                "CREATE TYPE pair AS (a int, b int)",
                'CREATE TABLE odd (id user_id, "tags%" tags, mood mood, pair pair, moods mood[])',
            ],
        )
        (change,) = wal.changes_in(messages, wal.catalog_of(connection), {})
    assert json.loads(render(change, FORM))["record"] == {"id": 7, "moods": ["fine"], "mood": "fine", "pair": "(1,2)", "tags%": ["a", "b"]}


# --- not covered by the recordings -----------------------------------------------------------------------------------------


def changes_shown(change: Change, timestamp_format: TimestampFormat = "iso8601") -> Any:
    """Return `changes` of the rendered message."""
    return json.loads(render(change, SinkForm({"id": "c", "name": "n", "annotations": {}}, DATABASE, timestamp_format)))["changes"]


def test_a_value_that_the_wal_does_not_carry_says_so_unless_the_old_row_has_it() -> None:
    old: list[Value] = [b"1", b"2", b"long", None]
    new: list[Value] = [b"1", b"3", UNCHANGED, None]
    default = wal.change_of(NOTIFICATIONS, wal.update(1, new))
    assert json.loads(render(default, FORM))["record"]["message"] == "unchanged_toast"
    full = wal.change_of(NOTIFICATIONS, wal.update(1, new, old))
    assert json.loads(render(full, FORM))["record"]["message"] == "long"
    assert changes_shown(full) == {"user_id": 2}


def test_an_update_of_nothing_under_full_identity_has_empty_changes_and_nulls_are_told_apart() -> None:
    row: list[Value] = [b"1", None, b"x", None]
    assert changes_shown(wal.change_of(NOTIFICATIONS, wal.update(1, row, row))) == {}
    assert changes_shown(wal.change_of(NOTIFICATIONS, wal.update(1, row, [b"1", b"5", None, None]))) == {"message": None, "user_id": 5}


def test_a_change_of_the_key_under_default_identity_has_empty_changes() -> None:
    change = wal.change_of(NOTIFICATIONS, wal.update(1, [b"2", b"5", b"x", None], [b"1", None, None, None], whole=False))
    assert changes_shown(change) == {}


def test_the_timestamp_format_of_a_sink_holds_for_record_and_changes_and_not_for_metadata() -> None:
    new: list[Value] = [b"1", b"1", b"x", b"1970-01-01 00:00:01+00"]
    old: list[Value] = [b"1", b"1", b"x", b"1970-01-01 00:00:00.5+00"]
    change = wal.change_of(NOTIFICATIONS, wal.update(1, new, old))
    unix = SinkForm({"id": "c", "name": "n", "annotations": {}}, DATABASE, "unix_microsecond")
    first, second, again = (json.loads(render(change, form)) for form in (unix, FORM, unix))
    assert (first["record"]["created_at"], first["changes"]) == (1_000_000, {"created_at": 500_000})
    assert second["record"]["created_at"] == "1970-01-01T00:00:01.000000Z"
    assert first["metadata"]["commit_timestamp"] == "1970-01-01T00:00:00.000000Z"
    assert again == first


def test_every_sink_gets_its_own_consumer() -> None:
    change = wal.change_of(NOTIFICATIONS, wal.insert(1, [b"1", b"1", b"x", None]))
    one, two = ({"id": n, "name": n, "annotations": {"user_id": n, "nested": {"a": [1]}}} for n in ("one", "two"))
    shown = [json.loads(render(change, SinkForm(c, DATABASE, "iso8601")))["metadata"]["consumer"] for c in (one, two)]
    assert shown == [one, two]


def test_names_with_percent_signs_and_quotes_are_kept() -> None:
    shape = wal.shape_of({'%b "x"': "int4", "é%": "text"}, ['%b "x"'], name='%d"t"')
    message = json.loads(render(wal.change_of(shape, wal.insert(1, [b"1", b"%b"])), FORM))
    assert message["record"] == {'%b "x"': 1, "é%": "%b"}
    assert message["metadata"]["table_name"] == '%d"t"'


def test_keys_are_shown_in_the_order_of_the_columns() -> None:
    shape = wal.shape_of({"b": "int4", "a": "text", "c": "int4"}, ["c", "a", "b"])
    row: list[bytes | None] = [b"1", b'x"y', b"3"]
    live = json.loads(render(wal.change_of(shape, wal.insert(1, row)), FORM))
    assert live["metadata"]["record_pks"] == ["1", 'x"y', "3"]
    read = json.loads(render(Change.read(shape, row, "b-1", 0), FORM))
    assert b64decode(read["metadata"]["idempotency_key"]) == b'b-1:1:x"y:3'
    keyless = wal.shape_of({"a": "text"})
    assert json.loads(render(wal.change_of(keyless, wal.insert(1, [b"1"])), FORM))["metadata"]["record_pks"] == []


def test_a_row_of_another_width_than_the_table_is_refused() -> None:
    for event in (wal.insert(1, [b"1"]), wal.update(1, [b"1"]), wal.delete(1, [b"1"])):
        with pytest.raises(DecodeError, match=r"a row of 1 columns for public.notifications, which has 4"):
            render(wal.change_of(NOTIFICATIONS, event), FORM)


def test_groups_are_the_key_by_default_or_the_named_columns() -> None:
    shape = wal.shape_of({"id": "int4", "user_id": "int4", "part": "int4"}, ["id", "part"])
    row: list[bytes | None] = [b"1", b"2", b"3"]
    live = wal.change_of(shape, wal.insert(1, row))
    assert live.group == (("public", "notifications"), b"1", b"3")
    assert group_key(live, ["user_id"]) == (("public", "notifications"), b"2")
    assert group_key(live, ["user_id", "nothing"]) == (("public", "notifications"), b"2", None)
    assert group_key(live, []) is None
    assert wal.change_of(wal.shape_of({"a": "int4"}, identity="d"), wal.insert(1, [b"1"])).group is None


def test_all_that_happens_to_a_row_is_one_group() -> None:
    row: list[bytes | None] = [b"1", b"2", b"x", None]
    changes = [
        wal.change_of(NOTIFICATIONS, wal.insert(1, row)),
        wal.change_of(NOTIFICATIONS, wal.update(1, row, row)),
        wal.change_of(NOTIFICATIONS, wal.delete(1, [b"1", None, None, None], whole=False)),
        Change.read(NOTIFICATIONS, row, "b", 0),
    ]
    assert len({change.group for change in changes}) == 1


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]))


@given(st.integers(), st.none() | st.integers(), texts, st.integers(0, 4_102_444_800_000_000))
def test_any_message_is_json_with_exactly_what_was_put_in(row_id: int, user_id: int | None, message: str | None, commit_us: int) -> None:
    row: list[Value] = [b"%d" % row_id, None if user_id is None else b"%d" % user_id, None if message is None else message.encode(), None]
    change = wal.change_of(NOTIFICATIONS, wal.insert(1, row), commit_us=commit_us)
    shown = json.loads(render(change, FORM))
    assert shown["record"] == {"id": row_id, "user_id": user_id, "message": message, "created_at": None}
    assert shown["record"] == record_of(change)
    assert microseconds(shown["metadata"]["commit_timestamp"]) == commit_us
    seen = {name: read(change) for name, read in METADATA.items()}
    assert seen == {key: value for key, value in shown["metadata"].items() if key in seen}


@given(st.lists(texts, min_size=4, max_size=4), st.lists(texts, min_size=4, max_size=4))
def test_what_a_filter_sees_as_changes_is_what_the_message_shows(old: list[str | None], new: list[str | None]) -> None:
    shape = wal.shape_of(dict.fromkeys("abcd", "text"))
    before, after = ([None if t is None else t.encode() for t in row] for row in (old, new))
    change = wal.change_of(shape, wal.update(1, after, before))
    assert changes_shown(change) == changes_of(change) == {c: o for c, o, n in zip("abcd", old, new, strict=True) if o != n}


@pytest.mark.parametrize(("micro", "text"), [(0, b"1970-01-01T00:00:00.000000Z"), (-1, b"1969-12-31T23:59:59.999999Z")])
def test_times_have_six_digits(micro: int, text: bytes) -> None:
    assert timestamp(micro) == text
