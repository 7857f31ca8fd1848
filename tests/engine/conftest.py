"""A running engine on a database with the example's tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.engine_program import EngineProgram
from userhooks.webhooks.database import Database

PUBLICATION = "test_pub"


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a fresh database with the example's tables, users 1 to 3 and a publication."""
    Database(database_url).set_up(PUBLICATION)
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def engine(database_url: str, database: psycopg.Connection[Any], tmp_path: Path) -> Iterator[EngineProgram]:
    program = EngineProgram(database_url, tmp_path, publication=PUBLICATION).start()
    yield program
    program.stop()
