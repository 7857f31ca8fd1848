"""Unusual bodies: those that can be read are judged, and others are reported as unread."""

from __future__ import annotations

import gzip
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.inspector.bodies import batch, bearer, message
from tests.inspector.program import Program
from userhooks.inspector.client import Inbox, Received

JSON = "application/json"


def text_of(user_id: int, annotated: int = 1, *, more: str = "", row: int = 10) -> str:
    """Return a message from user 1's subscription about a row of `user_id`, as text; `more` is JSON to insert into its record."""
    text = json.dumps(message(user_id, row, annotated=annotated, commit_timestamp=datetime.now(UTC).isoformat()))
    return text.replace('"record": {', f'"record": {{{more}', 1)


def judged(http: httpx.Client, inbox: Inbox, content: bytes | str, **headers: str) -> Received:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    assert http.post(inbox.url, content=content, headers={**bearer(1, inbox.url), **named}).status_code == 200
    return list(inbox.received())[-1]


def kinds(received: Received) -> list[str]:
    return [judgement["kind"] for judgement in received.judgements]


ODD = {
    "beyond a float": '"n": 1e400, ',
    "400 digits": f'"n": {"1" * 400}, ',
    "10,000 digits": f'"n": -{"1" * 10_000}, ',
    "a lone surrogate": r'"n": "\ud800", ',
    "a lone surrogate in a name": r'"\udfff": 1, ',
    "deep nesting": f'"n": {"[" * 50_000}{"]" * 50_000}, ',
}


@pytest.mark.parametrize("more", ODD.values(), ids=ODD)
@pytest.mark.parametrize("content_type", [JSON, "Application/Vnd.App+JSON ; charset=UTF-8", "text/plain"])
def test_valid_json_is_judged_whatever_it_holds(http: httpx.Client, inbox: Inbox, more: str, content_type: str) -> None:
    own = judged(http, inbox, text_of(1, more=more), content_type=content_type)
    assert (own.secret, kinds(own)) == ("ok", [])
    assert [message.user_id for message in own.messages()] == [1]
    foreign = judged(http, inbox, f'{{"data": [{text_of(1, more=more)}, {text_of(2, more=more, row=11)}]}}', content_type=content_type)
    assert foreign.secret == "ok"
    assert "foreign" in kinds(foreign)
    assert [message.user_id for message in foreign.messages()] == [1, 2]


@pytest.mark.parametrize(
    "owner", ["1" * 400, "1" * 10_000, "1e400", "18446744073709551617", "2.0", "1.5", '"x"', r'"\ud800"', "true", "[[1]]"]
)
def test_a_row_whose_user_is_no_integer_of_the_subscriber_is_foreign(http: httpx.Client, inbox: Inbox, owner: str) -> None:
    received = judged(http, inbox, text_of(7).replace('"user_id": 7', f'"user_id": {owner}'), content_type=JSON)
    assert (received.secret, kinds(received)) == ("ok", ["foreign"])


def test_a_row_whose_user_is_the_subscriber_as_a_float_is_its_own(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, text_of(7).replace('"user_id": 7', '"user_id": 1.0'), content_type=JSON)
    assert (received.secret, kinds(received)) == ("ok", [])


@pytest.mark.parametrize("field", ["record_pks", "table_name", "consumer"])
def test_what_nests_deeply_where_text_is_expected_is_shown_nonetheless(http: httpx.Client, inbox: Inbox, field: str) -> None:
    deep: Any = json.loads("[" * 900 + "]" * 900)
    body = message(2, annotated=1)
    if field == "consumer":
        body["metadata"]["consumer"]["name"] = deep
    else:
        body["metadata"][field] = [deep] if field == "record_pks" else deep
    assert "foreign" in kinds(judged(http, inbox, json.dumps(body), content_type=JSON))


@pytest.mark.parametrize(
    ("given", "twice"),
    [
        ('"user_id": 2, ', '"user_id"'),
        ('"user_id": 2, "user_id": 1, ', '"user_id"'),
        (r'"user\u005fid": 2, ', '"user_id"'),
        ('"x": 1}, "record": {"user_id": 2}, "record": {', '"record"'),
        ('"user_id": 1}, "changes": {"user_id": 2}, "changes": {"x": 1}, "record": {', '"record"'),
    ],
)
def test_each_value_of_a_repeated_name_is_judged(http: httpx.Client, inbox: Inbox, given: str, twice: str) -> None:
    received = judged(http, inbox, text_of(1, more=given), content_type=JSON)
    assert {"body", "foreign"} <= set(kinds(received))
    assert "occurs more than once in one object" in received.judgements[0]["text"]


def test_names_repeated_without_end_are_said_not_to_be_judged_in_full(http: httpx.Client, inbox: Inbox) -> None:
    more = '"x": 1}, ' + '"record": {"user_id": 1, "user_id": 1}, "changes": {"user_id": 1, "user_id": 1}, ' * 200 + '"record": {'
    assert "unread" in kinds(judged(http, inbox, text_of(1, more=more), content_type=JSON))


def test_a_value_beside_the_messages_of_a_batch_hides_no_foreign_row(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, f'{{"data": [1, {text_of(2)}]}}', content_type=JSON)
    assert (received.secret, kinds(received)) == ("ok", ["body", "foreign"])
    assert received.judgements[0]["text"] == "The body mixes Sequin messages (1) and other values (1)."


def test_a_byte_order_mark_is_named_and_hides_no_foreign_row(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, "\ufeff" + text_of(2), content_type=JSON)
    assert (received.secret, kinds(received)) == ("ok", ["body", "foreign"])
    assert "byte order mark" in received.judgements[0]["text"]


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ("NaN", "line 1, column 6: 'NaN}' instead of a value"),
        ("-Infinity", "line 1, column 6: '-Infinity}' instead of a value"),
        ("01", "line 1, column 7: '1}' instead of ',' or '}'"),
        ("'x'", "line 1, column 6: \"'x'}\" instead of a value"),
        ('"\n"', "line 1, column 6: '\"\\n\"}' instead of a value"),
        ("1,", "line 1, column 8: '}' instead of a name in double quotes and ':'"),
        ("[1", "line 1, column 8: '}' instead of ',' or ']'"),
    ],
)
def test_invalid_json_says_what_is_wrong_and_that_nothing_was_judged(http: httpx.Client, inbox: Inbox, bad: str, where: str) -> None:
    received = judged(http, inbox, f'{{"a":{bad}}}', content_type="application/problem+json")
    text = f"The Content-Type says JSON, but the body is not valid JSON: {where}."
    assert received.judgements == ({"kind": "body", "text": text},)
    assert (received.secret, received.secret_reason) == ("not applicable", f"{text} Neither the secret nor the rows were judged.")


def test_a_type_that_only_mentions_json_is_not_json(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, "not json", content_type="text/x-json-like; a=application/json")
    assert kinds(received) == []


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "Application/NDJSON; charset=utf-8", "application/jsonl", "application/stream+json"]
)
def test_each_line_of_ndjson_is_judged(http: httpx.Client, inbox: Inbox, content_type: str) -> None:
    received = judged(http, inbox, f"{text_of(1)}\r\n{text_of(1, row=11)}\n\n", content_type=content_type)
    assert (received.secret, kinds(received)) == ("ok", [])
    received = judged(http, inbox, f"{text_of(1, row=12)}\n{text_of(2, row=13)}\n{{\n", content_type=content_type)
    assert (received.secret, kinds(received)) == ("ok", ["body", "foreign"])
    assert received.judgements[0]["text"].startswith("The body is NDJSON, but its line 3 is not valid JSON: line 1, column 2: ")


def test_ndjson_that_is_said_to_be_json_is_named_and_judged(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, f"{text_of(1)}\n{text_of(2, row=11)}\n", content_type=JSON)
    assert (received.secret, kinds(received)) == ("ok", ["body", "foreign"])
    assert received.judgements[0]["text"].startswith("The body is NDJSON, one JSON value per line")


@pytest.mark.parametrize("content_type", ["application/json-seq", "application/geo+json-seq"])
def test_each_text_of_a_json_sequence_is_judged(http: httpx.Client, inbox: Inbox, content_type: str) -> None:
    received = judged(http, inbox, f"\x1e{text_of(1)}\n\x1e{text_of(2, row=11)}\n", content_type=content_type)
    assert (received.secret, kinds(received)) == ("ok", ["foreign"])
    received = judged(http, inbox, "{}", content_type=content_type)
    assert received.judgements[0]["text"].startswith("The Content-Type says a JSON text sequence, but ")


def packed(text: str, how: str) -> bytes:
    raw = zlib.compressobj(wbits=-15)
    halves = text[: len(text) // 2].encode(), text[len(text) // 2 :].encode()
    return {
        "gzip": gzip.compress(text.encode()),
        "two members": gzip.compress(halves[0]) + gzip.compress(halves[1]),
        "zlib": zlib.compress(text.encode()),
        "raw": raw.compress(text.encode()) + raw.flush(),
    }[how]


@pytest.mark.parametrize(
    ("encoding", "how"), [("gzip", "gzip"), ("X-GZip", "gzip"), ("gzip", "two members"), ("deflate", "zlib"), ("Deflate", "raw")]
)
def test_a_packed_body_is_judged_unpacked(http: httpx.Client, inbox: Inbox, encoding: str, how: str) -> None:
    received = judged(http, inbox, packed(text_of(2), how), content_type=JSON, content_encoding=encoding)
    assert (received.secret, kinds(received)) == ("ok", ["foreign"])
    assert received.decoded is not None
    assert json.loads(received.decoded)["record"]["user_id"] == 2


@pytest.mark.parametrize("encoding", ["br", "zstd", "Zstd, gzip", "compress", "x-own"])
def test_a_body_packed_otherwise_is_named_and_said_not_to_be_judged(http: httpx.Client, inbox: Inbox, encoding: str) -> None:
    received = judged(http, inbox, b"\x28\xb5\x2f\xfd\x00", content_type=JSON, content_encoding=encoding)
    text = f"The inspector does not decompress this Content-Encoding: {encoding.lower()}."
    assert received.judgements == ({"kind": "unread", "text": text},)
    assert (received.secret, received.secret_reason) == ("not applicable", f"{text} Neither the secret nor the rows were judged.")


def test_packed_data_without_a_word_of_it_is_named(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, gzip.compress(text_of(1).encode()), content_type=JSON)
    assert received.judgements[0]["text"].endswith("the body is gzip data without a Content-Encoding header.")


def test_a_body_of_many_gzip_members_is_said_not_to_be_judged(http: httpx.Client, inbox: Inbox) -> None:
    received = judged(http, inbox, gzip.compress(b"") * 10_000, content_type=JSON, content_encoding="gzip")
    assert kinds(received) == ["unread"]


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_body_too_large_to_judge_is_said_not_to_be_judged(http: httpx.Client, inbox: Inbox, encoding: str) -> None:
    body = text_of(2, more=f'"x": "{"y" * (9 << 20)}", ').encode()
    received = judged(http, inbox, gzip.compress(body) if encoding else body, content_type=JSON, content_encoding=encoding)
    assert (received.secret, kinds(received)) == ("not applicable", ["unread"])
    assert "larger than 8 MB" in received.secret_reason


def test_foreign_rows_are_judged_the_same_after_a_restart(inspector: Program, http: httpx.Client, inbox: Inbox) -> None:
    content = json.dumps(batch(message(1), message(2, 11, annotated=1)))
    for _ in range(2):
        judged(http, inbox, content, content_type=JSON)
    inspector.kill()
    inspector.start()
    assert ["foreign" in kinds(received) for received in inbox.received()] == [True, True]
    assert ["duplicate_of" in kinds(received) for received in inbox.received()] == [False, True]
