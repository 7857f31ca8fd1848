"""Programs that a notebook starts do not import files from the notebook's folder."""

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
    """A working directory with files that are named like modules and record being imported."""
    folder = tmp_path / "beside"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r} + ' ')\nraise SystemExit(1)\n")
    monkeypatch.chdir(folder)
    # An empty entry, as `export PYTHONPATH=/somewhere:$PYTHONPATH` may leave it, means the working directory.
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
    """This covers the supervisor's programs and JupyterLab, which would take too long to start here."""
    for path in PACKAGE.rglob("*.py"):
        uses = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute) and node.attr == "executable"]
        assert not uses or path.name == "python_command.py", path
