"""The start page of the lessons, as Markdown: the course, what runs, and how to start a lesson again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userhooks.lessons.reader_copy import source_of

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_MINUTES = {word: number for number, word in enumerate(_NUMBERS.split())} | {"twenty": 20, "twenty-five": 25, "thirty": 30}

_SHOWN_GOALS = 2


@dataclass(frozen=True)
class LessonFacts:
    """What the first cell of a lesson says: its number, title, duration in minutes if stated, and what the reader will be able to do."""

    file: str
    number: str
    title: str
    minutes: int | None
    goals: tuple[str, ...]


@dataclass(frozen=True)
class RunningPart:
    """A program that runs for the lessons; `link` opens its page and signs the browser in."""

    name: str
    role: str
    address: str
    link: str | None = None


def lesson_facts(file: str, notebook: Mapping[str, Any]) -> LessonFacts:
    """Read a lesson's facts from its first cell."""
    text = source_of(notebook["cells"][0])
    heading = text.partition("\n")[0].removeprefix("# ")
    number, _, title = heading.partition(" · ")
    stated = re.search(r"\babout\s+([a-z-]+|\d+)\s+minutes\b", text)
    minutes = None if stated is None else _MINUTES.get(stated[1], int(stated[1]) if stated[1].isdigit() else None)
    goals = re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE)
    return LessonFacts(file, number, title or heading, minutes, tuple(re.sub(r"\s+", " ", goal).rstrip(",.;") for goal in goals))


def start_page(lessons: Sequence[LessonFacts], parts: Sequence[RunningPart], program: str = "userhooks") -> str:
    """Return the page. Its links are file names, which JupyterLab opens, and addresses of this machine.

    `program` is how a reader starts userhooks in any terminal: its path, quoted for a shell.
    """
    first = lessons[0]
    minutes = sum(lesson.minutes or 0 for lesson in lessons)
    lesson_rows = "\n".join(_lesson_row(lesson) for lesson in lessons)
    part_rows = "\n".join(_part_row(part) for part in parts)
    pages = " and ".join(f"the [{part.name}]({part.link})" for part in parts if part.link)
    return f"""\
# Webhooks for each user's own rows

Your app keeps its users' data in Postgres. In these {len(lessons)} lessons, each user gets a webhook when one of **their own** rows
changes, and never one about anybody else's.

### ▶ [Start with lesson {first.number}: {first.title}]({first.file})

Run its cells from the top with **Shift+Enter**. Your first webhook arrives seconds after its row is inserted.
{pages and f"Keep {pages} open beside it."}

## Lessons

| | lesson | time | you learn to |
|:--|:--|--:|:--|
{lesson_rows}

Together they take about {_hours(minutes)}. Lessons 01 to 04 are a short course on their own. Each lesson runs on its own, as
often as you like. The [glossary](glossary.md) explains words that may be new to you.

The panels of a lesson need its kernel. If they show an error in a lesson that you open again, choose **Run → Run All Cells**.

## What is running

| program | what it does | where |
|:--|:--|:--|
{part_rows}

The links sign your browser in for 30 days. If you do not open one within an hour of starting, `{program} status` prints a new one.

## This folder is yours

These are copies. Change anything you like: nothing overwrites what you write. In a terminal (**File → New → Terminal**),

- `{program} lessons list` shows which lessons you have changed,
- `{program} lessons reset {first.number}` gives you a fresh copy of lesson {first.number}, and keeps yours beside it under another name.

To stop everything, press **Ctrl-C** in the terminal where you started it. Your work and your data stay.
"""


def _lesson_row(lesson: LessonFacts) -> str:
    time = f"{lesson.minutes}\u202fmin" if lesson.minutes else ""
    goals = "; ".join(lesson.goals[:_SHOWN_GOALS]).replace("|", "\\|")
    return f"| {lesson.number} | [{lesson.title}]({lesson.file}) | {time} | {goals} |"


def _part_row(part: RunningPart) -> str:
    where = f"[open its page]({part.link})" if part.link else f"`{part.address}`"
    return f"| **{part.name}** | {part.role} | {where} |"


def _hours(minutes: int) -> str:
    halves = round(minutes / 30)
    if halves < 2:
        return f"{minutes} minutes"
    return f"{halves // 2}{'½' if halves % 2 else ''} hour{'s' if halves > 2 else ''}"
