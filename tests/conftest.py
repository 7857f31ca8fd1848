"""Fixtures that many tests share: a real Postgres server for the session, a fresh database in it for each test, and a receiver."""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from tests.engine_program import EngineProgram
from tests.ports import free_port
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

PUBLICATION = "test_pub"
_numbers = itertools.count(1)

# Tests and the programs they start must not use settings that the shell has for another Postgres server.
for _variable in [name for name in os.environ if name.startswith("PG")]:
    del os.environ[_variable]

# No deadlines: these tests do not measure time, and the machine may be busy.
settings.register_profile("userhooks", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("userhooks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the file that takes longest and mostly waits, so that other workers run the rest meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_real_like.py")


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


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Return the URL of a new, empty database; it is dropped afterward, along with any replication slots left in it."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres_server.url(name)
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        _drop_slots(admin, name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


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


def _drop_slots(admin: psycopg.Connection, database: str) -> None:
    """Drop every slot of the database, first terminating the backends that use one."""
    in_database = "FROM pg_replication_slots WHERE database = %s"

    def none_active() -> bool:
        return not admin.execute(f"SELECT pg_terminate_backend(active_pid) {in_database} AND active", [database]).fetchall()

    eventually(none_active, what=f"the slots of {database} to become inactive")
    admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {in_database}", [database])
