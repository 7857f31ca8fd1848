"""The main job with the real programs: subscribe over HTTP, commit rows, and each user's own rows arrive at a plain HTTP receiver."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.ports import free_port
from tests.waiting import eventually
from userhooks.errors import InvalidInput, NotFound, SequinInvalid
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.subscription_secret import subscription_secret
from userhooks.webhooks.subscriptions import FUNCTION_NAME, Subscriptions

KEY = bytes(range(32))
PUBLICATION = "app_pub"


class Receiver:
    """An HTTP server that records the path, the Authorization header, and the body of each request."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str | None, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for message in body["data"]:
                    outer.got.append((self.path, self.headers["authorization"], message))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def at(self, path: str) -> list[tuple[str, str]]:
        """Return the (action, message text) pairs received at this path, in order of arrival."""
        return [(message["action"], message["record"]["message"]) for where, _, message in list(self.got) if where == path]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def database(database_url: str) -> Database:
    database = Database(database_url)
    database.set_up(PUBLICATION)
    return database


@pytest.fixture
def engine(database_url: str, database: Database, tmp_path: Path) -> Iterator[EngineProgram]:
    program = EngineProgram(database_url, tmp_path, publication=PUBLICATION).start()
    yield program
    program.stop()


@pytest.fixture
def sequin(engine: EngineProgram) -> Iterator[SequinClient]:
    with SequinClient(engine.url, engine.token) as sequin:
        yield sequin


@pytest.fixture
def subscriptions(database: Database, sequin: SequinClient) -> Subscriptions:
    return Subscriptions(database, sequin, KEY)


@pytest.fixture
def server(database_url: str, engine: EngineProgram) -> Iterator[httpx.Client]:
    port = free_port()
    config = {
        "port": port,
        "database_url": database_url,
        "sequin_url": engine.url,
        "sequin_api_token": engine.token,
        "sequin_database": "postgres",
        "home_key": KEY.hex(),
        "allow_private": True,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "userhooks.webhooks.server"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin
    process.stdin.write(json.dumps(config) + "\n")
    process.stdin.flush()
    with httpx.Client(base_url=f"http://localhost:{port}", trust_env=False, timeout=20) as client:

        def answers() -> bool:
            try:
                return client.get("/health").is_success
            except httpx.TransportError:
                return False

        try:
            eventually(answers, within=20, what="the server to answer")
            yield client
        finally:
            log = process.communicate(timeout=10)[1]
            assert process.returncode == 0, log


def test_each_user_gets_the_users_own_rows_and_a_backfill_gets_them_all(
    server: httpx.Client, database: Database, receiver: Receiver
) -> None:
    database.insert_notifications([(1, "before 1"), (2, "before 2")])
    secrets = {}
    for user in (1, 2):
        answer = server.post("/subscribe", json={"userId": user, "webhookUrl": f"{receiver.url}/{user}"})
        assert answer.status_code == 200, answer.text
        secrets[f"/{user}"] = answer.json()["secret"]
        assert answer.json()["secret"] == subscription_secret(KEY, user, f"{receiver.url}/{user}")
        assert answer.json()["sinkName"] == f"user-{user}-notifications"
    again = server.post("/subscribe", json={"userId": 1, "webhookUrl": f"{receiver.url}/1"})
    assert "secret" not in again.json()
    database.insert_notifications([(user, f"row {number} of {user}") for number in range(10) for user in (1, 2, 3)])
    eventually(lambda: len(receiver.got) >= 20, what="20 webhooks")
    for user in (1, 2):
        assert sorted(receiver.at(f"/{user}")) == [("insert", f"row {number} of {user}") for number in range(10)]
    assert {(path, f"Bearer {secrets[path]}") for path in secrets} == {(path, header) for path, header, _ in receiver.got}

    receiver.got.clear()
    backfill = server.post("/backfill", json={"sinkName": "user-1-notifications", "userId": 1})
    assert backfill.status_code == 200, backfill.text
    where = f"/backfills/user-1-notifications/{backfill.json()['backfillId']}"
    eventually(lambda: server.get(where).json()["state"] == "completed", within=30, what="the backfill to complete")
    eventually(lambda: len(receiver.got) >= 11, what="11 reads")
    assert sorted(receiver.at("/1")) == sorted([("read", "before 1"), *(("read", f"row {number} of 1") for number in range(10))])
    assert receiver.at("/2") == []


def test_deletes_arrive_and_a_row_that_changes_hands_reaches_neither_user(
    subscriptions: Subscriptions, database: Database, database_url: str, receiver: Receiver
) -> None:
    for user in (1, 2):
        subscriptions.subscribe(user, f"{receiver.url}/{user}")
    database.insert_notifications([(1, "a"), (1, "b")])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update notifications set message = 'a2' where message = 'a'")
        connection.execute("update notifications set user_id = 2 where message = 'b'")
        connection.execute("delete from notifications where message = 'a2'")
    database.insert_notifications([(2, "the end")])
    eventually(lambda: ("insert", "the end") in receiver.at("/2"), what="the last row")
    eventually(lambda: len(receiver.at("/1")) >= 4, what="four changes of user 1")
    assert sorted(receiver.at("/1")) == [("delete", "a2"), ("insert", "a"), ("insert", "b"), ("update", "a2")]
    assert receiver.at("/2") == [("insert", "the end")]


def test_pause_collects_resume_sends_and_unsubscribe_ends(
    subscriptions: Subscriptions, sequin: SequinClient, database: Database, receiver: Receiver
) -> None:
    name = subscriptions.subscribe(1, f"{receiver.url}/1").sink_name
    assert subscriptions.pause(name).status == "paused"
    subscriptions.subscribe(2, f"{receiver.url}/2")
    database.insert_notifications([(1, "while paused"), (2, "meanwhile")])
    eventually(lambda: receiver.at("/2"), what="the other user's webhook")
    assert receiver.at("/1") == []
    assert subscriptions.resume(name).status == "active"
    eventually(lambda: receiver.at("/1") == [("insert", "while paused")], what="what was collected")
    subscriptions.unsubscribe(name)
    assert [sink.name for sink in sequin.sinks()] == ["user-2-notifications"]
    assert [endpoint.name for endpoint in sequin.endpoints()] == ["user-2-endpoint"]
    with pytest.raises(NotFound):
        subscriptions.unsubscribe(name)
    database.insert_notifications([(1, "nobody asked"), (2, "later")])
    eventually(lambda: ("insert", "later") in receiver.at("/2"), what="the other user's webhook")
    assert receiver.at("/1") == [("insert", "while paused")]


def test_the_client_reads_what_the_engine_says(
    subscriptions: Subscriptions, sequin: SequinClient, database: Database, receiver: Receiver
) -> None:
    assert sequin.health().ok
    assert sequin.version() == sequin.health().version
    sequin.test_connection()
    made = subscriptions.subscribe(1, f"{receiver.url}/1")
    function = sequin.functions()[FUNCTION_NAME]
    assert function.type == "filter"
    assert not sequin.ensure_function(function.name, function.type, function.code)
    sink = sequin.sink(made.sink_id)
    assert (sink.name, sink.filter, sink.annotations, sink.include_tables) == (
        made.sink_name,
        FUNCTION_NAME,
        {"user_id": "1"},
        ("public.notifications",),
    )
    subscriptions.pause(made.sink_name)
    database.insert_notifications([(1, "a row")])
    handle = subscriptions.backfill(made.sink_name)
    with pytest.raises(SequinInvalid, match="running already"):
        subscriptions.backfill(made.sink_name)
    assert handle.cancel().state == "cancelled"


def test_what_the_client_lets_through_the_engine_takes(subscriptions: Subscriptions, sequin: SequinClient) -> None:
    urls = [
        "HTTP://LocalHost:80/a",
        "https://example.com:443",
        "http://example.com/a%20b?c=d&e=[x]#frag",
        "http://example.com?q",
        "http://x.y-z/;,@!",
    ]
    for url in urls:
        made = subscriptions.subscribe(3, url)
        assert made.created, url
        again = subscriptions.subscribe(3, url)
        assert (again.sink_id, again.created) == (made.sink_id, False)
    assert len(sequin.sinks()) == len(sequin.endpoints()) == len(urls)
    with pytest.raises(InvalidInput):
        subscriptions.subscribe(3, "http://under_score/")
