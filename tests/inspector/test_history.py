"""Judgements other than the secret's: foreign rows, duplicates, late messages, order, and bodies that do not match their headers."""

from __future__ import annotations

import gzip
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from tests.inspector.bodies import batch, bearer, message
from tests.waiting import eventually
from userhooks.inspector import judgement
from userhooks.inspector.client import Inbox
from userhooks.inspector.judgement import InboxHistory, MessageFacts, judge_lateness, judge_owners, messages_in


def facts(*messages: dict[str, Any]) -> list[MessageFacts]:
    return messages_in(orjson.dumps(batch(*messages))) or []


def change(row: int, lsn: int, **given: Any) -> dict[str, Any]:
    """Return a change to that row at that LSN."""
    return message(1, row, commit_lsn=lsn, idempotency_key=f"{lsn}:0", **given)


def history_of(*requests: tuple[int, list[MessageFacts]]) -> InboxHistory:
    """Return a history of requests, numbered from 1, each with the status of its response (0: none yet)."""
    history = InboxHistory()
    for seq, (status, messages) in enumerate(requests, 1):
        history.add(seq, messages, accepted=200 <= status < 300, unanswered=status == 0)
    return history


def verdicts(history: InboxHistory, seq: int, messages: list[MessageFacts]) -> list[tuple[str, int]]:
    return [(judgement["kind"], judgement["seq"]) for judgement in history.judge(seq, messages)]


def test_a_repetition_of_an_accepted_message_is_a_duplicate_of_the_first() -> None:
    repeated = facts(change(10, 100))
    history = history_of((500, repeated), (200, repeated), (200, repeated), (503, repeated))
    assert [verdicts(history, seq, repeated) for seq in (1, 2, 3, 4)] == [[], [], [("duplicate_of", 2)], [("duplicate_of", 2)]]
    assert "already accepted in #2" in history.judge(3, repeated)[0]["text"]


def test_the_same_key_from_another_sink_is_no_duplicate() -> None:
    ada, ben = facts(change(10, 100)), facts(change(10, 100, consumer={"id": "another", "name": "x", "annotations": {}}))
    assert verdicts(history_of((200, ada), (200, ben)), 2, ben) == []


def test_a_batch_says_how_many_of_it_were_accepted_before() -> None:
    first, second = change(10, 100), change(11, 101)
    both = facts(first, second)
    history = history_of((200, facts(first)), (200, both))
    assert history.judge(2, both)[0]["text"].startswith("1 of 2 messages were already accepted in #1")


def test_an_answer_that_comes_late_decides_then() -> None:
    repeated = facts(change(10, 100))
    history = history_of((0, repeated), (200, repeated))
    assert verdicts(history, 2, repeated) == []
    history.answered(1, accepted=True)
    assert verdicts(history, 2, repeated) == [("duplicate_of", 1)]


def test_an_earlier_change_after_a_later_one_of_its_row_is_out_of_order() -> None:
    early, late, other = facts(change(10, 100)), facts(change(10, 101)), facts(change(11, 99))
    history = history_of((200, late), (200, other), (200, early), (200, late))
    assert verdicts(history, 2, other) == []
    assert verdicts(history, 3, early) == [("out_of_order_with", 1)]
    assert verdicts(history, 4, late) == [("duplicate_of", 1)]


def test_the_place_within_a_transaction_counts() -> None:
    first, second = (facts(message(1, 10, commit_lsn=100, commit_idx=idx, idempotency_key=f"100:{idx}")) for idx in (0, 1))
    assert verdicts(history_of((200, second), (200, first)), 2, first) == [("out_of_order_with", 1)]


def test_a_refused_batch_that_is_sent_again_in_pieces_is_in_order() -> None:
    first, second = change(10, 100), change(10, 101)
    history = history_of((500, facts(first, second)), (200, facts(first)), (200, facts(second)))
    assert [verdicts(history, seq, facts(message)) for seq, message in ((2, first), (3, second))] == [[], []]


def test_a_later_change_that_waits_for_its_answer_counts_unless_it_is_refused() -> None:
    early, late = facts(change(10, 100)), facts(change(10, 101))
    history = history_of((0, late), (200, early))
    assert verdicts(history, 2, early) == [("out_of_order_with", 1)]
    history.answered(1, accepted=False)
    assert verdicts(history, 2, early) == []


def test_a_backfill_has_no_place_in_the_order() -> None:
    late = facts(change(10, 101))
    read = facts(message(1, 10, action="read", commit_lsn=None, commit_idx=None, idempotency_key="r"))
    assert verdicts(history_of((200, late), (200, read)), 2, read) == []


def test_a_history_forgets_the_oldest_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "REMEMBERED", 100)
    messages = [facts(change(row, row)) for row in range(300)]
    history = history_of(*((200, message) for message in messages), (200, messages[0]), (200, messages[299]))
    assert verdicts(history, 301, messages[0]) == []
    assert verdicts(history, 302, messages[299]) == [("duplicate_of", 300)]


def test_a_row_of_another_user_is_foreign_by_its_record_or_by_what_changed() -> None:
    moved = message(1, 10, action="update") | {"changes": {"user_id": 2}}
    assert judge_owners(facts(message(1), message(1))) == []
    assert judge_owners(facts(message(2, annotated=None))) == []
    assert judge_owners(facts(moved))[0]["text"] == (
        "Row 10 of notifications belongs to user 2, but user-1-notifications is a subscription of user 1."
    )
    assert judge_owners(facts(message(3, annotated="1"), moved))[0]["text"].endswith("a subscription of user 1. Other foreign rows: 1.")


@pytest.mark.parametrize(
    ("seconds", "duration"), [(5, None), (7.25, "7.2 s"), (119, "119.0 s"), (120, "2.0 min"), (9_000, "2.5 h"), (241_867, "2.8 days")]
)
def test_a_late_message_says_how_late_in_the_unit_that_people_use(seconds: float, duration: str | None) -> None:
    messages = facts(message(1, commit_timestamp="2026-11-23T00:00:00Z"))
    judgements = judge_lateness(messages, datetime(2026, 11, 23, tzinfo=UTC).timestamp() + seconds)
    assert judgements == ([{"kind": "late", "text": f"Received {duration} after its commit."}] if duration else [])


def kinds(inbox: Inbox) -> list[list[str]]:
    return [[judgement["kind"] for judgement in received.judgements] for received in inbox.received()]


def test_an_inbox_judges_each_request(http: httpx.Client, inbox: Inbox) -> None:
    def send(body: dict[str, Any], user: int = 1) -> None:
        http.post(inbox.url, json=body, headers=bearer(user, inbox.url))

    now, before = datetime.now(UTC), datetime.now(UTC) - timedelta(seconds=12)
    send(change(10, 100, commit_timestamp=now.isoformat()))
    send(change(10, 100, commit_timestamp=now.isoformat()))
    send(change(11, 90, commit_timestamp=before.isoformat()))
    send(change(10, 80, commit_timestamp=now.isoformat()), user=2)
    send(message(2, 12, annotated=1, commit_timestamp=now.isoformat()))
    assert kinds(inbox) == [[], ["duplicate_of"], ["late"], ["secret", "out_of_order_with"], ["foreign"]]
    received = list(inbox.received())
    assert received[1].judgements[0]["seq"] == 1
    assert received[2].judgements[0]["text"].startswith("Received 12.")
    piece = http.get(f"/api/inboxes/{inbox.id}/requests", params={"after": 3, "limit": 1}).json()["requests"]
    assert piece[0]["judgements"] == list(received[3].judgements)


def test_a_page_from_the_middle_knows_what_came_before(http: httpx.Client, inbox: Inbox) -> None:
    for _ in range(3):
        http.post(inbox.url, json=message(1, 10, commit_timestamp=datetime.now(UTC).isoformat()), headers=bearer(1, inbox.url))
    (third,) = inbox.received(after=2)
    assert [(judgement["kind"], judgement["seq"]) for judgement in third.judgements] == [("duplicate_of", 1)]
    inbox.clear()
    http.post(inbox.url, json=message(1, 10, commit_timestamp=datetime.now(UTC).isoformat()), headers=bearer(1, inbox.url))
    assert kinds(inbox) == [[]]


def test_what_was_said_changes_when_an_earlier_request_gets_its_answer(http: httpx.Client, inbox: Inbox) -> None:
    def send() -> None:
        body = message(1, 10, commit_timestamp=datetime.now(UTC).isoformat())
        httpx.post(inbox.url, json=body, headers=bearer(1, inbox.url), trust_env=False)

    inbox.respond([{"first": 1, "delay": 0.5}])
    slow = threading.Thread(target=send)
    slow.start()
    eventually(inbox.count)
    send()
    assert kinds(inbox) == [[], []]
    slow.join()
    assert kinds(inbox) == [[], ["duplicate_of"]]


@pytest.mark.parametrize(
    ("content", "headers", "text"),
    [
        (b"{", {"content-type": "application/json"}, "The Content-Type says JSON, but the body is not valid JSON: "),
        (
            "é".encode("latin-1"),
            {"content-type": "application/json; charset=utf-8"},
            "The Content-Type says JSON, but the body is not valid JSON: JSON is UTF-8, and byte 0 is not.",
        ),
        (
            '{"a":"é"}'.encode("utf-16"),
            {"content-type": "application/json"},
            "The Content-Type says JSON, but the body is not valid JSON: JSON is UTF-8, and byte 0 is not.",
        ),
        (b"plain", {"content-encoding": "gzip"}, "The Content-Encoding says gzip, but the body is not gzip data: "),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], {"content-encoding": "gzip"}, "The gzip data in the body is incomplete."),
    ],
)
def test_a_body_that_is_not_what_its_headers_say(
    http: httpx.Client, inbox: Inbox, content: bytes, headers: dict[str, str], text: str
) -> None:
    http.post(inbox.url, content=content, headers=headers)
    (received,) = inbox.received()
    assert received.body == content
    (judged,) = received.judgements
    assert (judged["kind"], judged["text"][: len(text)]) == ("body", text)


def test_a_gzip_body_is_shown_raw_and_unpacked_and_judged_unpacked(http: httpx.Client, inbox: Inbox) -> None:
    body = orjson.dumps(message(1, commit_timestamp=datetime.now(UTC).isoformat()))
    http.post(inbox.url, content=gzip.compress(body), headers={"content-encoding": "gzip", **bearer(1, inbox.url)})
    (entry,) = http.get(f"/api/inboxes/{inbox.id}/requests").json()["requests"]
    assert (entry["body_encoding"], entry["decoded"], entry["decoded_encoding"]) == ("base64", body.decode(), "utf-8")
    assert (entry["secret"], entry["judgements"], entry["decoded_truncated"]) == ("ok", [], False)
    assert next(inbox.received()).messages()[0].user_id == 1
    assert inbox.wait_for(1)[0].user_id == 1


def test_a_gzip_bomb_is_cut(http: httpx.Client, inbox: Inbox) -> None:
    bomb = gzip.compress(bytes(40 << 20))
    for _ in range(3):
        http.post(inbox.url, content=bomb, headers={"content-encoding": "gzip"})
    page = http.get(f"/api/inboxes/{inbox.id}/requests", params={"body_limit": 1000, "limit": 2}).json()["requests"]
    assert [len(entry["decoded"]) for entry in page] == [1000, 1000]
    assert all(entry["decoded_truncated"] for entry in page)
    assert [entry["seq"] for entry in http.get(f"/api/inboxes/{inbox.id}/requests").json()["requests"]] == [1]
