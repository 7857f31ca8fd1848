"""The lessons against the stand-in for a real Sequin (`tests/real_like`): each on a new home, and all ten in a row, twice, on one home.

Lessons mostly wait, so the row and a few single lessons run side by side in the background. Each test then waits for its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.conftest import throw_away_postgres
from tests.notebooks.strictly import LESSONS, differences
from tests.real_like.server import IN_SEQUIN, ApiChange, api_changes, installation_on, real_like_server

PACE = 0.05
"""Fraction of a real server's waits: a health metric that is refreshed every three seconds, retries looked at every half second."""
MOST_SINKS = 12
"""Sinks that lessons may have at any time on a server that belongs to somebody else."""
AT_ONCE = 3
"""Homes on which lessons run at the same time."""
RUNS: Mapping[str, Sequence[Sequence[Path]]] = {"ten in a row, twice": [LESSONS, LESSONS], **{path.stem: [[path]] for path in LESSONS}}
"""By name, the lessons that run on one home, in rounds; the longest run first."""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[list[ApiChange]]]]:
    """Start the runs that the chosen tests need, and yield them by name; the result is how the API was called."""
    chosen = {item.callspec.params["run"] for item in request.session.items if item.fspath == request.fspath}
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {name: pool.submit(take, name, tmp_path_factory.mktemp("lessons")) for name in RUNS if name in chosen}
    pool.shutdown(cancel_futures=True)


def take(run: str, folder: Path) -> list[ApiChange]:
    """Run the lessons on a new home, a new Postgres and a new stand-in, under the strict comparison."""
    with (
        throw_away_postgres() as postgres,
        real_like_server(postgres.url(), folder, pace=PACE) as server,
        installation_on(server, postgres.url(), folder / "home") as installation,
    ):
        installation.succeed("up", "--detach")
        status = installation.status()
        assert status["mode"] == "sequin"
        assert status["postgres"]["pid"] is status["sequin"]["pid"] is None
        for lessons in RUNS[run]:
            different = differences(lessons, installation.environment)
            assert not different, different
            assert published_schemas(postgres.url()) == {"public"}
        return api_changes(server)


def published_schemas(database_url: str) -> set[str]:
    """The schemas of the tables whose changes the server reads."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT schemaname FROM pg_publication_tables WHERE pubname = %s", [IN_SEQUIN["publication"]["name"]])
        return {schema for (schema,) in found}


@pytest.mark.parametrize("run", RUNS)
def test_lessons_pass_strictly_with_few_sinks_at_any_time(runs: Mapping[str, Future[list[ApiChange]]], run: str) -> None:
    assert max(change.sinks for change in runs[run].result()) <= MOST_SINKS


@pytest.mark.parametrize("run", ["08_many_users"])
def test_a_lesson_that_measures_updates_no_sink(runs: Mapping[str, Future[list[ApiChange]]], run: str) -> None:
    changes = runs[run].result()
    assert {change.method for change in changes} == {"POST", "DELETE"}
    assert max(change.sinks for change in changes) == 10 + 1  # the crowd, and Ada
