"""Notebooks against a Sequin that they reach by variables alone, as README and lesson 10 say; nothing of the stack is the embedded one.

What plays the real Sequin is an engine of its own, on a database of its own that was prepared by what `sequin.yaml` says.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psycopg
import pytest
import yaml
from nbclient import NotebookClient

from tests.engine_program import EngineProgram
from tests.notebooks.normalise import SOLUTION
from tests.notebooks.strictly import COMMAND, FOLDER
from tests.stack.conftest import Installation

IN_SEQUIN: dict[str, Any] = yaml.safe_load((FOLDER.parent / "sequin.yaml").read_text(encoding="utf-8"))["databases"][0]


@pytest.fixture
def elsewhere(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation whose Sequin and database are somebody else's, by the variables of the README."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(IN_SEQUIN["publication"]["init_sql"].encode())
    engine = EngineProgram(
        database_url,
        tmp_path,
        publication=IN_SEQUIN["publication"]["name"],
        slot=IN_SEQUIN["slot"]["name"],
        database_name=IN_SEQUIN["name"],
        retry_base=1.0,
    ).start()
    installation = Installation(
        tmp_path / "home",
        DATABASE_URL=database_url,
        SEQUIN_URL=engine.url,
        SEQUIN_API_TOKEN=engine.token,
        SEQUIN_METRICS_URL=f"http://127.0.0.1:{engine.config['metrics_port']}/metrics",
    )
    try:
        yield installation
    finally:
        installation.remove()
        engine.stop()


def test_lessons_run_against_a_sequin_elsewhere_and_leave_no_table_behind(elsewhere: Installation, database_url: str) -> None:
    elsewhere.succeed("up", "--detach")
    status = elsewhere.status()
    assert status["mode"] == "sequin"
    assert status["postgres"]["pid"] is status["sequin"]["pid"] is None
    run(elsewhere, "01", "06", "10")
    assert elsewhere.status()["mode"] == "sequin"
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT schemaname FROM pg_publication_tables WHERE pubname = %s", [IN_SEQUIN["publication"]["name"]])
        assert {schema for (schema,) in found} == {"public"}


def test_the_lesson_that_kills_leaves_a_sequin_elsewhere_alone_and_ends_well(elsewhere: Installation) -> None:
    elsewhere.succeed("up", "--detach")
    path = next(FOLDER.glob("05_*.ipynb"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute(env=elsewhere.environment)
    [solution] = [cell for cell in notebook.cells if SOLUTION in cell.metadata.get("tags", [])]
    assert "".join(output.text for output in solution.outputs) == "arrived: Back again | lost: 0\n"


def run(installation: Installation, *lessons: str) -> None:
    """Run these lessons under the strict comparison, in one process."""
    paths = [str(path) for path in sorted(FOLDER.glob("*.ipynb")) if path.stem[:2] in lessons]
    assert len(paths) == len(lessons)
    done = subprocess.run([*COMMAND, *paths], env=installation.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
