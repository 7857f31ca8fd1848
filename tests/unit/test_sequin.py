"""The Management API client: typed results, one error per kind of failure, hidden secrets, and sinks that differ from the request."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.fake_sequin import TOKEN, FakeSequin
from tests.ports import free_port
from userhooks.errors import (
    ConfigurationError,
    SequinError,
    SequinFailed,
    SequinInvalid,
    SequinMismatch,
    SequinNotFound,
    SequinUnauthorized,
    SequinUnreachable,
)
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.sequin_resources import Health, NewEndpoint, NewSink, Sink

URL = "http://sequin.example:7376"
CODE = 'def filter(action, record, changes, metadata) do\n  record["user_id"] == 1\nend\n'
TABLES = ["public.notifications"]


@pytest.fixture
def fake() -> FakeSequin:
    return FakeSequin()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(fake: FakeSequin, pauses: list[float]) -> Iterator[SequinClient]:
    with SequinClient(URL, TOKEN, transport=fake.transport, sleep=pauses.append) as client:
        yield client


def make_sink(client: SequinClient, name: str = "s", **fields: Any) -> Any:
    client.ensure_function("f", "filter", CODE)
    client.create_endpoint(f"{name}-endpoint", "http://127.0.0.1:9/x")
    wanted: dict[str, Any] = {"include_tables": TABLES, "filter_function": "f", "annotations": {"user_id": "1"}, **fields}
    return client.create_sink(name, endpoint=f"{name}-endpoint", **wanted)


# --- what works ------------------------------------------------------------------------------------------------------------


def test_health_and_version(client: SequinClient) -> None:
    assert client.health() == Health(ok=True, version="v0.14.6")
    assert client.version() == "v0.14.6"
    client.refresh_tables()
    client.test_connection()


def test_a_server_without_its_replication_slot_is_said_with_what_makes_the_slot(client: SequinClient, fake: FakeSequin) -> None:
    fake.slot_is_there = False
    with pytest.raises(SequinInvalid, match=r"slot sequin_slot .* is missing.*\n.*pg_create_logical_replication_slot\('sequin_slot'"):
        client.test_connection()


def test_an_endpoint_is_made_read_changed_and_deleted(client: SequinClient, fake: FakeSequin) -> None:
    made = client.create_endpoint("e", "http://127.0.0.1:9/x", encrypted_headers={"Authorization": "Bearer abc"})
    assert (made.name, made.url) == ("e", "http://127.0.0.1:9/x")
    assert fake.secrets == {"e": {"Authorization": "Bearer abc"}}
    assert client.endpoint("e") == client.endpoint(made.id) == made
    assert client.endpoints() == [made]
    assert client.update_endpoint("e", url="http://127.0.0.1:9/y").url == "http://127.0.0.1:9/y"
    assert client.delete_endpoint("e")
    assert not client.delete_endpoint("e"), "gone already is fine"


def test_a_sink_is_made_read_paused_and_deleted(client: SequinClient) -> None:
    made = make_sink(client)
    assert (made.name, made.database, made.status, made.filter, made.endpoint) == ("s", "postgres", "active", "f", "s-endpoint")
    assert (made.batch, made.batch_size, made.max_retry_count) == (True, 1, None)
    assert made.include_tables == ("public.notifications",)
    assert made.actions == ("insert", "update", "delete")
    assert made.annotations == {"user_id": "1"}
    assert (made.health, made.error) == (None, None)
    found = client.sink("s")
    assert (found.id, found.health, found.error) == (made.id, "error", "[http_endpoint]: Unexpected status code: 500")
    assert client.sinks() == [found]
    assert client.update_sink("s", status="paused").status == "paused"
    assert client.delete_sink("s")
    assert not client.delete_sink("s"), "gone already is fine"


def test_sinks_made_with_one_call_are_those_that_the_server_lists(client: SequinClient, fake: FakeSequin) -> None:
    client.ensure_function("f", "filter", CODE)
    endpoints = [NewEndpoint(name, f"http://127.0.0.1:9/{name}") for name in ("one", "two")]
    sinks = [NewSink(name, name, ("public.notifications",), "f", {"user_id": name}) for name in ("two", "one")]
    assert client.taken_names(endpoints, sinks) == set()
    made = client.create_sinks(endpoints, sinks)
    assert [(sink.name, sink.endpoint, sink.filter, sink.annotations["user_id"]) for sink in made] == [
        ("two", "two", "f", "two"),
        ("one", "one", "f", "one"),
    ]
    assert client.taken_names(endpoints[:1], sinks[:1]) == {"one", "two"}
    assert client.taken_names([], []) == set()


def test_a_server_that_answers_whole_sinks_is_not_asked_for_them(client: SequinClient, fake: FakeSequin) -> None:
    client.ensure_function("f", "filter", CODE)

    def answer_whole_sinks(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        response = answer()
        whole = httpx.Response(200, json={"resources": list(fake.sinks.values())})
        return whole if request.url.path == "/api/config/apply" else response

    fake.fault = answer_whole_sinks
    sink = NewSink("s", "e", ("public.notifications",), "f", {"user_id": "1"})
    assert [one.name for one in client.create_sinks([NewEndpoint("e", "http://127.0.0.1:9/e")], [sink])] == ["s"]
    assert "GET /api/sinks" not in fake.calls


def test_a_sink_that_is_not_there_afterwards_is_an_error(client: SequinClient, fake: FakeSequin) -> None:
    client.ensure_function("f", "filter", CODE)
    fake.fault = lambda request, answer: (
        httpx.Response(200, json={"resources": []}) if request.url.path == "/api/config/apply" else answer()
    )
    with pytest.raises(SequinMismatch, match="did not create the sink s"):
        client.create_sinks([], [NewSink("s", "e", ("public.notifications",), "f", {"user_id": "1"})])


def test_a_backfill_is_made_read_and_cancelled(client: SequinClient) -> None:
    make_sink(client)
    made = client.create_backfill("s")
    assert (made.sink_name, made.table, made.state) == ("s", "public.notifications", "active")
    assert (made.rows_initial_count, made.rows_processed_count, made.rows_ingested_count) == (None, 0, 0)
    assert client.backfill("s", made.id) == made
    assert client.backfills("s") == [made]
    assert client.update_backfill("s", made.id, "cancelled").state == "cancelled"


# --- functions -------------------------------------------------------------------------------------------------------------


def test_a_function_is_applied_only_when_it_differs(client: SequinClient, fake: FakeSequin) -> None:
    assert client.ensure_function("f", "filter", CODE)
    assert client.functions()["f"].type == "filter"
    assert client.functions()["f"].code.strip() == CODE.strip()
    fake.calls.clear()
    assert not client.ensure_function("f", "filter", CODE)
    assert not client.ensure_function("f", "filter", CODE.rstrip())
    assert "POST /api/config/apply" not in fake.calls
    assert client.ensure_function("f", "filter", CODE.replace("1", "2"))


def test_a_function_that_sequin_does_not_take_over_is_an_error(client: SequinClient, fake: FakeSequin) -> None:
    def ignore_apply(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        return httpx.Response(200, json={"resources": []}) if request.url.path == "/api/config/apply" else answer()

    fake.fault = ignore_apply
    with pytest.raises(SequinMismatch, match="function f"):
        client.ensure_function("f", "filter", CODE)


def test_the_recorded_export_is_read(client: SequinClient, fake: FakeSequin) -> None:
    exported = (
        "---\ndatabases:\n  - name: postgres\n    port: 25433\n    password:\n      p******s\nfunctions:\n  - code: |-\n"
        '      def filter(action, record, changes, metadata) do\n        record["user_id"] == 1\n      end\n'
        "    name: only-user-1\n    type: filter\n    description:\nhttp_endpoints: []\n"
    )
    fake.fault = lambda _request, _answer: httpx.Response(200, json={"yaml": exported})
    assert client.functions()["only-user-1"].code == CODE.rstrip()


# --- sinks that differ from the request ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"filter": "none"}, "its filter is none, not f"),
        ({"filter": None}, "its filter is None, not f"),
        ({"annotations": {}}, "its annotation user_id is None, not '1'"),
        ({"annotations": {"user_id": "2"}}, "its annotation user_id is '2', not '1'"),
        ({"annotations": {"user_id": 1}}, "its annotation user_id is 1, not '1'"),
        ({"source": {"include_tables": None}}, "its tables are all, not public.notifications"),
        ({"source": {"include_tables": ["public.users"]}}, "its tables are public.users, not public.notifications"),
    ],
)
def test_a_sink_that_came_out_different_is_deleted(client: SequinClient, fake: FakeSequin, changed: dict[str, Any], says: str) -> None:
    def drop_something(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        response = answer()
        if request.method == "POST" and request.url.path == "/api/sinks":
            fake.sinks["s"].update(changed)
            return httpx.Response(200, json=fake.sinks["s"])
        return response

    fake.fault = drop_something
    with pytest.raises(SequinMismatch) as caught:
        make_sink(client)
    assert says in caught.value.what
    assert fake.sinks == {}


def test_a_sink_that_lost_its_filter_in_an_update_is_deleted(client: SequinClient, fake: FakeSequin) -> None:
    make_sink(client)

    def ignore_patch(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        return httpx.Response(200, json={**fake.sinks["s"], "filter": "none"}) if request.method == "PATCH" else answer()

    fake.fault = ignore_patch
    with pytest.raises(SequinMismatch):
        client.update_sink("s", filter="f")
    assert fake.sinks == {}


def test_a_wrong_sink_that_cannot_be_deleted_is_told(client: SequinClient, fake: FakeSequin) -> None:
    make_sink(client)

    def refuse(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        return httpx.Response(500, json={"summary": "boom"}) if request.method == "DELETE" else answer()

    fake.fault = refuse
    with pytest.raises(SequinMismatch) as caught:
        client.require_sink(client.sink("s"), {"filter": "other"})
    assert "delete it in Sequin now" in caught.value.remedy


def test_a_cause_that_two_checks_show_is_said_once() -> None:
    checks = [{"name": name, "status": "error", "error": "[function]: x"} for name in ("Message filtering", "Message delivery")]
    shown = {
        "id": "1",
        "name": "one",
        "database": "postgres",
        "status": "active",
        "actions": [],
        "batch_size": 1,
        "destination": {"http_endpoint": "one"},
        "health": {"name": "Consumer health", "status": "error", "checks": checks},
    }
    assert Sink.of(shown).error == "[function]: x"


# --- errors ----------------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_named_and_not_shown(fake: FakeSequin) -> None:
    with SequinClient(URL, "wr0ng", transport=fake.transport) as client, pytest.raises(SequinUnauthorized) as caught:
        client.sinks()
    assert caught.value.status == 401
    assert "SEQUIN_API_TOKEN" in caught.value.remedy
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("token", ["line\nbreak", "naïve"])
def test_a_token_that_is_none_is_told_without_being_quoted(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SequinClient(URL, token)
    assert token not in str(caught.value)


def test_unknown_resources(client: SequinClient) -> None:
    for ask in (client.sink, client.endpoint, client.backfills, client.create_backfill):
        with pytest.raises(SequinNotFound, match="No `"):
            ask("nope")


def test_summary_and_validation_errors_are_in_the_text(client: SequinClient, fake: FakeSequin) -> None:
    errors = {"sink": {"http_endpoint_path": ["must start with '/'", "is long"]}, "name": ["has already been taken"]}
    fake.fault = lambda _request, _answer: httpx.Response(422, json={"summary": "Validation failed", "validation_errors": errors})
    with pytest.raises(SequinInvalid) as caught:
        client.update_sink("s", status="x")
    assert caught.value.status == 422
    assert caught.value.validation_errors == errors
    for part in ("Validation failed", "sink.http_endpoint_path must start with '/'", "sink.http_endpoint_path is long"):
        assert part in caught.value.what
    assert "name has already been taken" in caught.value.what


@pytest.mark.parametrize(
    ("response", "error", "says"),
    [
        (httpx.Response(400, json={"summary": "Cannot delete HTTP endpoint"}), SequinInvalid, "Cannot delete HTTP endpoint"),
        (httpx.Response(422, json={"success": False, "reason": "no route to host"}), SequinInvalid, "no route to host"),
        (httpx.Response(500, json={"errors": {"detail": "Internal Server Error"}}), SequinFailed, "Internal Server Error"),
        (httpx.Response(500, json=[1]), SequinFailed, "500"),
        (httpx.Response(404, text="Not Found", headers={"content-type": "text/html"}), SequinNotFound, "Not Found"),
        (httpx.Response(200, text="<html>a login page</html>"), SequinFailed, "is not Sequin's"),
        (httpx.Response(200, json={"data": "x"}), SequinFailed, "is not Sequin's"),
        (httpx.Response(302, headers={"location": "/login"}), SequinFailed, "is not Sequin's"),
    ],
)
def test_each_kind_of_answer_has_its_error(
    client: SequinClient, fake: FakeSequin, response: httpx.Response, error: type[SequinError], says: str
) -> None:
    fake.fault = lambda _request, _answer: response
    with pytest.raises(error, match=says) as caught:
        client.sink("s")
    assert type(caught.value) is error
    assert caught.value.remedy


def test_nothing_listens_there() -> None:
    with SequinClient(f"http://127.0.0.1:{free_port()}", TOKEN, sleep=lambda _: None) as client:
        with pytest.raises(SequinUnreachable) as caught:
            client.health()
        assert client.url in caught.value.what
        assert "SEQUIN_URL" in caught.value.remedy


@pytest.mark.parametrize("status", [502, 503, 504])
def test_reads_and_deletes_are_tried_again_after_a_gateway_error(
    client: SequinClient, fake: FakeSequin, pauses: list[float], status: int
) -> None:
    make_sink(client)

    def fail_twice(request: httpx.Request, answer: Callable[[], httpx.Response]) -> httpx.Response:
        return httpx.Response(status) if len(fake.calls) <= 2 else answer()

    fake.fault = fail_twice
    for ask in (client.sink, client.delete_sink):
        fake.calls.clear()
        pauses.clear()
        assert ask("s")
        assert len(fake.calls) == 3
        assert pauses == [0.1, 0.4]


def test_the_tries_are_bounded(client: SequinClient, fake: FakeSequin, pauses: list[float]) -> None:
    def break_off(request: httpx.Request, _answer: Callable[[], httpx.Response]) -> httpx.Response:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)

    fake.fault = break_off
    with pytest.raises(SequinUnreachable, match="disconnected"):
        client.sinks()
    assert len(fake.calls) == 3
    assert len(pauses) == 2


def test_a_slow_read_is_not_asked_again(client: SequinClient, fake: FakeSequin) -> None:
    def hang(request: httpx.Request, _answer: Callable[[], httpx.Response]) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    fake.fault = hang
    with pytest.raises(SequinUnreachable, match="timed out"):
        client.sinks()
    assert len(fake.calls) == 1


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.ConnectError("Connection refused")])
def test_what_writes_is_never_sent_twice(client: SequinClient, fake: FakeSequin, answer: httpx.Response | Exception) -> None:
    def fail(_request: httpx.Request, _answer: Callable[[], httpx.Response]) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    fake.fault = fail
    for call in (lambda: client.create_endpoint("e", "http://x"), lambda: client.update_sink("s", status="paused")):
        fake.calls.clear()
        with pytest.raises(SequinError):
            call()
        assert len(fake.calls) == 1


def test_names_cannot_leave_their_place_in_the_path(client: SequinClient, fake: FakeSequin) -> None:
    with pytest.raises(SequinNotFound):
        client.sink("../config/export?x=1#")
    assert fake.calls[-1] == "GET /api/sinks/..%2Fconfig%2Fexport%3Fx%3D1%23"


def test_no_secret_is_logged_or_shown(client: SequinClient, fake: FakeSequin, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.ensure_function("f", "filter", CODE)
    endpoint = client.create_endpoint("e", "http://x", encrypted_headers={"Authorization": "Bearer topsecret"})
    fake.fault = lambda _request, _answer: httpx.Response(500, json={"resources": [{"password": "hunter2"}]})
    with pytest.raises(SequinFailed) as caught:
        client.ensure_function("g", "filter", CODE)
    everything = caplog.text + str(caught.value) + repr(caught.value) + repr(client) + repr(endpoint)
    for secret in (TOKEN, "topsecret", "hunter2"):
        assert secret not in everything


def test_a_second_answer_after_an_error_is_not_taken_for_the_next_calls() -> None:
    """A real server sent two responses to some failed requests on a keep-alive connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    stray = _answer(500, {"errors": {"detail": "Internal Server Error"}})
    answers = [_answer(400, {"summary": "no"}), _answer(200, {"ok": True, "rev": "v0.14.6"})]

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                if connection.recv(65536):  # the next call, on the same connection
                    connection.sendall(stray)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener, SequinClient(f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN) as client:
        with pytest.raises(SequinInvalid):
            client.backfill("s", "x")
        assert client.health() == Health(ok=True, version="v0.14.6")
    thread.join(10)


def _answer(status: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(content), content)
