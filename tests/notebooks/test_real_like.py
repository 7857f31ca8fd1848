"""The lessons against the stand-in for a real Sequin (`tests/real_like`): in a row, twice, on one home, and the one that measures alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.notebooks.real_like import MOST_SINKS, run
from tests.notebooks.strictly import FOLDER, LESSONS
from tests.real_like.server import ApiChange

MEASURES = FOLDER / "08_many_users.ipynb"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[list[ApiChange]]]:
    """Run the lesson that measures on a home of its own, beside the row: lessons mostly wait."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run, [[MEASURES]], tmp_path_factory.mktemp("alone"))


def test_all_lessons_pass_strictly_in_a_row_twice_with_few_sinks_at_any_time(tmp_path: Path, alone: Future[list[ApiChange]]) -> None:
    seed = random.randrange(10**6)
    print(f"Seed {seed}")
    first = random.Random(seed).randrange(len(LESSONS))  # any lesson may be the first on a new home
    changes = run([LESSONS[first:] + LESSONS[:first], LESSONS], tmp_path)
    assert max(change.sinks for change in changes) <= MOST_SINKS


def test_a_lesson_that_measures_updates_no_sink(alone: Future[list[ApiChange]]) -> None:
    changes = alone.result()
    assert {change.method for change in changes} == {"POST", "DELETE"}
    assert max(change.sinks for change in changes) == 10 + 1  # the crowd, and Ada
