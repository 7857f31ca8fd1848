"""An inbox responds as its response script says, and records the responses."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from tests.inspector.program import TOKEN, Program, running
from tests.waiting import eventually
from userhooks.errors import InvalidInput
from userhooks.inspector.client import Inbox, InspectorClient


def statuses(inbox: Inbox) -> list[int | None]:
    return [received.response_status for received in inbox.received()]


def test_an_inbox_answers_200_until_told_otherwise(http: httpx.Client, inbox: Inbox) -> None:
    assert http.post(inbox.url).status_code == 200
    inbox.respond(status=503)
    assert http.post(inbox.url).status_code == 503
    inbox.respond()
    assert http.post(inbox.url).status_code == 200
    assert statuses(inbox) == [200, 503, 200]


def test_the_first_n_fail_and_counting_begins_with_the_setting(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url)
    inbox.respond(status=202, fail_first=2)
    assert [http.post(inbox.url).status_code for _ in range(4)] == [500, 500, 202, 202]
    inbox.respond(fail_first=1)
    assert [http.post(inbox.url).status_code for _ in range(2)] == [500, 200]
    assert statuses(inbox) == [200, 500, 500, 202, 202, 500, 200]


@pytest.mark.parametrize("status", [204, 301, 304, 404, 429, 599])
def test_every_status_is_a_well_formed_answer(http: httpx.Client, inbox: Inbox, status: int) -> None:
    inbox.respond(status=status)
    for _ in range(2):
        response = http.post(inbox.url, content=b"x")
        assert (response.status_code, response.content) == (status, b"")


def test_a_delayed_answer_is_shown_as_not_answered_until_it_is_given(inspector: Program, inbox: Inbox) -> None:
    inbox.respond(delay=0.3)
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as sender:
        started = time.monotonic()
        sender.sendall(post(inspector, inbox))
        assert eventually(lambda: statuses(inbox)) == [None]
        assert sender.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started >= 0.3
    assert statuses(inbox) == [200]


def test_a_sender_that_gives_up_is_recorded_as_not_answered(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(delay=60)
    with pytest.raises(httpx.ReadTimeout):
        http.post(inbox.url, timeout=0.2)
    (received,) = eventually(lambda: [received for received in inbox.received() if received.note])
    assert (received.response_status, received.note) == (None, "the sender disconnected before the response")


def test_the_setting_and_its_count_outlive_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("inspector")
    with running(folder) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        inbox.respond(status=201, fail_first=3)
        assert [httpx.post(inbox.url, trust_env=False).status_code for _ in range(2)] == [500, 500]
        program.kill()
        program.start()
        assert [httpx.post(inbox.url, trust_env=False).status_code for _ in range(2)] == [500, 201]


@pytest.mark.parametrize(
    ("script", "field"),
    [
        ([{"status": 99}], "script[0].status"),
        ([{"status": 600}], "script[0].status"),
        ([{"status": "200"}], "script[0].status"),
        ([{"status": True}], "script[0].status"),
        ([{"status": None}], "script[0].status"),
        ([{"status": 200.0}], "script[0].status"),
        ([{}, {"delay": -0.1}], "script[1].delay"),
        ([{"delay": 301}], "script[0].delay"),
        ([{"delay": "1"}], "script[0].delay"),
        ([{"first": -1}], "script[0].first"),
        ([{"first": 1.5}], "script[0].first"),
        ([{"every": 0}], "script[0].every"),
        ([{"percent": 101}], "script[0].percent"),
        ([{"percent": 5, "seed": 1.5}], "script[0].seed"),
        ([{"seed": 1}], "script[0].seed"),
        ([{"first": 1, "every": 2}], "script[0]"),
        ([{"retry_after": 0.5}], "script[0].retry_after"),
        ([{"effect": "explode"}], "script[0].effect"),
        ([{"effect": None}], "script[0].effect"),
        ([{"effect": "hang", "status": 500}], "script[0].effect"),
        ([{"first": 1, "statsu": 500}], "script[0].statsu"),
        ([{"body": 5}], "script[0].body"),
        ([{"body": None}], "script[0].body"),
        ([{"body": "x" * 65_537}], "script[0].body"),
        ([{"body": "\N{EURO SIGN}" * 21_846}], "script[0].body"),
        ([{"status": 204, "body": "x"}], "script[0].body"),
        ([{"status": 304, "body": "x"}], "script[0].body"),
        ([{"status": 100, "body": "x"}], "script[0].body"),
        ([{"effect": "hang", "body": "x"}], "script[0].effect"),
        ([{"effect": "hang", "headers": {}}], "script[0].effect"),
        ([{"headers": [["a", "b"]]}], "script[0].headers"),
        ([{"headers": {"x y": "1"}}], "script[0].headers"),
        ([{"headers": {"": "1"}}], "script[0].headers"),
        ([{"headers": {"x-caf\u00e9": "1"}}], "script[0].headers"),
        ([{"headers": {"x-a:": "1"}}], "script[0].headers"),
        ([{"headers": {"x-a": 1}}], "script[0].headers.x-a"),
        ([{"headers": {"x-a": "1\r\nx-b: 2"}}], "script[0].headers.x-a"),
        ([{"headers": {"x-a": " 1"}}], "script[0].headers.x-a"),
        ([{"headers": {"x-a": "caf\u00e9"}}], "script[0].headers.x-a"),
        ([{"headers": {"x-a": "x" * 4_097}}], "script[0].headers.x-a"),
        ([{"headers": {"Content-Length": "3"}}], "script[0].headers.Content-Length"),
        ([{"headers": {"transfer-encoding": "chunked"}}], "script[0].headers.transfer-encoding"),
        ([{"headers": {"Connection": "close"}}], "script[0].headers.Connection"),
        ([{"headers": {"x-a": "1", "X-A": "2"}}], "script[0].headers.X-A"),
        ([{"retry_after": 1, "headers": {"Retry-After": "2"}}], "script[0].headers.Retry-After"),
        ([{"headers": {f"x-{n}": "1" for n in range(51)}}], "script[0].headers"),
        ([500], "script[0]"),
        ([{}] * 101, "script"),
        ({"status": 500}, "script"),
        ("hang", "script"),
        (None, "script"),
    ],
)
def test_a_malformed_script_is_refused_by_the_name_of_its_field(http: httpx.Client, inbox: Inbox, script: object, field: str) -> None:
    inbox.respond(status=418)
    response = http.put(f"/api/inboxes/{inbox.id}/response", json={"script": script})
    assert (response.status_code, response.json()["field"]) == (400, field)
    assert http.post(inbox.url).status_code == 418


@pytest.mark.parametrize("payload", [{}, [], {"status": 500}, {"script": [], "more": 1}])
def test_a_response_without_a_script_is_refused(http: httpx.Client, inbox: Inbox, payload: object) -> None:
    response = http.put(f"/api/inboxes/{inbox.id}/response", json=payload)
    assert (response.status_code, response.json()["field"]) == (400, "body")


def test_python_gets_the_same_error(inbox: Inbox) -> None:
    with pytest.raises(InvalidInput, match=r"script\[0\]\.status is 99\.\nIt must be a whole number from 100 to 599\.") as caught:
        inbox.respond(status=99)
    assert caught.value.field == "script[0].status"
    for script, field in (
        (5, "script"),
        ("fail", "script"),
        ({"status": 500}, "script"),
        ([500], "script[0]"),
        ([{"first": object()}], "script[0].first"),
        ([{"body": "\ud800"}], "script[0].body"),
    ):
        with pytest.raises(InvalidInput) as caught:
            inbox.respond(script)  # type: ignore[arg-type]
        assert caught.value.field == field
        assert caught.value.remedy
    with pytest.raises(InvalidInput, match="Both a script and a short form"):
        inbox.respond([{"status": 500}], delay=1)


def test_the_script_is_shown_with_its_words_and_its_count(http: httpx.Client, inbox: Inbox) -> None:
    script = [{"first": 2, "status": 500}, {"percent": 5, "seed": 7, "status": 429, "retry_after": 2}, {"every": 10, "effect": "reset"}]
    put = http.put(f"/api/inboxes/{inbox.id}/response", json={"script": script})
    words = ["first 2: 500", "5 % by seed 7: 429 with Retry-After 2", "every 10: reset", "else: 200"]
    assert put.json() == {"script": script, "words": words, "requests": 0}
    http.post(inbox.url)
    assert http.get(f"/api/inboxes/{inbox.id}").json()["response"] == put.json() | {"requests": 1}


def test_python_reads_the_script_that_it_has_set(inbox: Inbox) -> None:
    assert inbox.script() == []
    script = [{"percent": 5, "seed": 7, "status": 429, "retry_after": 2}, {"first": 1, "effect": "drip"}]
    inbox.respond(script)
    assert inbox.script() == script


def test_a_script_that_was_read_can_be_set_again(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"first": 3, "status": 503, "delay": 0.5}, {"percent": 0.5, "seed": -3}, {"effect": "hang"}])
    shown = http.get(f"/api/inboxes/{inbox.id}").json()["response"]["script"]
    assert http.put(f"/api/inboxes/{inbox.id}/response", json={"script": shown}).json()["script"] == shown


def test_each_request_says_what_the_script_did_with_it(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"first": 2, "status": 500}, {"every": 4, "status": 429, "retry_after": 2}])
    answers = [http.post(inbox.url) for _ in range(4)]
    assert answers[3].headers["retry-after"] == "2"
    assert [(received.response_status, received.response) for received in inbox.received()] == [
        (500, "500, rule 1: first 2"),
        (500, "500, rule 1: first 2"),
        (200, "200, no rule"),
        (429, "429 with Retry-After 2, rule 2: every 4"),
    ]


def test_a_share_of_the_requests_is_the_same_for_the_same_seed(http: httpx.Client, inbox: Inbox) -> None:
    def outcomes(seed: int) -> list[int]:
        inbox.respond([{"percent": 30, "seed": seed, "status": 503}])
        return [http.post(inbox.url).status_code for _ in range(200)]

    first = outcomes(1)
    assert outcomes(1) == first
    assert outcomes(2) != first
    assert 30 <= first.count(503) <= 90


@pytest.mark.parametrize(("percent", "expected"), [(0, 200), (100, 503)])
def test_none_or_all_of_the_requests(http: httpx.Client, inbox: Inbox, percent: int, expected: int) -> None:
    inbox.respond([{"percent": percent, "status": 503}])
    assert {http.post(inbox.url).status_code for _ in range(50)} == {expected}


def test_a_body_and_headers_of_ones_choice(http: httpx.Client, inbox: Inbox) -> None:
    text = '{"received": "caf\u00e9"}'
    inbox.respond([{"status": 201, "headers": {"Content-Type": "application/json", "X-Request-Id": "7"}, "body": text}])
    response = http.post(inbox.url)
    assert (response.status_code, response.text) == (201, text)
    assert (response.headers["content-type"], response.headers["x-request-id"]) == ("application/json", "7")
    assert response.headers["content-length"] == str(len(text.encode()))
    assert http.head(inbox.url).headers["content-length"] == str(len(text.encode()))
    assert next(inbox.received()).response == "201 with 2 headers and a body of 21 bytes, rule 1: always"
    assert inbox.script() == [{"status": 201, "headers": {"Content-Type": "application/json", "X-Request-Id": "7"}, "body": text}]


def test_a_body_comes_after_its_delay_and_with_its_retry_after(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"first": 1, "status": 429, "delay": 0.2, "retry_after": 2, "body": "slow down"}])
    started = time.monotonic()
    response = http.post(inbox.url)
    assert time.monotonic() - started >= 0.2
    assert (response.status_code, response.headers["retry-after"], response.text) == (429, "2", "slow down")
    assert http.post(inbox.url).content == b""


def test_the_longest_body_is_sent_whole_and_outlives_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("inspector")
    with running(folder) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        inbox.respond([{"headers": {"x-a": "1"}, "body": "x" * 65_536}])
        program.kill()
        program.start()
        response = httpx.post(inbox.url, trust_env=False)
        assert (response.headers["x-a"], len(response.content)) == ("1", 65_536)


def test_a_body_opened_in_a_browser_cannot_use_the_inspectors_api(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"headers": {"content-type": "text/html", "content-security-policy": "script-src *"}, "body": "<script></script>"}])
    response = http.get(inbox.url)
    assert "sandbox" in response.headers.get_list("content-security-policy")
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_refused_header_says_why(http: httpx.Client, inbox: Inbox) -> None:
    def refusal(rule: dict[str, object]) -> str:
        return str(http.put(f"/api/inboxes/{inbox.id}/response", json={"script": [rule]}).json()["error"])

    assert "The inspector sets it" in refusal({"headers": {"Content-Length": "3"}})
    assert "printable ASCII" in refusal({"headers": {"x-a": "1\r\n"}})
    assert "65,537 bytes" in refusal({"body": "x" * 65_537})
    assert "A response with this status has no body" in refusal({"status": 204, "body": "x"})


def test_a_reset_connection(inspector: Program, inbox: Inbox) -> None:
    inbox.respond([{"effect": "reset"}])
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as sender:
        sender.sendall(post(inspector, inbox))
        with pytest.raises(ConnectionResetError):
            sender.recv(100)
    (received,) = inbox.received()
    assert (received.response_status, received.response) == (None, "reset, rule 1: always")
    assert received.note == "the connection was reset without a response"


def test_no_answer_until_the_sender_leaves(inspector: Program, inbox: Inbox) -> None:
    inbox.respond([{"first": 1, "effect": "hang"}])
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=0.3) as sender:
        sender.sendall(post(inspector, inbox))
        with pytest.raises(TimeoutError):
            sender.recv(100)
        assert [received.unanswered for received in inbox.received()] == [True]
    (received,) = eventually(lambda: [received for received in inbox.received() if received.note])
    assert (received.response_status, received.response) == (None, "hang, rule 1: first 1")
    assert received.note == "the sender disconnected before the response"


def test_an_answer_that_drips(inspector: Program, inbox: Inbox) -> None:
    inbox.respond([{"effect": "drip"}])
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=10) as sender:
        sender.sendall(post(inspector, inbox))
        started = time.monotonic()
        got = b""
        while got.partition(b"\r\n\r\n")[2] != b"..":
            got += sender.recv(1000)
        assert time.monotonic() - started > 0.5
        assert got.startswith(b"HTTP/1.1 200")
    (received,) = eventually(lambda: [received for received in inbox.received() if received.note])
    assert (received.response_status, received.response) == (None, "drip, rule 1: always")


@pytest.mark.parametrize("status", [100, 103])
def test_a_status_that_announces_another_is_all_that_comes(inspector: Program, inbox: Inbox, status: int) -> None:
    inbox.respond(status=status)
    with socket.create_connection(("127.0.0.1", inspector.port), timeout=0.3) as sender:
        sender.sendall(post(inspector, inbox))
        assert sender.recv(1000).startswith(b"HTTP/1.1 %d" % status)
        with pytest.raises(TimeoutError):
            sender.recv(100)
    assert statuses(inbox) == [status]


def test_a_redirect_to_the_inbox_itself(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"first": 1, "effect": "redirect"}])
    redirected = http.post(f"{inbox.url}/deeper")
    assert (redirected.status_code, redirected.headers["location"]) == (302, f"/in/{inbox.id}")
    assert http.get(redirected.headers["location"]).status_code == 200
    assert statuses(inbox) == [302, 200]


def test_an_oversized_answer(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"effect": "oversized"}])
    answer = http.post(inbox.url)
    assert (answer.status_code, len(answer.content)) == (200, 1 << 20)
    assert statuses(inbox) == [200]


def post(inspector: Program, inbox: Inbox) -> bytes:
    return b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % (inbox.id.encode(), inspector.port)
