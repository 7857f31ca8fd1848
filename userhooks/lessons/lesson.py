"""A lesson's users and inboxes, what a notebook does with them, and the ledger, which compares rows written with messages received.

`ledger/` contains the comparison, `webhooks/subscriptions.py` subscribes users, `generator.py` generates traffic, `lesson_run.py` creates
users, and `lesson_cleanup.py` removes them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload
from urllib.parse import urlsplit

from userhooks.errors import InvalidInput, NotFound, SequinMismatch
from userhooks.ledger import BackfillRead, Ledger, OwedSubscription, Receipt, Row, changes, rows
from userhooks.ledger.live import WalLedger
from userhooks.ledger.recording import Recording
from userhooks.lessons import own_receiver
from userhooks.lessons.generator import Generated, generate
from userhooks.lessons.lesson_cleanup import USERS, inbox_at, labels, remove_lesson, remove_sinks_of_lessons, schema_of
from userhooks.lessons.lesson_run import EndState, LessonRun
from userhooks.lessons.unfiltered_sink import create_unfiltered_sink, delete_unfiltered_sink
from userhooks.webhooks.subscriptions import MISSING

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from userhooks.clients import Clients
    from userhooks.inspector.client import Inbox
    from userhooks.webhooks.sequin_resources import Sink
    from userhooks.webhooks.subscriptions import BackfillHandle, Subscription

__all__ = ["USERS", "Lesson", "stack_ledger"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)
_POLL = 0.1
_BEFORE_EVERYTHING = datetime.min.replace(tzinfo=UTC)

# A null created_at, which the tutorial's table allows, counts as older than any subscription.
_ROWS = """
    SELECT id, user_id, coalesce(created_at, 'epoch') FROM public.notifications
    WHERE user_id IS NOT NULL AND (%(users)s::int[] IS NULL OR user_id = ANY(%(users)s::int[])) ORDER BY id
"""
_SUBSCRIBED_AT = "SELECT sequin_sink_id::text, created_at FROM public.webhook_subscriptions"


class Lesson:
    """The users Ada, Ben, and Cy of one lesson, with an inbox for each. Created by `Stack.lesson`.

    Other users, rows, subscriptions, and inboxes are not changed, with one exception: if a separate Sequin server is used, the sinks of
    other lessons are removed, because such a server can handle only a few sinks. In the database, a user has a name like
    `lesson 01: ada`, and the inbox has the same name. In every run of lesson 01, Ada is user 101, Ben 102, and Cy 103, unless these ids
    belong to somebody else.

    The argument `user` is always `ada`, `ben`, or `cy`; anything else raises NotFound. Once the lesson has been closed or started again,
    here or in another notebook, every method raises NotFound, and so do the inboxes, which then belong to the new run.

        lesson = stack.lesson("01")
        lesson.subscribe("ada", url=lesson.inbox("ada").url)
        lesson.generate(rate=100, seconds=5)

    It is long because everything that a cell does with a lesson is a separate method.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidInput("name", f"The lesson's name is {name!r}.", "Use letters, digits, - and _, like 01.")
        self.clients = clients
        self.name = name
        self._since: dict[str, datetime] = {}
        self._replays: list[BackfillRead] = []
        self._recordings: list[Recording] = []
        self._run = LessonRun(clients.database, name, labels(name), self._remove_earlier)
        self._users = self._run.users
        clients.subscriptions.unsubscribe_all(list(self._users.values()))  # leftover sinks of deleted users that had these ids
        self._inboxes = {user: clients.inspector.inbox(label) for user, label in labels(name).items()}
        for inbox in self._inboxes.values():
            inbox.check_before_use(self._run.require_current)

    @property
    def users(self) -> Mapping[str, int]:
        """The users' ids in the table `users`, by name."""
        return dict(self._users)

    def problem(self) -> tuple[str, str] | None:
        """Return what ended this run of the lesson and what to do, or None if the lesson has not ended."""
        return self._run.problem()

    def user(self, user: str) -> int:
        """Return the user's id in the table `users`."""
        if user not in self._users:
            raise NotFound(f"This lesson has no user {user!r}.", f"Its users are {', '.join(self._users)}.")
        self._run.require_current()
        return self._users[user]

    def inbox(self, user: str) -> Inbox:
        """Return the inbox for this user's webhooks; subscribe its `url`."""
        self.user(user)  # raises NotFound
        return self._inboxes[user]

    def subscribe(self, user: str, url: str) -> Subscription:
        """Send the user's new rows to `url`. Repeating the call returns the same subscription.

        Raises InvalidInput if `url` is not a valid URL, and whatever else `Subscriptions.subscribe` raises.
        """
        before = self.clients.database.wal_position()
        subscription = self.clients.subscriptions.subscribe(self.user(user), url)
        if subscription.created:
            self._since[subscription.sink_id] = _now(self.clients)
            self._leave_out_before(subscription.sink_id, before)
        return subscription

    def _leave_out_before(self, sink_id: str, lsn: int) -> None:
        """Hide rows older than a sink from the lesson's inboxes, because a separate Sequin server may send some to a new sink."""
        if self.clients.settings.sequin_url is not None:
            for inbox in self._inboxes.values():
                inbox.leave_out_before(sink_id, lsn)

    def serve(self, handler: type[BaseHTTPRequestHandler]) -> own_receiver.ReceiverServer:
        """Serve your own receiver in the background; subscribe its `url`. Raises InvalidInput if `handler` is not a handler class.

        Another call replaces the receiver and keeps its URL. The receiver listens on the same address as the inspector.

            server = lesson.serve(Receiver)
            lesson.subscribe("ada", url=server.url)
            server.answers()
        """
        self._run.require_current()
        settings = self.clients.settings
        host = urlsplit(settings.inspector_public_url or "").hostname or "127.0.0.1"
        return own_receiver.serve(self.name, handler, bind=settings.inspector_bind, host=host)

    def subscriptions(self) -> list[Subscription]:
        """Return the subscriptions of this lesson's users."""
        self._run.require_current()
        return [subscription for user in self._users.values() for subscription in self.clients.subscriptions.list(user)]

    def insert(self, user: str, text: str) -> int:
        """Insert a notification for the user, and return its id."""
        return self.clients.database.insert_notifications([(self.user(user), text)])[0]

    def schema(self) -> str:
        """Create a Postgres schema for this lesson's tables, if it does not exist yet, and return its name.

        The schema is dropped with the lesson, after the sinks on its tables and their endpoints have been deleted. Raises
        DatabaseUnsuitable if there is a schema of that name that userhooks did not create.
        """
        self._run.require_current()
        self.clients.database.create_schema(schema_of(self.name))
        return schema_of(self.name)

    def generate(
        self,
        rate: float = 100,
        seconds: float | None = None,
        count: int | None = None,
        *,
        mix: Mapping[str, float] | None = None,
        seed: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Generated:
        """Write notifications for this lesson's users at `rate` rows per second, for `seconds`, or until `count` rows or a Stop.

        `seed` makes the choice of users repeatable. `mix`, `progress`, and the errors raised are those of `generator.generate`.

            generated = lesson.generate(rate=100, seconds=5, seed=1)
            print(generated.summary())
            generated.per_user
        """
        users = list(self._users.values())
        options: dict[str, Any] = {"mix": mix, "users": users, "seed": seed, "progress": progress, "check": self._run.require_current}
        try:
            return generate(self.clients.database_url, rate=rate, seconds=seconds, count=count, **options)
        except NotFound:
            self._run.require_current(now=True)
            raise

    def backfill(self, user: str) -> BackfillHandle:
        """Send all of the user's current rows to the user's first subscription again.

        Call `wait` on the result to wait until they have been sent. The ledger expects these rows, unlike those sent by
        `stack.backfill`. Raises NotFound if the user has no subscription.
        """
        subscriptions = self.clients.subscriptions.list(self.user(user))
        if not subscriptions:
            raise NotFound(
                f"{user} has no subscription to backfill.", f'Run lesson.subscribe("{user}", url=lesson.inbox("{user}").url) first.'
            )
        started_at = _now(self.clients)
        handle = self.clients.subscriptions.backfill(subscriptions[0].sink_name)
        self._replays.append(BackfillRead(subscriptions[0].sink_id, handle.id, started_at))
        return handle

    def add_unfiltered_sink(self, user: str) -> Sink:
        """Create a sink without a filter, which sends the rows of all users to this user's inbox. It is the mistake that lesson 02 shows.

        The sink sends only to an inbox of this lesson. `remove_unfiltered_sink` removes the sink. Starting or closing any lesson
        also removes it, in case the kernel was killed.
        """
        before = self.clients.database.wal_position()
        sink = create_unfiltered_sink(self.clients.sequin, self.clients.home_key, self.user(user), self.inbox(user))
        self._leave_out_before(sink.id, before)
        return sink

    def remove_unfiltered_sink(self) -> None:
        """Remove the sink that `add_unfiltered_sink` created, if there is one. The inbox keeps what it received."""
        delete_unfiltered_sink(self.clients.sequin)

    @overload
    def ledger(self, wait: float = 10.0) -> Ledger: ...

    @overload
    def ledger(self, wait: float = 10.0, *, wal: Literal[True]) -> WalLedger: ...

    def ledger(self, wait: float = 10.0, *, wal: bool = False) -> Ledger | WalLedger:
        """Compare every row of this lesson's users with what their inboxes received or, if `wal` is true, every change from now on.

        A row that is still missing after `wait` seconds is `lost`. If it was committed during those seconds, or if `wait` is 0, it is
        `not yet arrived`. The ledger checks subscriptions to this lesson's inboxes, rows that are still in the table, and backfills that
        `Lesson.backfill` started and that were not cancelled. Subscriptions to other receivers are `not checked`.

            ledger = lesson.ledger()
            ledger.verdict()
            ledger.frame()

        If `wal` is true, the ledger reads Postgres' WAL from a temporary slot, so it also checks updates, deletes, and rows that move to
        another user. This is additional work for the database for every change, so do not use it to measure rates. Raises
        DatabaseUnsuitable if Postgres has no free slot.

            with lesson.ledger(wal=True) as ledger:
                lesson.generate(rate=100, seconds=5, mix={"insert": 8, "update": 1, "delete": 1})
            ledger.verdict()
        """
        self._run.require_current()
        if not wal:
            return _settled(self.clients, wait, lambda: self._reconciled(rows.reconcile))
        recording = Recording(self.clients.database_url, self.clients.sequin.publication())
        self._recordings.append(recording)
        return WalLedger(recording, lambda recorded: _settled(self.clients, wait, lambda: self._judged(recorded)))

    def close(self) -> None:
        """Remove this lesson's users with their rows and subscriptions, empty its inboxes, and close its receiver.

        If the lesson has been started again, the newer run is kept. Raises NotFound if another process started that run.
        """
        if self._close() == "replaced elsewhere":
            raise NotFound(*self._run.describe("replaced elsewhere"))

    def _close(self) -> EndState | None:
        for recording in self._recordings:
            recording.close()
        ended = self._run.end(partial(remove_lesson, self.clients, self.name))
        if ended != "replaced here":
            own_receiver.leave(self.name)
        return ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def __repr__(self) -> str:
        users = ", ".join(f"{user} {user_id}" for user, user_id in self._users.items())
        return f"Lesson({self.name!r}, users {users})"

    def _remove_earlier(self) -> None:
        remove_lesson(self.clients, self.name)
        own_receiver.leave(self.name)
        if self.clients.settings.sequin_url is not None:
            remove_sinks_of_lessons(self.clients)

    def _judged(self, recording: Recording) -> Ledger:
        users = set(self._users.values())

        def reconcile(table: list[Row], received: list[Receipt], owed: list[OwedSubscription], replays: list[BackfillRead]) -> Ledger:
            committed = recording.changes()  # read last, so that the changes of all received messages are included
            return changes.reconcile(committed, received, owed, replays, table, users=users, since_lsn=recording.start_lsn)

        return self._reconciled(reconcile)

    def _reconciled(self, reconcile: Callable[[list[Row], list[Receipt], list[OwedSubscription], list[BackfillRead]], Ledger]) -> Ledger:
        inboxes = {inbox.url: inbox for inbox in self._inboxes.values()}
        subscriptions = self.subscriptions()
        received = [receipt for user, inbox in self._inboxes.items() for receipt in _receipts(inbox, {}, self._users[user])]
        owed = _owed(self.clients, subscriptions, inboxes, self._since)
        live = {subscription.sink_id for subscription in owed if subscription.is_seen}
        replays = [replay for replay in self._replays if replay.sink_id in live and not self._is_cancelled(replay, subscriptions)]
        return reconcile(_rows(self.clients, list(self._users.values())), received, owed, replays)

    def _is_cancelled(self, replay: BackfillRead, subscriptions: Iterable[Subscription]) -> bool:
        sink_name = next(subscription.sink_name for subscription in subscriptions if subscription.sink_id == replay.sink_id)
        return self.clients.subscriptions.find_backfill(sink_name, replay.backfill_id).state == "cancelled"


def stack_ledger(clients: Clients, wait: float = 10.0) -> Ledger:
    """Compare every user's rows with what the stack's inboxes received. Subscriptions to other URLs are `not checked`.

    An inbox belongs to the users whose subscriptions send to it. See `Lesson.ledger` for `wait` and for what counts.
    """
    return _settled(clients, wait, lambda: _stack_reconciled(clients))


def _settled(clients: Clients, wait: float, read: Callable[[], Ledger]) -> Ledger:
    """Read the ledger until nothing is missing or `wait` seconds have passed. Only a row committed before the call can be `lost`.

    The filter function in Sequin is checked as well, because foreign rows may arrive at any time if somebody has changed it.
    """
    called_at = _now(clients) if wait > 0 else _BEFORE_EVERYTHING
    deadline = time.monotonic() + wait
    while True:
        started = time.monotonic()
        ledger = read()
        ended = time.monotonic()
        if ledger.complete or ended >= deadline:
            return replace(ledger.awaiting(called_at), filter_problem=_filter_problem(clients))
        time.sleep(min(max(_POLL, ended - started), deadline - ended))


def _filter_problem(clients: Clients) -> str:
    try:
        clients.subscriptions.check_function()
    except SequinMismatch as error:
        return f"{error.what} {error.remedy}"
    return ""


def _now(clients: Clients) -> datetime:
    """Return the current time of the database, whose clock also sets `created_at`."""
    with clients.database.connect() as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None  # noqa: S101 - a SELECT of one expression has one row
        now: datetime = row[0]
        return now


def _stack_reconciled(clients: Clients) -> Ledger:
    inboxes = {inbox.url: inbox for inbox in clients.inspector.inboxes()}
    subscriptions = clients.subscriptions.list()
    pairs = [(subscription, inbox) for subscription in subscriptions if (inbox := _inbox_of(subscription, inboxes))]
    received: list[Receipt] = []
    for inbox in {inbox.id: inbox for _, inbox in pairs}.values():
        owners = {subscription.sink_id: subscription.user_id for subscription, target in pairs if target is inbox}
        received += _receipts(inbox, owners, otherwise=next(iter(owners.values())))
    return rows.reconcile(_rows(clients, None), received, _owed(clients, subscriptions, inboxes, {}))


def _inbox_of(subscription: Subscription, inboxes: Mapping[str, Inbox]) -> Inbox | None:
    """Return the inbox that receives a subscription's webhooks, or None. `inboxes` maps URLs to inboxes."""
    return inbox_at(subscription.url, inboxes)


def _receipts(inbox: Inbox, owners: Mapping[str, int], otherwise: int) -> list[Receipt]:
    """Return every message in an inbox, in order of arrival.

    `owners` maps a sink id to the owner of the inbox for that sink; for other sinks, the owner is `otherwise`.
    """
    return [
        Receipt(owners.get(message.sink_id, otherwise), request.seq, request.received_at, request.accepted, message)
        for request in inbox.received()
        for message in request.messages()
    ]


def _owed(
    clients: Clients, subscriptions: Iterable[Subscription], inboxes: Mapping[str, Inbox], since: Mapping[str, datetime]
) -> list[OwedSubscription]:
    """Return each subscription with the time from which it must deliver rows.

    This is its time in `since` or, if it has none there, the time in its database row.
    """
    with clients.database.connect() as connection:
        recorded_at = dict(connection.execute(_SUBSCRIBED_AT).fetchall())
    return [
        OwedSubscription(
            subscription.user_id,
            subscription.sink_id,
            subscription.sink_name,
            since.get(subscription.sink_id, recorded_at.get(subscription.sink_id, datetime.now(UTC))),
            is_seen=_inbox_of(subscription, inboxes) is not None,
        )
        for subscription in subscriptions
        if subscription.status != MISSING
    ]


def _rows(clients: Clients, users: list[int] | None) -> list[Row]:
    with clients.database.connect() as connection:
        return [Row(*row) for row in connection.execute(_ROWS, {"users": users})]
