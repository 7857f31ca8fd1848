"""The inspector's API: inboxes, requests, events, and errors."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.inspector.bodies import batch, bearer, message
from tests.inspector.program import TOKEN, Program, running
from userhooks.inspector.client import Inbox, InspectorClient


def test_an_inbox_has_an_address_a_page_and_an_id_nobody_can_guess(inspector: Program, http: httpx.Client) -> None:
    first, second = (http.post("/api/inboxes", json={}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    made = first.json()
    assert made["url"] == f"{inspector.url}/in/{made['id']}"
    assert made["page"] == f"{inspector.url}/inboxes/{made['id']}"
    assert len(made["id"]) >= 22
    assert made["id"] != second.json()["id"]
    assert made["name"] != second.json()["name"]


def test_a_known_name_gives_its_inbox(http: httpx.Client) -> None:
    made = http.post("/api/inboxes", json={"name": "Ada's ünï inbox"})
    again = http.post("/api/inboxes", json={"name": "Ada's ünï inbox"})
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert made.json()["id"] in [entry["id"] for entry in http.get("/api/inboxes").json()["inboxes"]]


def test_a_name_like_an_automatic_one_does_not_collide(http: httpx.Client) -> None:
    number = len(http.get("/api/inboxes").json()["inboxes"]) + 2
    taken = http.post("/api/inboxes", json={"name": f"inbox-{number}"}).json()
    assert http.post("/api/inboxes", json={}).json()["id"] != taken["id"]


@pytest.mark.parametrize("name", ["", " ", " ada", "a\nb", "a\x00b", "x" * 101, 5, True, ["ada"], {"a": 1}])
def test_a_name_that_cannot_be_used_is_refused(http: httpx.Client, name: object) -> None:
    before = http.get("/api/inboxes").json()
    response = http.post("/api/inboxes", json={"name": name})
    assert (response.status_code, response.json()["field"]) == (400, "name")
    assert http.get("/api/inboxes").json() == before


@pytest.mark.parametrize(
    ("content", "field"), [(b"{", "body"), (b"[]", "body"), (b'"ada"', "body"), (b"\xff", "body"), (b'{"nam":"ada"}', "nam")]
)
def test_a_body_that_cannot_be_used_is_refused(http: httpx.Client, content: bytes, field: str) -> None:
    response = http.post("/api/inboxes", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["field"]) == (400, field)


def test_posting_to_the_api_needs_json(http: httpx.Client, inbox: Inbox) -> None:
    for method, path in (("POST", "/api/inboxes"), ("PUT", f"/api/inboxes/{inbox.id}/response")):
        for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
            assert http.request(method, path, content=b"{}", headers=headers).status_code == 415


def test_foreign_hosts_and_origins_get_nothing(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, content=b"private")
    for path in (
        "/",
        "/health",
        "/api/inboxes",
        f"/inboxes/{inbox.id}",
        f"/api/inboxes/{inbox.id}/requests",
        f"/api/inboxes/{inbox.id}/events",
    ):
        for headers in ({"host": "evil.example:80"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            response = http.get(path, headers=headers)
            assert response.status_code == 403
            assert "private" not in response.text
        assert http.delete(f"/api/inboxes/{inbox.id}/requests", headers={"origin": "https://evil.example"}).status_code == 403
    assert inbox.count() == 1


def test_the_inspector_own_page_may_call_the_api(inspector: Program, http: httpx.Client) -> None:
    for origin in (inspector.url, f"http://localhost:{inspector.port}"):
        assert http.get("/api/inboxes", headers={"origin": origin}).status_code == 200


def test_requests_come_in_order_and_in_pieces(http: httpx.Client, inbox: Inbox) -> None:
    for n in range(7):
        http.post(inbox.url, content=str(n).encode())
    path = f"/api/inboxes/{inbox.id}/requests"
    everything = http.get(path).json()
    assert (everything["dropped"], everything["last_seq"]) == (0, 7)
    assert [request["body"] for request in everything["requests"]] == list("0123456")
    answer = http.get(path, params={"after": 2, "limit": 3})
    assert [request["seq"] for request in answer.json()["requests"]] == [3, 4, 5]
    answer = http.get(answer.links["next"]["url"])
    assert [request["seq"] for request in answer.json()["requests"]] == [6, 7]
    assert "next" not in answer.links
    assert http.get(path, params={"after": 7}).json()["requests"] == []


def test_a_request_has_these_keys(http: httpx.Client, inbox: Inbox) -> None:
    http.post(f"{inbox.url}/x?y=z", content=b"\x00\xff", headers=[("x-a", "1"), ("X-A", "2")])
    (request,) = http.get(f"/api/inboxes/{inbox.id}/requests").json()["requests"]
    assert request.pop("received_at").endswith("Z")
    headers = request.pop("headers")
    assert [value for name, value in headers if name == "x-a"] == ["1", "2"]
    assert request == {
        "seq": 1,
        "method": "POST",
        "path": f"/in/{inbox.id}/x",
        "query": "y=z",
        "body": base64.b64encode(b"\x00\xff").decode(),
        "body_encoding": "base64",
        "decoded": None,
        "decoded_encoding": None,
        "decoded_truncated": False,
        "response_status": 200,
        "response": "200, no rule",
        "size": 2,
        "truncated": False,
        "secret": "not applicable",
        "secret_reason": "The body is not a Sequin message, so it does not identify a subscription.",
        "judgements": [],
        "note": "",
    }


def test_a_long_body_can_be_asked_for_in_part_without_breaking_a_character(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, content="aé☃".encode())
    requests = [http.get(f"/api/inboxes/{inbox.id}/requests", params={"body_limit": n}).json()["requests"][0] for n in range(7)]
    assert [request["body"] for request in requests] == ["", "a", "a", "aé", "aé", "aé", "aé☃"]
    assert [request["truncated"] for request in requests] == [True] * 6 + [False]
    assert {request["body_encoding"] for request in requests} == {"utf-8"}


def test_large_bodies_come_in_several_pieces(http: httpx.Client, inbox: Inbox) -> None:
    for n in range(5):
        http.post(inbox.url, content=bytes([n]) * (6 << 20))
    path = f"/api/inboxes/{inbox.id}/requests"
    assert [request["seq"] for request in http.get(path).json()["requests"]] == [1, 2, 3]
    assert [received.body[0] for received in inbox.received()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("field", "value"),
    [("after", "-1"), ("after", "x"), ("after", "1e3"), ("after", "٣"), ("limit", "0"), ("limit", "10001"), ("limit", "")],
)
def test_a_malformed_question_is_refused(http: httpx.Client, inbox: Inbox, field: str, value: str) -> None:
    response = http.get(f"/api/inboxes/{inbox.id}/requests", params={field: value})
    assert (response.status_code, response.json()["field"]) == (400, field)


def test_an_unknown_inbox_is_a_404_everywhere(http: httpx.Client) -> None:
    calls = [
        ("GET", "/api/inboxes/nobody", None),
        ("GET", "/api/inboxes/nobody/requests", None),
        ("DELETE", "/api/inboxes/nobody/requests", None),
        ("GET", "/api/inboxes/nobody/events", None),
        ("PUT", "/api/inboxes/nobody/response", {"script": []}),
        ("GET", "/nothing/here", None),
    ]
    for method, path, payload in calls:
        response = http.request(method, path, json=payload)
        assert response.status_code == 404
        assert response.json()["error"]
    assert http.get("/inboxes/nobody").status_code == 404
    assert http.put("/api/inboxes", json={}).status_code == 405


def test_clearing_removes_the_requests_and_keeps_counting(http: httpx.Client, inbox: Inbox) -> None:
    for _ in range(3):
        http.post(inbox.url)
    assert http.delete(f"/api/inboxes/{inbox.id}/requests").status_code == 204
    assert inbox.count() == 0
    http.post(inbox.url)
    assert [received.seq for received in inbox.received()] == [4]
    assert http.get(f"/api/inboxes/{inbox.id}/requests").json()["dropped"] == 0


@contextmanager
def listening(http: httpx.Client, inbox: Inbox, **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """Stream the events of an inbox as tuples (event, id, data)."""

    def parsed(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
        for filled, block in itertools.groupby(lines, key=bool):
            fields = dict(line.split(": ", 1) for line in block) if filled else {}
            if "data" in fields:
                yield fields["event"], fields.get("id", ""), json.loads(fields["data"])

    with http.stream("GET", f"/api/inboxes/{inbox.id}/events", headers=headers, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield parsed(response.iter_lines())


def requests_among(events: Iterator[tuple[str, str, Any]], count: int) -> list[tuple[str, Any]]:
    return [(ident, data) for _, ident, data in itertools.islice((event for event in events if event[0] == "request"), count)]


def test_events_tell_what_was_there_and_what_comes(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, content=b"before")
    with listening(http, inbox) as events:
        assert [(ident, data["body"]) for ident, data in requests_among(events, 1)] == [("1", "before")]
        httpx.post(inbox.url, content=b"after", trust_env=False)
        ((ident, data),) = requests_among(events, 1)
        assert (ident, data["body"]) == ("2", "after")
    assert data == http.get(f"/api/inboxes/{inbox.id}/requests", params={"after": 1}).json()["requests"][0]


def test_events_resume_where_a_client_was(http: httpx.Client, inbox: Inbox) -> None:
    for _ in range(5):
        http.post(inbox.url)
    with listening(http, inbox, **{"last-event-id": "3"}) as events:
        assert [ident for ident, _ in requests_among(events, 2)] == ["4", "5"]


def test_events_tell_of_the_counts_and_of_clearing(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url)
    with listening(http, inbox) as events:
        counts = (data for event, _, data in events if event == "inbox")
        assert next(counts)["count"] == 1
        inbox.clear()
        cleared = next(counts)
        assert (cleared["count"], cleared["first_seq"]) == (0, 2)


def test_events_tell_of_a_late_answer_without_moving_the_place_to_resume(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(delay=0.3)
    with listening(http, inbox) as events:
        httpx.post(inbox.url, trust_env=False)
        (first, waiting), (second, answered) = requests_among(events, 2)
        assert (first, waiting["response_status"]) == ("1", None)
        assert (second, answered["seq"], answered["response_status"]) == ("", 1, 200)


def test_events_cut_long_bodies(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, content=b"x" * 100_000)
    with listening(http, inbox) as events:
        ((_, data),) = requests_among(events, 1)
    assert (len(data["body"]), data["size"], data["truncated"]) == (65536, 100_000, True)


def test_every_request_is_judged_by_its_secret(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, json=batch(message(1)), headers=bearer(1, inbox.url))
    http.post(inbox.url, json=batch(message(1)), headers=bearer(2, inbox.url))
    http.post(inbox.url, json=batch(message(1)))
    http.post(inbox.url, json=batch(message(1, annotated=None)))
    verdicts = [(received.secret, received.secret_reason) for received in inbox.received()]
    assert [secret for secret, _ in verdicts] == ["ok", "wrong", "missing", "not applicable"]
    assert all(reason for _, reason in verdicts)


def test_the_secret_is_right_by_whichever_name_the_sender_knows_the_inspector(tmp_path: Path) -> None:
    with running(tmp_path, public_url="http://inspector.example:3334") as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        names = [f"http://127.0.0.1:{program.port}", f"http://localhost:{program.port}", "http://inspector.example:3334"]
        for subscribed in names:
            for sent in names:
                httpx.post(
                    f"{program.url}/in/{inbox.id}/hook?a=1",
                    json=batch(message(1)),
                    headers=bearer(1, f"{subscribed}/in/{inbox.id}/hook?a=1") | {"host": sent.removeprefix("http://")},
                    trust_env=False,
                )
        assert [received.secret for received in inbox.received()] == ["ok"] * 9


def test_pages_forbid_everything_that_is_not_theirs(http: httpx.Client, inbox: Inbox) -> None:
    for path in ("/", f"/inboxes/{inbox.id}"):
        response = http.get(path)
        assert response.headers["content-type"].startswith("text/html")
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert inbox.id not in response.text


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        config = {"bind": "127.0.0.1", "port": port, "public_url": None, "store": str(tmp_path / "i.db"), "home_key": "00", "token": TOKEN}
        ended = subprocess.run(
            [sys.executable, "-m", "userhooks.inspector"],
            input=json.dumps(config) + "\n",
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert str(port) in ended.stderr
    assert "USERHOOKS_INSPECTOR_PORT" in ended.stderr


def test_everything_can_be_downloaded_a_line_each(http: httpx.Client, inbox: Inbox) -> None:
    for n in range(1_201):
        http.post(inbox.url, content=f"{n}\n".encode())
    answer = http.get(f"/api/inboxes/{inbox.id}/requests.ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == f'attachment; filename="{inbox.id}.ndjson"'
    lines = [json.loads(line) for line in answer.text.split("\n")[:-1]]
    assert [line["body"] for line in lines] == [f"{n}\n" for n in range(1_201)]
    assert lines[700:701] == http.get(f"/api/inboxes/{inbox.id}/requests", params={"after": 700, "limit": 1}).json()["requests"]


def test_a_request_can_be_sent_again_to_an_inbox(inspector: Program, http: httpx.Client, inbox: Inbox) -> None:
    body = bytes(range(256)) * 300
    headers = [("x-a", "1"), ("x-b", ""), ("X-A", "caf\xe9"), ("authorization", "Bearer x")]
    sent = httpx.Headers([(name, value.encode("latin-1")) for name, value in headers])  # type: ignore[misc]
    http.patch(f"{inbox.url}/deeper%2F/x?y=%20&y", content=iter([body, b"!"]), headers=sent)
    with InspectorClient(inspector.url, TOKEN) as client:
        other = client.inbox("sent again")
        other.respond(status=503)
        answer = http.post(f"/api/inboxes/{inbox.id}/requests/1/send", json={"inbox": other.id})
        assert (answer.status_code, answer.json()) == (200, {"inbox": other.id, "status": 503})
        (first,), (again,) = inbox.received(), other.received()
    assert (again.method, again.path, again.query) == ("PATCH", f"/in/{other.id}/deeper%2F/x", first.query)
    assert again.body == body + b"!"
    kept = {"transfer-encoding", "connection", "content-length", "host"}
    assert [pair for pair in again.headers if pair[0] not in kept] == [pair for pair in first.headers if pair[0] not in kept]


def test_sending_again_to_an_inbox_that_does_not_answer(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, content=b"x")
    inbox.respond([{"effect": "reset"}])
    answer = http.post(f"/api/inboxes/{inbox.id}/requests/1/send", json={"inbox": inbox.id})
    assert answer.json() == {"inbox": inbox.id, "status": None}
    assert inbox.count() == 2


@pytest.mark.parametrize(
    ("seq", "payload", "status", "field"),
    [
        ("1", {"inbox": "nobody"}, 400, "inbox"),
        ("1", {"inbox": "http://127.0.0.1:1/in/x"}, 400, "inbox"),
        ("1", {}, 400, "inbox"),
        ("1", {"inbox": 1}, 400, "inbox"),
        ("1", [], 400, "inbox"),
        ("2", None, 404, None),
        ("0", None, 404, None),
        ("-1", None, 404, None),
        ("x", None, 404, None),
        ("9" * 30, None, 404, None),
    ],
)
def test_what_cannot_be_sent_again(http: httpx.Client, inbox: Inbox, seq: str, payload: object, status: int, field: str | None) -> None:
    http.post(inbox.url, content=b"x")
    answer = http.post(f"/api/inboxes/{inbox.id}/requests/{seq}/send", json={"inbox": inbox.id} if payload is None else payload)
    assert (answer.status_code, answer.json().get("field")) == (status, field)
    assert inbox.count() == 1


def test_a_body_that_no_call_needs_is_refused(http: httpx.Client, inbox: Inbox) -> None:
    headers = {"content-type": "application/json"}
    for content in (b" " * (2 << 20), iter([b"[" * 1_000_000] * 4)):
        refused = http.put(f"/api/inboxes/{inbox.id}/response", content=content, headers=headers)
        assert (refused.status_code, refused.json()["field"]) == (400, "body")
        assert "1 MB" in refused.json()["error"]
