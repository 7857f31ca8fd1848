"""The inspector's Python client: waiting, DataFrames, iterating, and error messages."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pandas as pd
import pytest

from tests.inspector.bodies import batch, bearer, message
from tests.inspector.program import TOKEN, Program
from tests.ports import free_port
from userhooks.errors import START, DeliveriesMissing, InvalidInput, NotFound, NotRunning
from userhooks.inspector import client as client_module
from userhooks.inspector.client import Inbox, InspectorClient
from userhooks.inspector.messages import Message
from userhooks.shared.html_table import html_table


def rows(messages: list[Message]) -> list[int]:
    return [message.record["id"] for message in messages]


def test_waiting_returns_the_first_n_in_the_order_of_arrival(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, json=batch(message(1, 10), message(1, 11)))
    http.post(inbox.url, json=message(1, 12))
    assert rows(inbox.wait_for(2)) == [10, 11]
    assert rows(inbox.wait_for(3)) == [10, 11, 12]
    assert inbox.wait_for(0) == []


def test_waiting_ends_as_soon_as_the_last_one_comes(http: httpx.Client, inbox: Inbox) -> None:
    sender = threading.Thread(target=lambda: [http.post(inbox.url, json=message(1, row)) for row in range(30)])
    sender.start()
    started = time.monotonic()
    assert rows(inbox.wait_for(30, timeout=30)) == list(range(30))
    assert time.monotonic() - started < 20
    sender.join()


def test_waiting_for_what_matches(http: httpx.Client, inbox: Inbox) -> None:
    for row, action in enumerate(["insert", "update", "insert", "delete"]):
        http.post(inbox.url, json=message(1, row, action=action))
    assert rows(inbox.wait_for(2, match=lambda message: message.action == "insert")) == [0, 2]


def test_messages_older_than_their_sink_are_left_out_of_everything_but_what_was_received(http: httpx.Client, inbox: Inbox) -> None:
    bodies = [message(1, 10), batch(message(1, 11), message(1, 20)), message(1, 21), message(1, 22, commit_lsn=None, action="read")]
    for body in bodies:
        http.post(inbox.url, json=body)
    http.post(inbox.url, content=b"no webhook of Sequin's")
    metadata = bodies[0]["metadata"]
    inbox.leave_out_before(metadata["consumer"]["id"], metadata["commit_lsn"] + 10)
    assert inbox.count() == 4
    assert [record["id"] for record in inbox.messages()["record"]] == [20, 21, 22]
    assert rows(inbox.wait_for(3)) == [20, 21, 22]
    assert len(inbox.wait_for_attempts(4)) == 4
    with pytest.raises(DeliveriesMissing, match="3 of 4"):
        inbox.wait_for(4, timeout=0.2)
    assert len(inbox.requests()) == 4
    assert len(list(inbox.received())) == 5


def test_waiting_for_attempts_counts_whatever_was_answered(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(fail_first=1)
    for _ in range(2):
        http.post(inbox.url, json=message(1, 5))
    assert [attempt.response_status for attempt in inbox.wait_for_attempts(2)] == [500, 200]
    assert [attempt.response_status for attempt in inbox.wait_for_attempts(1)] == [500]
    with pytest.raises(DeliveriesMissing, match="2 of 3 attempts"):
        inbox.wait_for_attempts(3, timeout=0)


def test_a_failed_attempt_and_its_repetition_are_one_delivery(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(fail_first=1)
    for _ in range(2):
        http.post(inbox.url, json=message(1, 5))
    assert rows(inbox.wait_for(1)) == [5]
    with pytest.raises(DeliveriesMissing, match="1 of 2 messages"):
        inbox.wait_for(2, timeout=0)


def test_an_answer_that_comes_late_counts_when_it_has_come(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(delay=0.5)
    sender = threading.Thread(target=lambda: http.post(inbox.url, json=message(1, 5)))
    sender.start()
    assert rows(inbox.wait_for(1, timeout=10)) == [5]
    sender.join()


def test_waiting_says_what_came_instead(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(fail_first=2)
    for row in range(4):
        http.post(inbox.url, json=message(1, row, action="update" if row == 3 else "insert"))
    http.post(f"{inbox.url}/last?x=1", content=b"nonsense", headers=bearer(1, inbox.url))
    with pytest.raises(DeliveriesMissing) as caught:
        inbox.wait_for(3, match=lambda message: message.action == "insert", timeout=0.1)
    assert str(caught.value).splitlines() == [
        f"1 of 3 messages arrived in the inbox {inbox.name!r} within 0.1 s.",
        (
            "Also received: 2 requests answered 500, 1 message that did not match, 1 request without a Sequin message. "
            f"Last request: POST /in/{inbox.id}/last, answered 200, secret not applicable."
        ),
    ]


def test_waiting_says_that_nothing_came(inbox: Inbox) -> None:
    with pytest.raises(DeliveriesMissing) as caught:
        inbox.wait_for(1, timeout=0)
    assert str(caught.value).splitlines() == [
        f"0 of 1 message arrived in the inbox {inbox.name!r} within 0 s.",
        "No request arrived. Check that this inbox's URL is subscribed and that a row of that user was written.",
    ]


def test_waiting_says_that_all_is_not_answered_yet(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond(delay=1.0)
    sender = threading.Thread(target=lambda: http.post(inbox.url, json=message(1, 5), headers=bearer(1, inbox.url)))
    sender.start()
    with pytest.raises(DeliveriesMissing, match=r"1 request not answered yet.*not answered, secret ok"):
        inbox.wait_for(1, timeout=0.5)
    sender.join()


@pytest.mark.parametrize("waits", ["inbox.wait_for(1, timeout=60)", "[message for message in inbox]"])
def test_waiting_and_following_can_be_interrupted_at_once(inspector: Program, waits: str) -> None:
    script = (
        "import sys; from userhooks.inspector.client import InspectorClient\n"
        "inbox = InspectorClient(*sys.argv[1:]).inbox('interrupted')\n"
        f"try:\n    print('waiting', flush=True)\n    {waits}\n"
        "except KeyboardInterrupt:\n    print('stopped', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, inspector.url, TOKEN], stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(2)
        started = time.monotonic()
        assert waiting.stdout.readline() == "stopped\n"
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("asked", "field"),
    [({"n": "3"}, "n"), ({"n": -1}, "n"), ({"n": 1, "match": {"action": "insert"}}, "match"), ({"n": 1, "timeout": "5 s"}, "timeout")],
)
def test_waiting_for_what_cannot_be_waited_for_is_refused(inbox: Inbox, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inbox.wait_for(**asked)
    assert caught.value.field == field
    assert "inbox.wait_for(10" in caught.value.remedy or "lambda message" in caught.value.remedy


def test_messages_are_a_table_with_typed_columns(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, json=batch(message(1, 10), message(1, 11, action="read")), headers=bearer(1, inbox.url))
    http.post(inbox.url, content=b"no message")
    frame = inbox.messages()
    assert list(frame["record"].map(lambda record: record["id"])) == [10, 11]
    assert list(frame["seq"]) == [1, 1]
    assert list(frame["action"]) == ["insert", "read"]
    assert list(frame["secret"]) == ["ok", "ok"]
    assert frame["user_id"].sum() == 2
    assert (frame["received_at"] - frame["commit_timestamp"]).dt.total_seconds().mul(1000).equals(frame["latency_ms"])
    assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == {
        "seq": "int64",
        "received_at": "datetime64[us, UTC]",
        "response_status": "Int64",
        "secret": "str",
        "action": "str",
        "table": "str",
        "user_id": "Int64",
        "sink_name": "str",
        "record": "object",
        "changes": "object",
        "commit_timestamp": "datetime64[us, UTC]",
        "lsn": "Int64",
        "idx": "Int64",
        "idempotency_key": "str",
        "latency_ms": "float64",
    }


def test_requests_are_a_table_with_typed_columns(http: httpx.Client, inbox: Inbox) -> None:
    http.post(f"{inbox.url}/a?b=c", content=b"\x00\xff", headers=[("x-a", "1"), ("x-a", "2")])
    frame = inbox.requests()
    (row,) = frame.to_dict("records")
    assert (row["seq"], row["method"], row["path"], row["query"]) == (1, "POST", f"/in/{inbox.id}/a", "b=c")
    assert (row["body"], row["response_status"], row["secret"]) == (b"\x00\xff", 200, "not applicable")
    assert [pair for pair in row["headers"] if pair[0] == "x-a"] == [("x-a", "1"), ("x-a", "2")]
    assert str(frame["received_at"].dtype) == "datetime64[us, UTC]"


def test_empty_tables_have_the_same_types(http: httpx.Client, inbox: Inbox) -> None:
    empty = inbox.messages().dtypes, inbox.requests().dtypes
    http.post(inbox.url, json=message(1))
    full = inbox.messages().dtypes, inbox.requests().dtypes
    for before, after in zip(empty, full, strict=True):
        pd.testing.assert_series_equal(before, after)


def test_iterating_follows_what_comes_from_now_on(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, json=message(1, 1))
    following = iter(inbox)
    sender = threading.Thread(target=lambda: [http.post(inbox.url, json=message(1, row)) for row in range(2, 6)])
    sender.start()
    assert rows(list(itertools.islice(following, 4))) == [2, 3, 4, 5]
    sender.join()


def test_clear_and_count(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url)
    assert inbox.count() == 1
    inbox.clear()
    assert (inbox.count(), len(inbox.requests())) == (0, 0)


def test_reprs_are_stable_and_escaped(inspector: Program, http: httpx.Client) -> None:
    with InspectorClient(inspector.url, TOKEN) as client:
        inbox = client.inbox("<script>alert('ada')</script>")
        assert repr(inbox) == """Inbox("<script>alert('ada')</script>")"""
        assert repr(client) == "InspectorClient()"
        http.post(inbox.url)
        inbox.respond(status=503, delay=0.5, fail_first=2)
        shown = inbox._repr_html_()
        values = {"requests": 1, "dropped": 0, "answers": "first 2: 500 after 0.5 s; always: 503 after 0.5 s"}
        assert shown == html_table("Inbox <script>alert('ada')</script>", values)
        assert "<script>" not in shown


def test_the_same_name_is_the_same_inbox(inspector: Program) -> None:
    with InspectorClient(inspector.url, TOKEN) as client:
        ada = client.inbox("ada")
        assert (client.inbox("ada").id, client.inbox("ada").url) == (ada.id, ada.url)
        assert ada.id in [inbox.id for inbox in client.inboxes()]
        with pytest.raises(InvalidInput, match="name is ''"):
            client.inbox("")


def test_an_inspector_that_is_not_there_is_one_clear_error() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with InspectorClient(url, TOKEN) as client:
        for call in (client.inboxes, lambda: client.inbox("ada"), lambda: Inbox(client, "x", "ada", "", "").wait_for(1)):
            with pytest.raises(NotRunning) as caught:
                call()
            first, second = str(caught.value).splitlines()
            assert first.startswith(f"The inspector does not answer at {url}")
            assert second == f"{START}."
        shown = Inbox(client, "x", "ada", "", "")._repr_html_()
        assert shown.startswith("<table><caption>Inbox ada</caption>")
        assert "problem</th>" in shown
        assert "does not answer" in shown


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if "inboxes" in self.path else 404)
        self.end_headers()
        self.wfile.write(b"<h1>It works</h1>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("path", "status"), [("/api/inboxes", 200), ("/elsewhere", 404)])
def test_another_program_in_the_inspectors_place_is_named(path: str, status: int) -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        url = f"http://127.0.0.1:{stranger.server_port}"
        threading.Thread(target=stranger.handle_request).start()
        with InspectorClient(url, TOKEN) as client, pytest.raises(NotRunning) as caught:
            client.call("GET", path)
    assert f"{url} is not the inspector (status {status})" in caught.value.what
    assert "USERHOOKS_INSPECTOR_PORT" in caught.value.remedy


def test_an_inbox_that_is_gone_is_one_clear_error(inspector: Program) -> None:
    with InspectorClient(inspector.url, TOKEN) as client, pytest.raises(NotFound, match="There is no inbox with this id"):
        Inbox(client, "gone", "ada", "", "").count()


def test_importing_the_client_leaves_pandas_alone() -> None:
    script = "import sys, userhooks.inspector.client; print([name for name in ('pandas', 'starlette', 'uvicorn') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_reading_many_pages_ends_with_what_was_there_when_it_began(
    http: httpx.Client, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_PAGE", 10)
    for row in range(95):
        http.post(inbox.url, json=message(1, row))
    seqs = []
    for received in inbox.received():
        seqs.append(received.seq)
        http.post(inbox.url, json=message(1, 1000))
    assert seqs[:95] == list(range(1, 96))
    assert len(seqs) <= 105
    assert [received.seq for received in inbox.received(after=93)][:2] == [94, 95]
    assert rows(inbox.wait_for(95)) == list(range(95))
    assert len(inbox.messages()) == inbox.count()


def test_reading_leaves_the_garbage_collector_as_it_was(http: httpx.Client, inbox: Inbox) -> None:
    http.post(inbox.url, json=message(1))
    assert gc.isenabled()
    inbox.messages()
    inbox.requests()
    assert gc.isenabled()
    with pytest.raises(NotRunning), InspectorClient(f"http://127.0.0.1:{free_port()}", TOKEN) as client:
        Inbox(client, "x", "ada", "", "").messages()
    assert gc.isenabled()
