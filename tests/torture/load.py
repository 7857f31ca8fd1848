"""The load: a writer that inserts, updates, and deletes rows, and knows for certain what was committed.

Statements are numbered over the whole run, and each writes its number as the text of its rows. A change is identified by its row and its
version, which is twice the number in its text, plus one for a delete (whose record still has the text of the last write). A statement
changes a row at most once, so the pair is unique.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

_SET_UP = "create table torture_mark (statement bigint not null); insert into torture_mark values (0)"
_MARK = "update torture_mark set statement = %s"
_INSERT = """
insert into notifications (user_id, message)
select user_id, %s from unnest(%s::int[]) with ordinality as given (user_id, position) order by position returning id, user_id
"""
_UPDATE = "update notifications set message = %s where id = any(%s)"
_DELETE = "delete from notifications where id = any(%s)"


class Change(NamedTuple):
    """A committed change; `statement` is its position in commit order, which all rows of a statement share."""

    statement: int
    row: int
    user: int
    version: int


class Mix(NamedTuple):
    """Shares of the kinds of changes."""

    insert: float = 0.5
    update: float = 0.35
    delete: float = 0.15


class Writer:
    """Writer of `rate` changes per second for `users`, in transactions `every` seconds apart; `committed` lists what was committed.

    It writes in a separate thread between `start` and `stop`, or in the caller's thread with `write_for`. Every transaction also writes a
    mark, which shows whether a transaction whose connection broke was committed.
    """

    def __init__(self, url: str, users: Sequence[int], *, rate: float, every: float, seed: int, mix: Mix | None = None) -> None:
        self.committed: list[Change] = []
        self._url = url
        self._users = users
        self._rate = rate
        self._every = every
        self._rng = random.Random(seed)
        self._mix = mix or Mix()
        self._statement = 0
        self._versions: dict[int, tuple[int, int]] = {}
        self._rows: list[int] = []
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="writer")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_SET_UP)

    def start(self) -> Writer:
        """Start writing in a separate thread."""
        self._thread.start()
        return self

    def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until the thread ends."""
        self._thread.join(seconds)

    def stop(self) -> list[Change]:
        """Stop after the current transaction and return everything committed; reraises an exception of the thread."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.committed

    def write_for(self, seconds: float) -> list[Change]:
        """Write in the caller's thread for `seconds`, and return everything committed so far; may be called repeatedly."""
        until = time.monotonic() + seconds
        self._run(lambda: time.monotonic() >= until)
        return self.committed

    def _guarded(self) -> None:
        try:
            self._run(self._stop.is_set)
        except BaseException as exc:
            self._error = exc

    def _run(self, is_done: Callable[[], bool]) -> None:
        started, scheduled = time.monotonic(), 0.0
        connection = self._connect()
        while not is_done():
            scheduled += self._rate * self._every
            try:
                self._transaction(connection, round(scheduled) - round(scheduled - self._rate * self._every))
            except psycopg.OperationalError:
                connection.close()
                connection = self._connect()
            late = time.monotonic() - started - scheduled / self._rate
            self._stop.wait(max(0.0, -late))
        connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        """Connect as soon as the server is available."""
        deadline = time.monotonic() + 60
        while True:
            with suppress(psycopg.OperationalError):
                return psycopg.connect(self._url)
            if time.monotonic() > deadline:
                raise TimeoutError("Postgres did not come back within 60 s")
            time.sleep(0.02)

    def _transaction(self, connection: psycopg.Connection[Any], count: int) -> None:
        """Commit `count` changes.

        If the connection breaks, determine whether they were committed, and raise psycopg.OperationalError.
        """
        applies: list[Callable[[], None]] = []
        try:
            self._statements(connection, count, applies)
            connection.execute(_MARK, (self._statement,))
            connection.commit()
        except psycopg.OperationalError:
            if self._was_committed():
                self._apply(applies)
            raise
        self._apply(applies)

    def _was_committed(self) -> bool:
        with self._connect() as connection:
            row = connection.execute("select statement from torture_mark").fetchone()
        assert row is not None
        return bool(row[0] == self._statement)

    @staticmethod
    def _apply(applies: list[Callable[[], None]]) -> None:
        for apply in applies:
            apply()

    def _statements(self, connection: psycopg.Connection[Any], count: int, applies: list[Callable[[], None]]) -> None:
        """Run up to three statements; appends functions to `applies` that record them once they are committed."""
        rng = self._rng
        kinds = rng.choices(("insert", "update", "delete"), self._mix, k=count)
        touched = rng.sample(range(len(self._rows)), min(len(self._rows), kinds.count("update") + kinds.count("delete")))
        updates, deletes = touched[: kinds.count("update")], touched[kinds.count("update") :]
        self._statement += 1
        inserts = [rng.choice(self._users) for _ in range(count - len(touched))]
        inserted = connection.execute(_INSERT, (str(self._statement), inserts)).fetchall() if inserts else []
        applies.append(lambda number=self._statement: self._written(number, inserted))  # type: ignore[misc]
        if updates:
            self._statement += 1
            ids = [self._rows[i] for i in updates]
            connection.execute(_UPDATE, (str(self._statement), ids))
            changed = [(row, self._versions[row][0]) for row in ids]
            applies.append(lambda number=self._statement: self._written(number, changed))  # type: ignore[misc]
        if deletes:
            self._statement += 1
            connection.execute(_DELETE, ([self._rows[i] for i in deletes],))
            applies.append(lambda number=self._statement: self._deleted(number, deletes))  # type: ignore[misc]

    def _written(self, statement: int, rows: list[tuple[int, int]]) -> None:
        for row, user in rows:
            if row not in self._versions:
                self._rows.append(row)
            self._versions[row] = (user, statement)
            self.committed.append(Change(statement, row, user, 2 * statement))

    def _deleted(self, statement: int, positions: list[int]) -> None:
        for position in sorted(positions, reverse=True):
            row = self._rows[position]
            self._rows[position] = self._rows[-1]
            self._rows.pop()
            user, last = self._versions.pop(row)
            self.committed.append(Change(statement, row, user, 2 * last + 1))
