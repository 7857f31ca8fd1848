"""Thousands of users subscribed to the counting receiver, created in bulk and removed afterward. `measure.py` measures with them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from userhooks.capacity.counting_receiver import CountingReceiver
from userhooks.errors import InvalidInput
from userhooks.lessons.generator import progress_shown
from userhooks.lessons.lesson_cleanup import LOAD_USER
from userhooks.lessons.lesson_run import reserve_ids

if TYPE_CHECKING:
    from userhooks.stack.stack import Stack
    from userhooks.webhooks.subscriptions import Subscription

log = logging.getLogger(__name__)

CHUNK = 250
"""Maximum number of users to create or remove in one call."""
SIZES = (10, 100, 1_000, 3_000)
MOST_ON_SEQUIN = 10
"""Maximum number of users on a real Sequin server, because it evaluates every sink's filter for every row.

Sequin 0.14.6 delivered a fifth as fast with 60 sinks as with one, and nothing with 100.
"""

_ADD = "INSERT INTO public.users (name) SELECT %s FROM generate_series(1, %s) RETURNING id"
_LOAD_USERS = "SELECT id FROM public.users WHERE name = %s ORDER BY id"
_REMOVE = "DELETE FROM public.users WHERE id = ANY(%s)"


class LoadUsers:
    """Users for load measurements, each subscribed to its own path at `counter`.

    `grow` creates users. `close`, or leaving the context manager, removes them. A new instance first removes what an earlier run left
    behind: the users named `crowd` with their rows and subscriptions, and nothing else. If `grow` is interrupted, the users created so far
    are kept.

        with LoadUsers(stack) as load_users:
            load_users.grow(1000)
            measure.throughput(load_users, rows=10_000)
    """

    def __init__(self, stack: Stack, *, ports: int = 1) -> None:
        self.stack = stack
        self.users: list[int] = []
        self.batch_size = 1
        self._subscriptions: list[Subscription] = []
        self._remove()
        self.counter = CountingReceiver(ports)

    def sizes(self) -> list[int]:
        """Return the numbers of users to measure with: up to 3,000 on the local engine, 10 on a real Sequin server."""
        return [size for size in SIZES if self.engine_pid is not None or size <= MOST_ON_SEQUIN]

    def grow(self, users: int, progress: Callable[[int], object] | None = None) -> None:
        """Create users until there are `users` of them.

        `progress` is called with the number created so far; if it is None, a notebook shows a progress bar. Raises InvalidInput for more
        users than a real Sequin server can handle.
        """
        if users > MOST_ON_SEQUIN and self.engine_pid is None:
            problem = f"{users:,} filtered sinks would bring this Sequin server down: it evaluates every filter for every row."
            raise InvalidInput("users", problem, f"Use at most {MOST_ON_SEQUIN} users, or unset SEQUIN_URL to use the local engine.")
        if users <= len(self.users):
            return
        subscriptions, database = self.stack.subscriptions, self.stack.database
        with progress_shown(progress, users, "users", "Subscribing users") as show:
            while len(self.users) < users:
                with database.connect() as connection:
                    reserve_ids(connection)
                    added = connection.execute(_ADD, [LOAD_USER, min(CHUNK, users - len(self.users))]).fetchall()
                new_users = [user for (user,) in added]
                self._subscriptions += subscriptions.subscribe_all({user: self.counter.url(user) for user in new_users})
                self.users += new_users
                show(len(self.users))

    def batch(self, size: int) -> None:
        """Set the batch size of every sink, in messages per request."""
        if size != self.batch_size:
            for subscription in self._subscriptions:
                self.stack.sequin.update_sink(subscription.sink_id, batch_size=size)
            self.batch_size = size

    @property
    def engine_pid(self) -> int | None:
        """Process ID of the local engine; None if a real Sequin server is used."""
        return self.stack.status().sequin.pid

    @property
    def postgres_pid(self) -> int | None:
        """Process ID of the embedded Postgres server; None if an external database is used."""
        return self.stack.status().postgres.pid

    def close(self, progress: Callable[[int], object] | None = None) -> None:
        """Remove the users with their rows and subscriptions, and stop the receiver."""
        try:
            self._remove(progress)
        finally:
            self.counter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LoadUsers({len(self.users):,} users)"

    def _remove(self, progress: Callable[[int], object] | None = None) -> None:
        database, subscriptions = self.stack.database, self.stack.subscriptions
        with database.connect() as connection:
            users = [user for (user,) in connection.execute(_LOAD_USERS, [LOAD_USER])]
        if not users:
            return
        log.info("Removing %d users created for load measurements", len(users))
        with progress_shown(progress, len(users), "users", "Removing users") as show:
            for start in range(0, len(users), CHUNK):
                chunk = users[start : start + CHUNK]
                subscriptions.unsubscribe_all(chunk)
                show(start + len(chunk))
        with database.connect() as connection:
            connection.execute(_REMOVE, [users])
        self.users.clear()
        self._subscriptions.clear()
