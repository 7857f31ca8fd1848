"""The lessons against the stand-in for a real Sequin, which takes its time and has other habits than the engine (`tests/real_like`)."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.notebooks.test_real_sequin import run
from tests.real_like.server import IN_SEQUIN, installation_on, real_like_server

PACE = 0.1
"""Of a real server's waits: a health metric that is refreshed every six seconds, retries looked at every second."""
MOST_SINKS = 12
"""On a server that belongs to somebody else."""


@pytest.mark.parametrize("lessons", [("01", "02", "03", "04", "05"), ("06", "07", "08", "09", "10")], ids=["first half", "second half"])
def test_lessons_pass_strictly_in_a_row_on_one_home_and_leave_few_sinks(
    database_url: str, tmp_path: Path, lessons: tuple[str, ...]
) -> None:
    with (
        real_like_server(database_url, tmp_path, pace=PACE) as server,
        installation_on(server, database_url, tmp_path / "home") as installation,
    ):
        installation.succeed("up", "--detach")
        for lesson in lessons:
            run(installation, lesson)
        assert len(server.ask("GET", "/api/sinks")["data"]) <= MOST_SINKS
        with psycopg.connect(database_url) as connection:
            published = connection.execute(
                "SELECT schemaname FROM pg_publication_tables WHERE pubname = %s", [IN_SEQUIN["publication"]["name"]]
            )
            assert {schema for (schema,) in published} == {"public"}
