"""Traffic for a lesson: rows written to `notifications` at a steady rate. A pure schedule says when, and a thin runner writes the rows.

The ledger checks whether the rows arrive.
"""

from __future__ import annotations

import logging
import math
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import psycopg

from userhooks.errors import DatabaseUnavailable, DatabaseUnsuitable, InvalidInput, NotFound
from userhooks.shared.html_table import html_table
from userhooks.webhooks.database import Database

MAX_RATE = 100_000
TICKS_PER_SECOND = 25
MAX_ROWS_PER_TICK = 5_000
LOG_ROWS, LOG_SECONDS, LOG_PAUSE = 1_000, 10.0, 1.0
"""Rows or seconds after which a progress line is logged, and the minimum seconds between two lines."""

INSERT, UPDATE, DELETE = ACTIONS = ("insert", "update", "delete")

_log = logging.getLogger(__name__)

_INSERT_ROWS = """
    INSERT INTO public.notifications (user_id, message)
    SELECT * FROM unnest(%s::int[], %s::text[])
    RETURNING id
"""
_UPDATE_ROWS = """
    UPDATE public.notifications AS old SET message = fresh.message
    FROM unnest(%s::int[], %s::text[]) AS fresh (id, message)
    WHERE old.id = fresh.id AND old.user_id = ANY(%s)
"""
_DELETE_ROWS = "DELETE FROM public.notifications WHERE id = ANY(%s) AND user_id = ANY(%s)"
_OURS = "SELECT obj_description(to_regclass('public.notifications'), 'pg_class') = 'userhooks'"
_USERS = "SELECT id FROM public.users WHERE %(ids)s::int[] IS NULL OR id = ANY(%(ids)s::int[]) ORDER BY id"
_OLD_ROWS = "SELECT id FROM public.notifications WHERE user_id = ANY(%s) ORDER BY id DESC LIMIT 100000"


@dataclass(frozen=True)
class Schedule:
    """The times at which to write rows: row k, starting at 0, after k / `rate` seconds. Pure.

    There are `total` rows; None means no limit.
    """

    rate: float
    total: int | None = None

    def due(self, elapsed: float) -> int:
        """Return how many rows should have been written by now. This depends only on the elapsed time, so that errors do not accumulate."""
        rows = math.floor(elapsed * self.rate + 1e-9) + 1
        return rows if self.total is None else min(rows, self.total)

    def pause(self, written: int, elapsed: float) -> float:
        """Return the seconds until the next tick, which is 0 if rows are overdue. There are at most TICKS_PER_SECOND ticks per second."""
        tick = max(1, round(self.rate / TICKS_PER_SECOND))
        last = written + tick - 1 if self.total is None else min(written + tick, self.total) - 1
        return max(0.0, last / self.rate - elapsed)


@dataclass(frozen=True, repr=False)
class Generated:
    """The changes that a run committed.

    `inserted`, `updated`, and `deleted` count rows; `per_user` counts inserted rows by user id. `asked` is the number of changes requested,
    or None for no limit, and `rate` the requested changes per second. The run took `seconds` from `started_at` (timezone-aware, UTC).
    `first_id` and `last_id` are the first and last id inserted, or None. `timeline` has pairs (seconds since the start, changes committed
    by then), about ten per second.
    """

    inserted: int
    updated: int
    deleted: int
    per_user: Mapping[int, int]
    asked: int | None
    rate: float
    seconds: float
    started_at: datetime
    interrupted: bool
    first_id: int | None
    last_id: int | None
    timeline: tuple[tuple[float, int], ...] = field(repr=False)

    @property
    def changes(self) -> int:
        """The number of rows inserted, updated, or deleted."""
        return self.inserted + self.updated + self.deleted

    @property
    def rate_reached(self) -> float:
        """The changes per second over the run, counting the interval after the last row."""
        return self.changes / max(self.seconds, self.changes / self.rate, 1e-9)

    def summary(self) -> str:
        """Return one or two lines that say what was written, how fast, and what fell short."""
        counts = [(self.inserted, "inserted"), (self.updated, "updated"), (self.deleted, "deleted")]
        text = ", ".join(f"{count:,} {what}" for count, what in counts if count or what == "inserted")
        text += f" for {len(self.per_user)} users in {self.seconds:.1f} s, {self.rate_reached:,.0f} rows/s"
        if self.interrupted:
            return f"{text}\nStopped early."
        if self.asked is not None and self.changes < self.asked:
            return (
                f"{text}\n{self.asked - self.changes:,} of {self.asked:,} rows were not written, because the rate of "
                f"{self.rate:,.0f} rows/s was not reached."
            )
        if self.rate_reached < 0.95 * self.rate:
            return f"{text}\nThe requested rate of {self.rate:,.0f} rows/s was not reached."
        return text

    def __repr__(self) -> str:
        parts = [(self.inserted, "inserted"), (self.updated, "updated"), (self.deleted, "deleted")]
        text = ", ".join(f"{count} {what}" for count, what in parts if count or what == "inserted")
        return f"Generated({text}{', interrupted' if self.interrupted else ''})"

    def _repr_html_(self) -> str:
        counts = {"inserted": self.inserted, "updated": self.updated, "deleted": self.deleted}
        return html_table("Generated", {**counts, "seconds": f"{self.seconds:.1f}", "rows/s": f"{self.rate_reached:,.0f}"})


def parse_mix(text: str) -> dict[str, float]:
    """Parse a mix of weights like `insert=8,update=1,delete=1`. An action that is not named has weight 0. Raises InvalidInput."""
    mix: dict[str, float] = {}
    for part in text.split(","):
        action, _, weight = part.partition("=")
        action = action.strip()
        if action in mix:
            raise InvalidInput("mix", f"mix names {action} twice.", _MIX_REMEDY)
        try:
            mix[action] = float(weight)
        except ValueError:
            raise InvalidInput("mix", f"mix contains {part.strip()!r}, which is not in the form action=weight.", _MIX_REMEDY) from None
    return _checked_mix(mix)


def generate(
    database_url: str,
    *,
    rate: float = 100,
    seconds: float | None = None,
    count: int | None = None,
    mix: Mapping[str, float] | None = None,
    users: Sequence[int] | None = None,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generated:
    """Write notifications for random existing users at `rate` rows per second, for `seconds`, or until `count` rows or Ctrl-C.

    Each tick is a transaction with one multi-row INSERT. After a delay, the run catches up. If `seconds` is given, the run may take up to
    10% or 5 s longer to catch up, whichever is more; its summary says how many rows are then missing. `mix` has weights for `insert`,
    `update`, and `delete`; updates and deletes change rows of the same users, and are replaced by inserts while there are no such rows.
    `users` limits the run to these user ids. `seed` makes the random choices repeatable. `check` is called before every tick, and
    `progress` after it with the number of rows so far; without `progress`, a progress bar is shown in a terminal or notebook.

    Raises InvalidInput, and NotFound if there are no users or one was deleted during the run. Raises DatabaseUnsuitable if userhooks did
    not create the tables or Postgres refuses a statement, and DatabaseUnavailable if Postgres does not answer. The messages of the last
    two say how many rows had been committed.

        generated = generate(url, rate=100, seconds=5)
        print(generated.summary())
        generated.per_user
    """
    schedule = _schedule(rate, seconds, count)
    weights = _checked_mix({INSERT: 1.0} if mix is None else mix)
    limit = None if seconds is None else seconds + max(5.0, seconds / 10)
    committed = 0
    try:
        with Database(database_url).connect() as connection:
            writer = _Writer(connection, users, weights, random.Random(seed))  # noqa: S311 - chooses rows, keeps no secret
            with progress_shown(progress, schedule.total, "rows", "Writing rows") as show:
                try:
                    return _run(writer, schedule, limit, show, check, clock, sleep)
                finally:
                    committed = writer.changes
    except (DatabaseUnavailable, DatabaseUnsuitable) as error:
        if committed:
            raise type(error)(f"{error.what} {committed:,} rows had been committed.", error.remedy) from None
        raise


def _run(
    writer: _Writer,
    schedule: Schedule,
    limit: float | None,
    show: Callable[[int], object],
    check: Callable[[], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Generated:
    started_at, start = datetime.now(UTC), clock()
    timeline: list[tuple[float, int]] = []
    # Each row stands for the interval before it. So the first interval, of the row at 0 s, starts before 0 s.
    logged_at, logged_rows, elapsed, interrupted = -1 / schedule.rate, 0, 0.0, False
    try:
        while schedule.total is None or writer.changes < schedule.total:
            sleep(schedule.pause(writer.changes, clock() - start))
            elapsed = clock() - start
            if limit is not None and elapsed > limit:
                break
            overdue = schedule.due(elapsed) - writer.changes
            if overdue <= 0:
                continue
            check()
            with _uninterrupted():
                writer.write(min(overdue, MAX_ROWS_PER_TICK))
                elapsed = clock() - start
                _record(timeline, elapsed, writer.changes)
            show(writer.changes)
            rows, since = writer.changes - logged_rows, elapsed - logged_at
            if (rows >= LOG_ROWS or since >= LOG_SECONDS) and since >= LOG_PAUSE:
                _log.info("%s rows written, %.0f rows/s", f"{writer.changes:,}", rows / since)
                logged_at, logged_rows = elapsed, writer.changes
    except KeyboardInterrupt:
        interrupted = True
    generated = Generated(
        inserted=writer.inserted,
        updated=writer.updated,
        deleted=writer.deleted,
        per_user=dict(sorted(writer.per_user.items())),
        asked=schedule.total,
        rate=schedule.rate,
        seconds=elapsed,
        started_at=started_at,
        interrupted=interrupted,
        first_id=writer.first_id,
        last_id=writer.last_id,
        timeline=tuple(timeline),
    )
    _log.info("%s", generated.summary().replace("\n", " "))
    return generated


class _Writer:
    """Writes the rows of each tick, counts committed changes, and remembers the ids of rows that it may update or delete."""

    def __init__(
        self, connection: psycopg.Connection[Any], users: Sequence[int] | None, weights: Mapping[str, float], rng: random.Random
    ) -> None:
        self._connection, self._rng = connection, rng
        self._weights = [weights.get(action, 0.0) for action in ACTIONS]
        _require_our_table(connection)
        self._users = _existing_users(connection, users)
        self._changing = any(self._weights[1:])
        self._rows: list[int] = []
        if self._changing:
            self._rows = [row for (row,) in connection.execute(_OLD_ROWS, [self._users])]
        connection.commit()  # a transaction left open while the run pauses would hold back vacuum
        self.inserted = self.updated = self.deleted = self._number = 0
        self.per_user: Counter[int] = Counter()
        self.first_id: int | None = None
        self.last_id: int | None = None

    @property
    def changes(self) -> int:
        return self.inserted + self.updated + self.deleted

    def write(self, rows: int) -> None:
        """Commit a transaction with `rows` changes, and then count them."""
        kinds = Counter(self._rng.choices(ACTIONS, self._weights, k=rows)) if self._changing else Counter({INSERT: rows})
        changed = self._rng.sample(self._rows, min(kinds[UPDATE], len(self._rows)))
        removed = [self._take_row() for _ in range(min(kinds[DELETE], len(self._rows)))]
        owners = self._rng.choices(self._users, k=rows - len(changed) - len(removed))
        texts = self._texts(len(owners) + len(changed))
        inserted: list[int] = []
        updated = deleted = 0
        if owners:
            inserted = [row for (row,) in self._connection.execute(_INSERT_ROWS, [owners, texts[: len(owners)]])]
        if changed:
            updated = self._connection.execute(_UPDATE_ROWS, [changed, texts[len(owners) :], self._users]).rowcount
        if removed:
            deleted = self._connection.execute(_DELETE_ROWS, [removed, self._users]).rowcount
        self._connection.commit()
        self.inserted, self.updated, self.deleted = self.inserted + len(inserted), self.updated + updated, self.deleted + deleted
        self.per_user.update(owners)
        if inserted:
            self.first_id = inserted[0] if self.first_id is None else self.first_id
            self.last_id = inserted[-1]
        if self._changing:
            self._rows += inserted

    def _texts(self, count: int) -> list[str]:
        first, self._number = self._number + 1, self._number + count
        return [f"Notification {number}" for number in range(first, first + count)]

    def _take_row(self) -> int:
        index = self._rng.randrange(len(self._rows))
        self._rows[index], self._rows[-1] = self._rows[-1], self._rows[index]
        return self._rows.pop()


def _schedule(rate: float, seconds: float | None, count: int | None) -> Schedule:
    if not 1 <= rate <= MAX_RATE:
        raise InvalidInput("rate", f"rate is {rate:g}.", f"Choose 1 to {MAX_RATE:,} rows per second.")
    if seconds is not None and count is not None:
        raise InvalidInput("count", "Both seconds and count were given.", "Give only one of them.")
    if seconds is not None and not 0 < seconds < math.inf:
        raise InvalidInput("seconds", f"seconds is {seconds:g}.", "Choose a number of seconds above 0.")
    if count is not None and count < 1:
        raise InvalidInput("count", f"count is {count}.", "Choose at least 1 row.")
    return Schedule(rate, count if seconds is None else max(1, round(rate * seconds)))


_MIX_REMEDY = "Write it like insert=8,update=1,delete=1"


def _checked_mix(mix: Mapping[str, float]) -> dict[str, float]:
    for action, weight in mix.items():
        if action not in ACTIONS:
            raise InvalidInput("mix", f"mix names {action!r}, which is not insert, update, or delete.", _MIX_REMEDY)
        if not 0 <= weight < math.inf:
            raise InvalidInput("mix", f"mix gives {action} the weight {weight:g}.", _MIX_REMEDY)
    if not any(mix.values()):
        raise InvalidInput("mix", "mix gives no action a weight above 0.", _MIX_REMEDY)
    return dict(mix)


def _require_our_table(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(_OURS).fetchone()
    if row != (True,):
        what = "The table notifications is missing or was not created by userhooks. Nothing was written."
        raise DatabaseUnsuitable(what, "Run userhooks up, which creates the tables in an empty database.")


def _existing_users(connection: psycopg.Connection[Any], wanted: Sequence[int] | None) -> list[int]:
    existing = [user for (user,) in connection.execute(_USERS, {"ids": None if wanted is None else list(wanted)})]
    missing = sorted(set(wanted or ()) - set(existing))
    if missing:
        raise NotFound(f"There is no user {missing[0]}.", "Create the user first, or leave it out.")
    if not existing:
        raise NotFound("There are no users to write notifications for.", "Create some: INSERT INTO users (name) VALUES ('Ada'), ('Ben')")
    return existing


def _record(timeline: list[tuple[float, int]], elapsed: float, changes: int) -> None:
    if timeline and int(timeline[-1][0] * 10) == int(elapsed * 10):
        timeline[-1] = (elapsed, changes)
    else:
        timeline.append((elapsed, changes))


@contextmanager
def progress_shown(progress: Callable[[int], object] | None, total: int | None, unit: str, label: str) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the count so far: `progress` or, if that is None, one that updates a progress bar called `label`."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty() or _in_notebook():
        from tqdm.auto import tqdm

        with tqdm(total=total, unit=unit, desc=label) as bar:
            yield lambda rows: bar.update(rows - bar.n)
    else:
        yield lambda rows: None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the tick is committed and counted, so that the summary is right. A second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def delay(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    original = signal.signal(signal.SIGINT, delay)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, original)
    if interrupted:
        signal.raise_signal(signal.SIGINT)  # to the original handler
