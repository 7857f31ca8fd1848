"""Users by the thousand, each subscribed to the counting receiver: made in bulk, and taken away again. Measuring is in `measure.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from userhooks.capacity.counting_receiver import CountingReceiver
from userhooks.errors import InvalidInput
from userhooks.lessons.generator import progress_shown
from userhooks.lessons.lesson import LOAD_USER

if TYPE_CHECKING:
    from userhooks.stack.stack import Stack
    from userhooks.webhooks.subscriptions import Subscription

log = logging.getLogger(__name__)

CHUNK = 250
"""Users that are made with one call"""
SIZES = (10, 100, 1_000, 10_000)
MOST_ON_SEQUIN = 10
"""A real Sequin asks each sink's filter of every row: 0.14.6 did with sixty a fifth of what it did with one, and none with a hundred"""

_ADD = "INSERT INTO public.users (name) SELECT %s FROM generate_series(1, %s) RETURNING id"
_OURS = "SELECT id FROM public.users WHERE name = %s ORDER BY id"
_REMOVE = "DELETE FROM public.users WHERE id = ANY(%s)"


class LoadUsers:
    """Users of `stack`, each subscribed to a path of its own at `counter`; make more with `grow`, end with `close`, or use it as a context.

    What an earlier crowd left is removed first: users called `crowd`, their rows and subscriptions. Nobody else's are touched. A crowd that
    is interrupted while it grows keeps those it has.

        with LoadUsers(stack) as crowd:
            crowd.grow(1000)
            measure.throughput(crowd, rows=10_000)
    """

    def __init__(self, stack: Stack, *, ports: int = 1) -> None:
        self.stack = stack
        self.users: list[int] = []
        self.batch_size = 1
        self._subscriptions: list[Subscription] = []
        self._remove()
        self.counter = CountingReceiver(ports)

    def sizes(self) -> list[int]:
        """The numbers of users to measure with: up to ten thousand on the local engine, ten on a real Sequin."""
        return [size for size in SIZES if self.engine_pid is not None or size <= MOST_ON_SEQUIN]

    def grow(self, users: int, progress: Callable[[int], object] | None = None) -> None:
        """Add users until there are so many; `progress` is called with how many there are, without it a bar is shown in a notebook.

        Raises InvalidInput for more users than a real Sequin stands.
        """
        if users > MOST_ON_SEQUIN and self.engine_pid is None:
            what = f"{users:,} filtered sinks would bring this Sequin server down: it runs the filter of each for every row."
            raise InvalidInput("users", what, f"Ask for {MOST_ON_SEQUIN} at most, or use the local engine: unset SEQUIN_URL.")
        if users <= len(self.users):
            return
        subscriptions, database = self.stack.subscriptions, self.stack.database
        with progress_shown(progress, users, "users") as show:
            while len(self.users) < users:
                with database.connect() as connection:
                    added = connection.execute(_ADD, [LOAD_USER, min(CHUNK, users - len(self.users))]).fetchall()
                made = [user for (user,) in added]
                self._subscriptions += subscriptions.subscribe_all({user: self.counter.url(user) for user in made})
                self.users += made
                show(len(self.users))

    def batch(self, size: int) -> None:
        """Set how many messages every sink may send in one request."""
        if size != self.batch_size:
            for one in self._subscriptions:
                self.stack.sequin.update_sink(one.sink_id, batch_size=size)
            self.batch_size = size

    @property
    def engine_pid(self) -> int | None:
        """The local engine's process; None when a real Sequin server delivers."""
        pid = self.stack.status()["sequin"]["pid"]
        return None if pid is None else int(pid)

    @property
    def postgres_pid(self) -> int | None:
        """The embedded server's process; None for the reader's own database."""
        pid = self.stack.status()["postgres"]["pid"]
        return None if pid is None else int(pid)

    def close(self, progress: Callable[[int], object] | None = None) -> None:
        """Remove the users with all that is theirs, and end the receiver."""
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
            users = [user for (user,) in connection.execute(_OURS, [LOAD_USER])]
        if not users:
            return
        log.info("Removing %d users of a crowd", len(users))
        with progress_shown(progress, len(users), "users") as show:
            for start in range(0, len(users), CHUNK):
                some = users[start : start + CHUNK]
                subscriptions.unsubscribe_all(some)
                show(start + len(some))
        with database.connect() as connection:
            connection.execute(_REMOVE, [users])
        self.users.clear()
        self._subscriptions.clear()
