"""Bodies recorded from Sequin 0.14.6, and bodies that must not be parsed as messages."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.errors import InvalidInput
from userhooks.inspector.messages import Message, parse_body

RECORDINGS = Path(__file__).parents[1] / "recordings/0.14.6/webhooks"


def bodies(recording: str) -> list[bytes]:
    lines = (RECORDINGS / f"{recording}.http").read_bytes().splitlines()
    return [line for line in lines if line.startswith(b"{")]


def only(recording: str) -> Message:
    (body,) = bodies(recording)
    (message,) = parse_body(body)
    return message


def test_an_insert_is_read_with_everything_that_its_metadata_says() -> None:
    message = only("01-insert")
    assert (message.action, message.user_id, message.record["message"], message.changes) == ("insert", 1, "hello", None)
    assert (message.sink_name, message.sink_id) == ("basic", "2a9307da-8053-4733-ac0b-67caac7a7b7d")
    assert (message.lsn, message.idx, message.idempotency_key) == (47490632, 0, "NDc0OTA2MzI6MA==")
    assert message.table == "public.notifications"
    assert message.commit_timestamp == datetime(2026, 11, 23, 17, 44, 38, 479865, tzinfo=UTC)
    assert repr(message) == "Message(insert notifications 1, basic)"


def test_an_update_holds_the_new_row_and_the_old_values() -> None:
    message = only("07-update-rif")
    assert (message.user_id, message.changes) == (3, {"message": "full", "user_id": 2})


def test_a_delete_without_full_replica_identity_belongs_to_nobody() -> None:
    assert only("05-delete").user_id is None
    assert only("09-delete-rif").user_id == 3


def test_a_read_has_no_lsn_and_still_a_key_and_a_time() -> None:
    message = parse_body(bodies("29-backfill-batched")[0])[0]
    assert (message.action, message.lsn, message.idx) == ("read", None, None)
    assert message.idempotency_key
    assert message.commit_timestamp.tzinfo is not None


def test_a_batch_gives_its_messages_in_order_and_a_bare_message_gives_one() -> None:
    (body, *_) = bodies("16-batch-size-10-of-25-one-statement")
    assert [message.idx for message in parse_body(body)] == [entry["metadata"]["commit_idx"] for entry in orjson.loads(body)["data"]]
    assert [len(parse_body(body)) for body in bodies("18-batch-false")] == [1, 1]


def test_every_recorded_body_is_understood() -> None:
    recorded = [body for path in sorted(RECORDINGS.glob("*.http")) for body in bodies(path.stem)]
    assert len(recorded) > 30
    assert all(parse_body(body) for body in recorded)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"\xff\xfe", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"{}", "body.action"),
        (b'{"data": 1}', "data"),
        (b'{"data": [1]}', "data[0]"),
        (b'{"data": [{"action": 1}]}', "data[0].action"),
    ],
)
def test_what_is_no_message_is_refused_with_the_place_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_body(body)
    assert caught.value.field == field


RECORDED: dict[str, Any] = orjson.loads(bodies("18-batch-false")[0])
REQUIRED = [
    ("action",), ("record",), ("changes",), ("metadata",), ("metadata", "consumer"), ("metadata", "consumer", "id"),
    ("metadata", "consumer", "name"), ("metadata", "table_name"), ("metadata", "table_schema"), ("metadata", "idempotency_key"),
    ("metadata", "commit_lsn"), ("metadata", "commit_idx"), ("metadata", "commit_timestamp"),
]  # fmt: skip


@given(path=st.sampled_from(REQUIRED), junk=st.sampled_from([..., True, 1.5, []]))
def test_a_message_with_a_missing_or_wrongly_typed_field_is_refused(path: tuple[str, ...], junk: Any) -> None:
    message = copy.deepcopy(RECORDED)
    holder = message
    for name in path[:-1]:
        holder = holder[name]
    if junk is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = junk
    with pytest.raises(InvalidInput, match=path[-1]):
        parse_body(orjson.dumps(message))


@pytest.mark.parametrize("text", ["x", "2026-11-23", "2026-11-23T17:44:38"])
def test_a_commit_time_without_an_offset_is_refused(text: str) -> None:
    message = copy.deepcopy(RECORDED)
    message["metadata"]["commit_timestamp"] = text
    with pytest.raises(InvalidInput, match="offset"):
        parse_body(orjson.dumps(message))


def test_a_user_id_that_is_no_integer_is_nobodys() -> None:
    for value in (True, "1", 1.0, None):
        body = copy.deepcopy(RECORDED)
        body["record"]["user_id"] = value
        assert parse_body(orjson.dumps(body))[0].user_id is None
