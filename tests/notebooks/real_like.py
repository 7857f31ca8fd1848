"""Run lessons under the strict comparison against the stand-in for a real Sequin (`tests/real_like`).

    python -m tests.notebooks.real_like  # each lesson on a new home of its own

`test_real_like.py` runs all of them in a row on one home.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from tests.conftest import throw_away_postgres
from tests.notebooks.strictly import LESSONS, differences
from tests.real_like.server import IN_SEQUIN, ApiChange, api_changes, installation_on, real_like_server

PACE = 0.05
"""Fraction of a real server's waits: a health metric that is refreshed every three seconds, retries looked at every half second."""
MOST_SINKS = 12
"""Sinks that lessons may have at any time on a server that belongs to somebody else."""


def main() -> int:
    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(alone, LESSONS))
    return 0 if all(passed) else 1


def alone(lesson: Path) -> bool:
    """Run a lesson on a new home and print the outcome; whether it passed with few sinks."""
    try:
        with tempfile.TemporaryDirectory(prefix="userhooks-tests-") as folder:
            sinks = max(change.sinks for change in run([[lesson]], Path(folder)))
    except AssertionError as error:
        print(f"{lesson.stem} differs: {error}", flush=True)
        return False
    print(f"{lesson.stem} passes, with at most {sinks} sinks; {MOST_SINKS} are allowed", flush=True)
    return sinks <= MOST_SINKS


def run(rounds: Sequence[Sequence[Path]], folder: Path) -> list[ApiChange]:
    """Run lessons, round by round, on a new home, a new Postgres, and a new stand-in; return how the API was called.

    Raises AssertionError with the report if a lesson shows something else than what is stored.
    """
    with (
        throw_away_postgres() as postgres,
        real_like_server(postgres.url(), folder, pace=PACE) as server,
        installation_on(server, postgres.url(), folder / "home") as installation,
    ):
        installation.succeed("up", "--detach")
        status = installation.status()
        assert status["mode"] == "sequin"
        assert status["postgres"]["pid"] is status["sequin"]["pid"] is None
        for lessons in rounds:
            different = differences(lessons, installation.environment)
            assert not different, different
            assert _published_schemas(postgres.url()) == {"public"}
        return api_changes(server)


def _published_schemas(database_url: str) -> set[str]:
    """Return the schemas of the tables whose changes the server reads."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT schemaname FROM pg_publication_tables WHERE pubname = %s", [IN_SEQUIN["publication"]["name"]])
        return {schema for (schema,) in rows}


if __name__ == "__main__":
    sys.exit(main())
