"""The start page of the lessons: what it says about each of them, and where its links lead."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from userhooks.lessons.start_page import LessonFacts, RunningPart, lesson_facts, start_page

PATHS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LESSON = LessonFacts("01_first.ipynb", "01", "First", 10, ("insert a | b", "read it", "a third thing"))
INSPECTOR = RunningPart("inspector", "receives webhooks", "http://127.0.0.1:3334", "http://127.0.0.1:3334/?token=signed")
POSTGRES = RunningPart("Postgres", "the app's database", "postgresql://127.0.0.1:5433/app")


def facts(text: str) -> LessonFacts:
    return lesson_facts("03_backfill.ipynb", {"cells": [{"cell_type": "markdown", "source": text}]})


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_every_lesson_states_its_title_its_time_and_its_goals(path: Path) -> None:
    lesson = lesson_facts(path.name, json.loads(path.read_text(encoding="utf-8")))
    assert lesson.number == path.name[:2]
    assert lesson.title
    assert 5 <= (lesson.minutes or 0) <= 30
    assert len(lesson.goals) >= 3


@pytest.mark.parametrize(("stated", "minutes"), [("fifteen", 15), ("20", 20), ("twenty-five", 25), ("a few", None)])
def test_the_time_is_stated_in_words_or_digits(stated: str, minutes: int | None) -> None:
    assert facts(f"# 03 · Backfill\n\nWhen you are through (about\n{stated} minutes) you can").minutes == minutes


def test_a_goal_is_one_line_without_its_punctuation() -> None:
    assert facts("# 03 · Backfill\n\n- send a\n  history,\n- tell it.\n\nText").goals == ("send a history", "tell it")


def test_the_page_shows_lessons_and_programs_and_the_way_to_start_again() -> None:
    page = start_page([LESSON, LESSON], [INSPECTOR, POSTGRES])
    assert "[Start with lesson 01: First](01_first.ipynb)" in page
    assert re.search(r"^\| 01 \| \[First\]\(01_first\.ipynb\) \| 10.min \| insert a \\\| b; read it \|$", page, re.MULTILINE)
    assert "about 20 minutes" in page
    assert "[inspector](http://127.0.0.1:3334/?token=signed)" in page
    assert "`postgresql://127.0.0.1:5433/app`" in page
    assert "userhooks lessons reset 01" in page
    assert "Run All Cells" in page, "how the panels of a saved lesson come back"


def test_commands_for_a_terminal_are_written_with_the_path_of_the_program() -> None:
    page = start_page([LESSON], [INSPECTOR], program="/home/ada/.venv/bin/userhooks")
    commands = re.findall(r"`([^`]*userhooks [a-z ]+\d*)`", page)
    assert len(commands) == 3
    assert all(command.startswith("/home/ada/.venv/bin/userhooks ") for command in commands)


def test_the_page_offers_no_link_to_a_program_without_one() -> None:
    assert "open beside it" not in start_page([LESSON], [POSTGRES])


def test_long_courses_are_measured_in_hours() -> None:
    assert "about 2½ hours" in start_page([LESSON] * 14, [])
    assert "about 1 hour." in start_page([LESSON] * 6, [])
