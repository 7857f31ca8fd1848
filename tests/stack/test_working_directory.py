"""Files that lie beside a notebook are not imported by the programs that a notebook starts."""

from __future__ import annotations

import ast
import os
import secrets
from pathlib import Path

import pytest

from tests.ports import free_port
from userhooks.capacity.counting_receiver import CountingReceiver
from userhooks.ledger.recording import Recording
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

PACKAGE = Path(__file__).parents[2] / "userhooks"
NAMES = ("asyncio", "httptools", "json", "orjson", "psutil", "psycopg", "select", "userhooks")


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with files named like modules, which say there that they were imported."""
    folder = tmp_path / "beside"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r} + ' ')\nraise SystemExit(1)\n")
    monkeypatch.chdir(folder)
    # As `export PYTHONPATH=/somewhere:$PYTHONPATH` leaves it: an empty entry is the working directory.
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") + os.pathsep)
    return folder


def test_the_ledgers_recorder_imports_nothing_from_the_working_directory(beside: Path, database_url: str) -> None:
    Database(database_url).set_up("test_pub")
    recording = Recording(database_url, "test_pub")
    assert recording.changes() == []
    recording.close()
    assert not (beside / "imported").exists()


def test_the_counting_receiver_imports_nothing_from_the_working_directory(beside: Path) -> None:
    with CountingReceiver() as counter:
        assert counter.count().messages == 0
    assert not (beside / "imported").exists()


def test_the_watchdog_of_postgres_imports_nothing_from_the_working_directory(beside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    server = PostgresServer(folder, port=free_port(), password=secrets.token_hex(16), log=folder / "postgres.log")
    try:
        server.start()
    finally:
        server.remove()
    assert not (beside / "imported").exists()


def test_programs_are_started_in_one_way() -> None:
    """The supervisor's programs and JupyterLab are among them; to start each of them here would take long."""
    for path in PACKAGE.rglob("*.py"):
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute) and node.attr == "executable"]
        assert not found or path.name == "python_command.py", path
