"""Fixtures that many tests share: a real Postgres server for the session, a fresh database in it for each test, and a receiver."""

from __future__ import annotations

import functools
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, settings

from tests.databases import Databases
from tests.engine_program import EngineProgram
from tests.ports import free_port
from tests.receiver import Receiver
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

PUBLICATION = "test_pub"

# Tests and the programs they start must not use settings that the shell has for another Postgres server.
for _variable in [name for name in os.environ if name.startswith("PG")]:
    del os.environ[_variable]

# Each httpx.get loads the root certificates anew, which takes longer than the answer of a program on this machine. Tests poll a lot.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)

# No deadlines: these tests do not measure time, and the machine may be busy.
settings.register_profile("userhooks", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("userhooks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the two files that take longest, so that other workers run the rest meanwhile."""
    items.sort(key=lambda item: item.path.name not in ("test_real_like.py", "test_strictly.py"))


@contextmanager
def throw_away_postgres() -> Iterator[PostgresServer]:
    """Run a Postgres server and remove all of its files afterward, including the system folder that root uses."""
    with tempfile.TemporaryDirectory(prefix="userhooks-tests-") as folder:
        server = PostgresServer(Path(folder), port=free_port(), password=secrets.token_hex(16), log=Path(folder) / "postgres.log")
        try:
            server.start()
            yield server
        finally:
            server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Return the Postgres server that all tests of a session share."""
    with throw_away_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Databases:
    """The databases of the session's server."""
    return Databases(postgres_server)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """Return the URL of an empty database that is only this test's; replication slots left in it are dropped afterward."""
    url = databases.lend()
    yield url
    databases.take_back(url)


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a fresh database with the example's tables, users 1 to 3, and a publication."""
    Database(database_url).set_up(PUBLICATION)
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def engine(database_url: str, database: psycopg.Connection[Any], tmp_path: Path) -> Iterator[EngineProgram]:
    """A running engine on `database`."""
    program = EngineProgram(database_url, tmp_path, publication=PUBLICATION).start()
    yield program
    program.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a webhook receiver that answers 200 unless a test sets its script."""
    receiver = Receiver()
    yield receiver
    receiver.close()
    receiver.requests.clear()  # its handler class refers to it, and collecting this cycle of up to 200 MB may take long
