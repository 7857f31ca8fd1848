"""The server on port 3333: the original API with every field and status, and the program that serves it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn

from tests.fake_sequin import TOKEN, FakeSequin
from tests.http_sequin import serving
from tests.ports import free_port
from tests.waiting import eventually
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.server import build_app
from userhooks.webhooks.subscription_secret import subscription_secret
from userhooks.webhooks.subscriptions import Subscriptions

KEY = b"k" * 32
URL = "https://webhook.site/your-unique-url"
JSON = {"content-type": "application/json"}


@pytest.fixture
def fake() -> FakeSequin:
    return FakeSequin()


@pytest.fixture
def database(database_url: str) -> Database:
    database = Database(database_url)
    database.set_up(None)
    return database


@contextmanager
def app(database: Database, fake: FakeSequin, token: str = TOKEN) -> Iterator[httpx.Client]:
    """Serve the app on a free port in a thread, and yield a client."""
    with (
        SequinClient("http://sequin.example", token, transport=fake.transport, sleep=lambda _: None) as sequin,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        served = build_app(Subscriptions(database, sequin, KEY), origin)
        server = uvicorn.Server(uvicorn.Config(served, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=origin, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def server(database: Database, fake: FakeSequin) -> Iterator[httpx.Client]:
    with app(database, fake) as client:
        yield client


@pytest.fixture
def lonely_server(fake: FakeSequin) -> Iterator[httpx.Client]:
    """Yield a client of a server whose database is down, so that every response is the server's own."""
    with app(Database("postgresql://postgres@127.0.0.1:1/postgres"), fake) as client:
        yield client


def subscribe(server: httpx.Client, user_id: int = 1, url: str = URL) -> dict[str, Any]:
    answer = server.post("/subscribe", json={"userId": user_id, "webhookUrl": url})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def error_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    text: str = answer.json()["error"]
    return text


# --- what works ------------------------------------------------------------------------------------------------------------


def test_the_seeds_two_calls_as_they_stand(server: httpx.Client, fake: FakeSequin) -> None:
    headers = {"Content-Type": "application/json", "Host": f"localhost:{server.base_url.port}"}
    body = '{\n    "userId": 1,\n    "webhookUrl": "https://webhook.site/your-unique-url"\n  }'
    first = server.post("/subscribe", content=body, headers=headers)
    assert first.status_code == 200
    assert first.json() == {
        "message": "Webhook subscription created",
        "sinkId": fake.sinks["user-1-notifications"]["id"],
        "sinkName": "user-1-notifications",
        "userId": 1,
        "webhookUrl": URL,
        "secret": subscription_secret(KEY, 1, URL),
    }
    again = server.post("/subscribe", content=body, headers=headers)
    assert again.status_code == 200
    expected = {key: value for key, value in first.json().items() if key != "secret"}
    assert again.json() == {**expected, "message": "Webhook subscription exists already"}
    backfill = server.post("/backfill", content='{"sinkName": "user-1-notifications"}', headers=headers)
    assert backfill.status_code == 200
    assert set(backfill.json()) == {"message", "backfillId", "state"}
    assert backfill.json()["state"] == "active"
    assert list(fake.backfills) == [backfill.json()["backfillId"]]


def test_list_look_pause_resume_and_unsubscribe(server: httpx.Client, fake: FakeSequin) -> None:
    assert server.get("/subscriptions").json() == []
    made = subscribe(server)
    subscribe(server, 2)
    mine = {"sinkId": made["sinkId"], "sinkName": "user-1-notifications", "userId": 1, "webhookUrl": URL, "status": "active"}
    assert server.get("/subscriptions/user-1-notifications").json() == mine
    assert server.get("/subscriptions?userId=1").json() == [mine]
    assert [found["userId"] for found in server.get("/subscriptions").json()] == [1, 2]
    paused = server.patch("/subscriptions/user-1-notifications", json={"status": "paused"})
    assert (paused.status_code, paused.json()) == (200, {**mine, "status": "paused"})
    assert fake.sinks["user-1-notifications"]["status"] == "paused"
    assert server.patch("/subscriptions/user-1-notifications", json={"status": "active"}).json() == mine
    assert server.delete("/subscriptions/user-1-notifications").status_code == 200
    assert list(fake.sinks) == ["user-2-notifications"]
    assert list(fake.endpoints) == ["user-2-endpoint"]


def test_the_state_of_a_backfill(server: httpx.Client, fake: FakeSequin) -> None:
    subscribe(server)
    backfill_id = server.post("/backfill", json={"sinkName": "user-1-notifications", "userId": 1}).json()["backfillId"]
    fake.backfills[backfill_id].update(state="completed", rows_initial_count=303, rows_processed_count=302, rows_ingested_count=301)
    assert server.get(f"/backfills/user-1-notifications/{backfill_id}").json() == {
        "backfillId": backfill_id,
        "sinkName": "user-1-notifications",
        "state": "completed",
        "rowsInitialCount": 303,
        "rowsProcessedCount": 302,
        "rowsIngestedCount": 301,
    }


def test_health_and_openapi_and_no_page_that_loads_assets(lonely_server: httpx.Client) -> None:
    server = lonely_server
    assert server.get("/health").json() == {"ok": True}
    described = server.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/subscribe",
        "/backfill",
        "/subscriptions",
        "/subscriptions/{sink_name}",
        "/backfills/{sink_name}/{backfill_id}",
        "/health",
    }
    assert described["components"]["schemas"]["_Subscribe"]["required"] == ["userId", "webhookUrl"]
    assert "422" not in described["paths"]["/subscribe"]["post"]["responses"]
    assert "login session" in described["info"]["description"]
    for page in ("/docs", "/redoc"):
        error_of(server.get(page), 404)


# --- bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("", "body is empty"),
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ('"x"', "JSON object"),
        ("{}", "userId is missing"),
        ('{"webhookUrl": "http://x/"}', "userId is missing"),
        ('{"userId": 1}', "webhookUrl is missing"),
        ('{"userId": "1", "webhookUrl": "http://x/"}', "userId must be a whole number"),
        ('{"userId": 1.5, "webhookUrl": "http://x/"}', "userId must be a whole number"),
        ('{"userId": true, "webhookUrl": "http://x/"}', "userId must be a whole number"),
        ('{"userId": null, "webhookUrl": "http://x/"}', "userId must be a whole number"),
        ('{"userId": {}, "webhookUrl": "http://x/"}', "userId must be a whole number"),
        ('{"userId": 0, "webhookUrl": "http://x/"}', "userId must be a whole number"),
        ('{"userId": 1, "webhookUrl": null}', "webhookUrl must be a string containing a URL"),
        ('{"userId": 1, "webhookUrl": ["http://x/"]}', "webhookUrl must be a string containing a URL"),
        ('{"userId": 1, "webhookUrl": "not-a-url"}', "webhookUrl must begin with http:// or https://"),
        ('{"userId": 1, "webhookUrl": "http://x/\\u0000"}', "webhookUrl contains"),
        ('{"userId": 1, "webhookUrl": "http://\\ud800/"}', "webhookUrl contains"),
    ],
)
def test_a_bad_subscribe_is_400_names_the_field_and_makes_nothing(
    lonely_server: httpx.Client, fake: FakeSequin, body: str, names: str
) -> None:
    assert names in error_of(lonely_server.post("/subscribe", content=body, headers=JSON), 400)
    assert fake.calls == []


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b'{"userId": ' + b"9" * 5000 + b', "webhookUrl": "http://x/"}'])
def test_a_hostile_body_is_400(lonely_server: httpx.Client, body: bytes) -> None:
    assert error_of(lonely_server.post("/subscribe", content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "names"),
    [
        ("POST", "/backfill", {}, 400, "sinkName is missing"),
        ("POST", "/backfill", {"sinkName": 7}, 400, "sinkName must be"),
        ("POST", "/backfill", {"sinkName": ""}, 400, "sinkName must be"),
        ("POST", "/backfill", {"sinkName": "user-1-notifications", "userId": "1"}, 400, "userId must be"),
        ("POST", "/backfill", {"sinkName": "user-1-notifications", "userId": 2}, 403, "user 2"),
        ("POST", "/backfill", {"sinkName": "user-3-notifications"}, 404, "user-3-notifications"),
        ("POST", "/backfill", {"sinkName": "nope"}, 404, "nope"),
        ("POST", "/subscribe", {"userId": 99, "webhookUrl": URL}, 404, "no user 99"),
        ("GET", "/subscriptions?userId=99", None, 404, "no user 99"),
        ("GET", "/subscriptions?userId=x", None, 400, "userId must be"),
        ("GET", "/subscriptions?userId=", None, 400, "userId must be"),
        ("GET", "/subscriptions?userId=" + "9" * 5000, None, 400, "userId must be"),
        ("GET", "/subscriptions/nope", None, 404, "nope"),
        ("DELETE", "/subscriptions/user-3-notifications", None, 404, "user-3-notifications"),
        ("PATCH", "/subscriptions/user-3-notifications", {"status": "paused"}, 404, "user-3-notifications"),
        ("PATCH", "/subscriptions/user-1-notifications", {"status": "disabled"}, 400, "status must be"),
        ("PATCH", "/subscriptions/user-1-notifications", {"status": ["paused"]}, 400, "status must be"),
        ("PATCH", "/subscriptions/user-1-notifications", {}, 400, "status is missing"),
        ("GET", "/backfills/user-1-notifications/nope", None, 404, "no backfill"),
        ("GET", "/backfills/nope/nope", None, 404, "nope"),
        ("GET", "/nope", None, 404, "/openapi.json"),
        ("GET", "/subscribe", None, 405, "/openapi.json"),
    ],
)
def test_each_bad_call_has_its_status_and_words(
    server: httpx.Client, method: str, path: str, body: dict[str, Any] | None, status: int, names: str
) -> None:
    subscribe(server)
    assert names in error_of(server.request(method, path, json=body), status)


def test_a_second_backfill_while_one_runs(server: httpx.Client) -> None:
    subscribe(server)
    server.post("/backfill", json={"sinkName": "user-1-notifications"})
    assert "running already" in error_of(server.post("/backfill", json={"sinkName": "user-1-notifications"}), 502)


def test_sequin_refuses_the_token(database: Database, fake: FakeSequin) -> None:
    with app(database, fake, token="wrong") as server:
        text = error_of(server.post("/subscribe", json={"userId": 1, "webhookUrl": URL}), 502)
    assert "API token" in text
    assert "SEQUIN_API_TOKEN" in text
    assert database.subscriptions() == []


def test_sequin_is_down(server: httpx.Client, fake: FakeSequin, database: Database) -> None:
    def gone(request: httpx.Request, _answer: object) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    fake.fault = gone
    assert "Sequin at" in error_of(server.post("/subscribe", json={"userId": 1, "webhookUrl": URL}), 502)
    assert database.subscriptions() == []


def test_the_database_is_down(fake: FakeSequin) -> None:
    with app(Database(f"postgresql://postgres:hunter2@127.0.0.1:{free_port()}/postgres"), fake) as server:
        text = error_of(server.post("/subscribe", json={"userId": 1, "webhookUrl": URL}), 503)
    assert "is not available" in text
    assert "hunter2" not in text
    assert fake.calls == []


def test_the_database_is_not_set_up(database_url: str, fake: FakeSequin) -> None:
    with app(Database(database_url), fake) as server:
        assert "not set up" in error_of(server.post("/subscribe", json={"userId": 1, "webhookUrl": URL}), 503)


def test_a_fault_of_our_own_is_500_and_says_nothing_of_its_inside(server: httpx.Client, fake: FakeSequin) -> None:
    def bug(_request: httpx.Request, _answer: object) -> httpx.Response:
        raise RuntimeError("hunter2")

    fake.fault = bug
    assert "hunter2" not in error_of(server.post("/subscribe", json={"userId": 1, "webhookUrl": URL}), 500)


# --- access control --------------------------------------------------------------------------------------------------------


def test_web_pages_of_other_origins_are_kept_out(lonely_server: httpx.Client, fake: FakeSequin) -> None:
    server = lonely_server
    body = json.dumps({"userId": 1, "webhookUrl": URL})
    error_of(server.post("/subscribe", content=body, headers={**JSON, "host": f"evil.example:{server.base_url.port}"}), 403)
    error_of(server.post("/subscribe", content=body, headers={**JSON, "origin": "http://evil.example"}), 403)
    error_of(server.post("/subscribe", content=body, headers={"content-type": "text/plain"}), 415)
    error_of(server.post("/subscribe", content=body), 415)
    error_of(server.get("/openapi.json", headers={"host": "evil.example"}), 403)
    assert fake.calls == []


# --- the program -----------------------------------------------------------------------------------------------------------


@contextmanager
def program(**config: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "userhooks.webhooks.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    fixed = {"sequin_api_token": TOKEN, "sequin_database": "postgres", "home_key": KEY.hex(), "allow_private": True}
    process.stdin.write(json.dumps({**fixed, **config}) + "\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_program_serves_logs_the_ids_and_ends_with_its_parent(database_url: str, database: Database, fake: FakeSequin) -> None:
    port = free_port()
    with serving(fake) as sequin_url, program(port=port, database_url=database_url, sequin_url=sequin_url) as process:
        eventually(lambda: is_up(port), within=20, what="the server to answer")
        body = {"userId": 1, "webhookUrl": URL}
        answer = httpx.post(f"http://localhost:{port}/subscribe", json=body, trust_env=False).json()
        _, text = process.communicate(timeout=10)  # closes its stdin
        assert process.returncode == 0
    assert f"Created HTTP endpoint user-1-endpoint (id {fake.endpoints['user-1-endpoint']['id']})" in text
    assert f"Created sink user-1-notifications (id {answer['sinkId']})" in text
    assert answer["secret"] not in text
    assert TOKEN not in text
    assert str(psycopg.conninfo.conninfo_to_dict(database_url)["password"]) not in text


def test_the_program_ends_on_sigterm(database_url: str) -> None:
    port = free_port()
    with program(port=port, database_url=database_url, sequin_url="http://127.0.0.1:9") as process:
        eventually(lambda: is_up(port), within=20, what="the server to answer")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 0


def test_a_port_in_use_is_one_line_that_names_port_and_variable(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with program(port=port, database_url=database_url, sequin_url="http://127.0.0.1:9") as process:
            lines = process.communicate(timeout=20)[1].splitlines()
            assert process.returncode == 2
    assert len(lines) == 1
    assert str(port) in lines[0]
    assert "USERHOOKS_SERVER_PORT" in lines[0]
