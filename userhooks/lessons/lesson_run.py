"""One run of a lesson: its users in the database, with the same ids in every run, and whether they are still there.

`lesson.py` contains what a notebook does with them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, LiteralString

import psycopg

from userhooks.errors import DatabaseUnavailable, DatabaseUnsuitable, NotFound
from userhooks.webhooks.database import Database

LARGEST_FIXED_ID = 9_999
"""Largest id of a numbered lesson's user; all other users get ids above it."""
CHECK_SECONDS = 0.25
"""Seconds for which a check is not repeated, so that a loop over calls of a lesson stays fast."""

_NUMBER = re.compile(r"\d{1,2}", re.ASCII)

_RESERVE_IDS = """
    SELECT setval(ids, %(largest)s) FROM (SELECT pg_get_serial_sequence('public.users', 'id')::regclass AS ids) AS sequence
    WHERE coalesce(pg_sequence_last_value(ids), 0) < %(largest)s
"""
_ADD_WITH_ID = "INSERT INTO public.users (id, name) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING RETURNING id"
_ADD = "INSERT INTO public.users (name) VALUES (%s) RETURNING id"
# A row's xmin is the transaction that inserted it, so it differs from run to run even if the ids are the same.
_RUNS = "SELECT DISTINCT xmin::text FROM public.users WHERE id = ANY(%s)"
_RUNS_BY_NAME = "SELECT DISTINCT xmin::text FROM public.users WHERE name = ANY(%s)"

_started_here: set[tuple[str, str]] = set()
"""The name and transaction of each run that this process started."""


class LessonRun:
    """The users of one run of the lesson `name`, until the lesson is closed or started again, here or in another process.

    `labels` maps each user to the name in the table `users`. The n-th user of lesson 07 has the id 700 + n. If the lesson's name is not
    a number of one or two digits, or if the id belongs to somebody else, the user gets an id from the table's sequence.
    """

    def __init__(self, database: Database, name: str, labels: Mapping[str, str], remove_earlier: Callable[[], None]) -> None:
        """Call `remove_earlier`, then create the users. Other processes that start this lesson wait until this is done."""
        self.name = name
        self._database = database
        self._labels = list(labels.values())
        self._checked_at = time.monotonic()
        number = int(name) if _NUMBER.fullmatch(name) else 0
        with database.locked(_lock(name)) as connection:
            remove_earlier()
            reserve_ids(connection)
            ids = [_add(connection, label, number * 100 + place if number else None) for place, label in enumerate(labels.values(), 1)]
            [self._transaction] = _values(connection, _RUNS, ids)
        self.users: Mapping[str, int] = dict(zip(labels, ids, strict=True))
        _started_here.add((name, self._transaction))

    def require_current(self, *, now: bool = False) -> None:
        """Raise NotFound, with what to do, if the lesson was closed or started again. If the database does not answer, do nothing.

        Also does nothing if the last check was less than CHECK_SECONDS ago, unless `now` is true.
        """
        started = time.monotonic()
        if now or started - self._checked_at >= CHECK_SECONDS:
            if problem := self.problem():
                raise NotFound(*problem)
            self._checked_at = started

    def end(self, remove: Callable[[], None]) -> EndState | None:
        """Call `remove`, unless the lesson was started again.

        Return how this run had already ended, or None if it was still running. Other processes that start this lesson wait until this call
        returns.
        """
        with self._database.locked(_lock(self.name)) as connection:
            state = self._state(_values(connection, _RUNS_BY_NAME, self._labels))
            if state in (None, "closed"):
                remove()
        return state

    def problem(self) -> tuple[str, str] | None:
        """Return what ended this run and what to do, or None if it has not ended or the database does not answer."""
        state = self._end_state()
        return state and self.describe(state)

    def _end_state(self) -> EndState | None:
        try:
            with self._database.connect() as connection:
                runs = _values(connection, _RUNS, list(self.users.values()))
            if not runs:  # closed or started again; a new run's users, maybe with other ids, exist once the lock is free
                with self._database.locked(_lock(self.name)) as connection:
                    runs = _values(connection, _RUNS_BY_NAME, self._labels)
        except (DatabaseUnavailable, DatabaseUnsuitable):
            return None
        return self._state(runs)

    def _state(self, runs: Sequence[str]) -> EndState | None:
        if self._transaction in runs:
            return None
        if not runs:
            return "closed"
        return "replaced here" if any((self.name, run) in _started_here for run in runs) else "replaced elsewhere"

    def describe(self, state: EndState) -> tuple[str, str]:
        """Return two sentences: what ended this run, and what to do."""
        how, remedy = _ENDINGS[state]
        return f"Lesson {self.name} {how}.", remedy


EndState = Literal["closed", "replaced here", "replaced elsewhere"]

_FIRST_CELL = "Run this notebook's first cell again, then the cells down to this one."
_ENDINGS: Mapping[EndState, tuple[str, str]] = {
    "closed": ("was closed", _FIRST_CELL),
    "replaced here": ("was started again", "Run the cells above this one again: Run, Run All Above Selected Cell."),
    "replaced elsewhere": ("was started again in another notebook or kernel", _FIRST_CELL),
}


def reserve_ids(connection: psycopg.Connection[Any]) -> None:
    """Keep the ids of numbered lessons' users free: users that are created without an id get one above LARGEST_FIXED_ID."""
    connection.execute(_RESERVE_IDS, {"largest": LARGEST_FIXED_ID})


def _lock(name: str) -> str:
    return f"userhooks lesson {name}"


def _add(connection: psycopg.Connection[Any], label: str, wanted: int | None) -> int:
    added = connection.execute(_ADD_WITH_ID, [wanted, label]).fetchone() if wanted is not None else None
    added = added or connection.execute(_ADD, [label]).fetchone()
    assert added is not None  # noqa: S101 - an INSERT of one row returns one
    return int(added[0])


def _values(connection: psycopg.Connection[Any], query: LiteralString, values: Sequence[object]) -> list[str]:
    return [value for (value,) in connection.execute(query, [values])]
