"""An inbox answers what it was told to answer, and records what it answered."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest

from tests.inspector.program import Program, running
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
        sender.sendall(b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % (inbox.id.encode(), inspector.port))
        assert eventually(lambda: statuses(inbox)) == [None]
        assert sender.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started >= 0.3
    assert statuses(inbox) == [200]


def test_a_sender_that_gives_up_is_recorded_as_not_answered(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(delay=60)
    with pytest.raises(httpx.ReadTimeout):
        http.post(inbox.url, timeout=0.2)
    (received,) = eventually(lambda: [received for received in inbox.received() if received.note])
    assert (received.response_status, received.note) == (None, "the sender left before the answer")


def test_the_setting_and_its_count_outlive_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("inspector")
    with running(folder) as program, InspectorClient(program.url) as client:
        inbox = client.inbox("ada")
        inbox.respond(status=201, fail_first=3)
        assert [httpx.post(inbox.url, trust_env=False).status_code for _ in range(2)] == [500, 500]
        program.kill()
        program.start()
        assert [httpx.post(inbox.url, trust_env=False).status_code for _ in range(2)] == [500, 201]


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"status": 199}, "status"),
        ({"status": 600}, "status"),
        ({"status": "200"}, "status"),
        ({"status": True}, "status"),
        ({"status": None}, "status"),
        ({"status": 200.0}, "status"),
        ({"delay": -0.1}, "delay"),
        ({"delay": 301}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"fail_first": -1}, "fail_first"),
        ({"fail_first": 1.5}, "fail_first"),
        ({"fail_frist": 1}, "fail_frist"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_a_malformed_setting_is_refused_by_the_name_of_its_field(http: httpx.Client, inbox: Inbox, setting: object, field: str) -> None:
    inbox.respond(status=418)
    headers = {"content-type": "application/json"}
    response = http.put(f"/api/inboxes/{inbox.id}/response", content=json.dumps(setting), headers=headers)
    assert (response.status_code, response.json()["field"]) == (400, field)
    assert http.post(inbox.url).status_code == 418


def test_python_gets_the_same_error(inbox: Inbox) -> None:
    with pytest.raises(InvalidInput, match=r"status is 99\. It must be a whole number from 200 to 599\.") as caught:
        inbox.respond(status=99)
    assert caught.value.field == "status"


def test_the_setting_is_shown_with_what_is_left_of_it(inspector: Program, http: httpx.Client, inbox: Inbox) -> None:
    put = http.put(f"/api/inboxes/{inbox.id}/response", json={"fail_first": 2, "delay": 0.01})
    assert put.json() == {"status": 200, "delay": 0.01, "fail_first": 2}
    http.post(inbox.url)
    shown = http.get(f"/api/inboxes/{inbox.id}").json()
    assert (shown["response"], shown["fails_left"]) == (put.json(), 1)
