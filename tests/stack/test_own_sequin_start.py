"""`userhooks up` with a separate Sequin server: with a wrong URL, token, or database it fails and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.engine_program import EngineProgram
from tests.fake_sequin import TOKEN, FakeSequin
from tests.http_sequin import serving
from tests.ports import free_port
from tests.real_like.server import IN_SEQUIN, real_like_server
from tests.stack.conftest import Installation

Install = Callable[..., Installation]


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[EngineProgram]:
    with real_like_server(database_url, tmp_path, pace=0.01) as server:
        yield server


def refused(installation: Installation) -> str:
    """Run `up`, which must fail, and return its error. Check that no process is running and no table was created."""
    error = installation.fail("up", "--detach")
    assert installation.processes() == []
    assert installation.home.running() is None
    with psycopg.connect(installation.settings.database_url or "") as connection:
        assert connection.execute("select to_regclass('public.notifications')").fetchall() == [(None,)]
    return error


def test_a_wrong_token_wrong_name_or_another_accounts_token_end_the_start(
    install: Install, database_url: str, server: EngineProgram
) -> None:
    own = install(DATABASE_URL=database_url, SEQUIN_URL=server.url, SEQUIN_API_TOKEN="wrong")
    error = refused(own)
    assert "Sequin refused the API token." in error
    assert "Set SEQUIN_API_TOKEN" in error

    own.environment.update(SEQUIN_API_TOKEN=server.token, SEQUIN_DATABASE="other")
    error = refused(own)
    assert "other" in error
    assert "SEQUIN_DATABASE" in error
    assert "account" in error

    del own.environment["SEQUIN_DATABASE"]
    assert "ready" in own.succeed("up", "--detach")


def test_a_database_that_sequin_does_not_read_ends_the_start(install: Install, database_url: str, server: EngineProgram) -> None:
    other = "read_by_nobody"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(other)))
        try:
            there = make_conninfo(database_url, dbname=other)
            error = refused(install(DATABASE_URL=there, SEQUIN_URL=server.url, SEQUIN_API_TOKEN=server.token))
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(other)))
    assert IN_SEQUIN["slot"]["name"] in error
    assert "DATABASE_URL" in error


def test_a_server_that_is_down_ends_the_start(install: Install, database_url: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    error = refused(install(DATABASE_URL=database_url, SEQUIN_URL=url, SEQUIN_API_TOKEN="x"))
    assert url in error
    assert "SEQUIN_URL" in error
    assert "userhooks up" not in error


@contextmanager
def web_server() -> Iterator[str]:
    """Run a web server that is not Sequin and answers every path with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<h1>Welcome</h1>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_is_not_sequin_ends_the_start(install: Install, database_url: str) -> None:
    with web_server() as url:
        error = refused(install(DATABASE_URL=database_url, SEQUIN_URL=url, SEQUIN_API_TOKEN="x"))
    assert "not Sequin's" in error
    assert "SEQUIN_URL" in error


def test_status_shows_a_separate_sequin_and_a_revoked_token_is_said_by_up_on_a_running_stack_which_goes_on(
    install: Install, database_url: str, server: EngineProgram
) -> None:
    own = install(DATABASE_URL=database_url, SEQUIN_URL=server.url, SEQUIN_API_TOKEN=server.token)
    own.succeed("up", "--detach")
    assert "Sequin v0.14.6; our sinks: none; the slot sequin_slot is " in own.succeed("status")
    own.succeed("subscribe", "1", "http://127.0.0.1:9/")
    assert "our sinks: 1 active; the slot" in own.succeed("status")
    before = own.pids()
    server.stop()
    assert server.url in own.fail("up", "--detach")
    assert own.pids() == before
    server.token = server.config["api_token"] = "another"
    server.start(module=("-m", "tests.real_like.program"))
    assert "Sequin refused the API token." in own.fail("up", "--detach")
    assert own.pids() == before


def test_up_says_how_to_make_the_slot_that_sequin_lacks_and_starts_nothing(install: Callable[..., Installation], database_url: str) -> None:
    fake = FakeSequin()
    fake.slot_is_there = False
    with serving(fake) as url:
        installation = install(DATABASE_URL=database_url, SEQUIN_URL=url, SEQUIN_API_TOKEN=TOKEN)
        assert "pg_create_logical_replication_slot('sequin_slot'" in installation.fail("up", "--detach")
        assert installation.home.running() is None
