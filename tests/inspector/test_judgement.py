"""The judgement on a request's secret, and its reason."""

from __future__ import annotations

import orjson
import pytest

from tests.inspector.bodies import batch, bearer, message
from tests.inspector.program import HOME_KEY
from userhooks.inspector.judgement import Verdict, judge_secret, messages_in, urls_as_requested

URL = "http://127.0.0.1:3334/in/abc"


def judge(body: object, headers: dict[str, str] | list[tuple[str, str]], urls: tuple[str, ...] = (URL,)) -> Verdict:
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    authorizations = [value for name, value in pairs if name == "authorization"]
    messages = messages_in(body if isinstance(body, bytes) else orjson.dumps(body))
    return judge_secret(HOME_KEY, authorizations, None if messages is None else [message.subscriber for message in messages], urls)


def test_the_subscription_secret_is_ok_in_batches_and_single_messages() -> None:
    assert judge(batch(message(1), message(1, 11)), bearer(1, URL)).secret == "ok"
    assert judge(message(1), bearer(1, URL)).secret == "ok"


def test_the_user_id_may_be_annotated_as_text() -> None:
    assert judge(message(1, annotated="1"), bearer(1, URL)).secret == "ok"


def test_the_annotation_decides_and_not_the_row() -> None:
    assert judge(message(2, annotated=1), bearer(1, URL)).secret == "ok"
    assert judge(message(2, annotated=1), bearer(2, URL)).secret == "wrong"


def test_another_user_another_url_or_made_up_is_wrong() -> None:
    for headers in (bearer(2, URL), bearer(1, URL + "/"), {"authorization": "Bearer x"}, {"authorization": "Bearer é"}):
        verdict = judge(message(1), headers)
        assert verdict.secret == "wrong"
        assert "does not match user 1's subscription to this URL" in verdict.reason


def test_another_scheme_is_wrong() -> None:
    secret = bearer(1, URL)["authorization"].removeprefix("Bearer ")
    for value in (secret, f"Basic {secret}", f"bearer {secret}", ""):
        assert judge(message(1), {"authorization": value}) == ("wrong", "The Authorization header does not start with 'Bearer '.")


def test_two_headers_are_wrong_even_when_one_is_right() -> None:
    right = ("authorization", bearer(1, URL)["authorization"])
    verdict = judge(message(1), [right, ("authorization", "Bearer x")])
    assert verdict == ("wrong", "The request has 2 Authorization headers; a subscription sends one.")


def test_no_header_is_missing() -> None:
    verdict = judge(message(7), {"x-other": "1"})
    assert verdict.secret == "missing"
    assert "User 7's subscriptions" in verdict.reason


def test_messages_of_two_users_in_one_request_fit_no_secret() -> None:
    verdict = judge(batch(message(1), message(2)), bearer(1, URL))
    assert verdict.secret == "wrong"
    assert "messages for users 1 and 2" in verdict.reason


@pytest.mark.parametrize("annotated", [None, True, 1.0, "", "one", "-1", "٣", [1], {"user_id": 1}, "1" * 400])
def test_without_a_user_id_no_subscription_can_be_meant(annotated: object) -> None:
    verdict = judge(message(1, annotated=annotated), bearer(1, URL))
    assert verdict.secret == "not applicable"
    assert "annotations.user_id" in verdict.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"data":[]}',
        b'{"data":[1]}',
        b'{"data":{}}',
        b'{"metadata":[]}',
        b"[" * 100_000,
        b'"text"',
    ],
)
def test_other_bodies_are_not_judged(body: bytes) -> None:
    verdict = judge(body, bearer(1, URL))
    assert verdict.secret == "not applicable"
    assert "not a Sequin message" in verdict.reason


@pytest.mark.parametrize("metadata", [{}, {"consumer": None}, {"consumer": []}, {"consumer": {"annotations": None}}])
def test_metadata_without_annotations_is_not_judged(metadata: object) -> None:
    assert judge({"action": "insert", "record": {}, "metadata": metadata}, {}).secret == "not applicable"


def test_the_url_is_tried_as_requested_first_then_by_the_inspectors_names_then_without_the_added_path() -> None:
    urls = urls_as_requested(["localhost:3334"], "/in/abc/x", "q=1", "/in/abc", ["https://hooks.example", "http://localhost:3334"])
    assert urls == [
        "http://localhost:3334/in/abc/x?q=1",
        "https://hooks.example/in/abc/x?q=1",
        "http://localhost:3334/in/abc",
        "https://hooks.example/in/abc",
    ]
