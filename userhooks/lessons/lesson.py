"""A lesson's own users and inboxes, what a notebook does with them, and the ledger read from the database and the inboxes.

How the two sides are judged is `ledger/`; what subscribing and generating mean is in `webhooks/subscriptions.py` and `generator.py`.

It is long because a lesson and the reading of its ledger need the same users and inboxes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, overload
from urllib.parse import urlsplit

from userhooks.errors import InvalidInput, NotFound, SequinMismatch
from userhooks.ledger import BackfillRead, Ledger, OwedSubscription, Receipt, Row, changes, rows
from userhooks.ledger.live import WalLedger
from userhooks.ledger.recording import Recording
from userhooks.lessons import own_receiver
from userhooks.lessons.generator import Generated, generate
from userhooks.lessons.unfiltered_sink import close_leak, open_leak
from userhooks.webhooks.subscriptions import MISSING

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from userhooks.clients import Clients
    from userhooks.inspector.client import Inbox
    from userhooks.webhooks.sequin_resources import Sink
    from userhooks.webhooks.subscriptions import BackfillHandle, Subscription

USERS = ("ada", "ben", "cy")
LOAD_USER = "crowd"
"""The name of users that are made by the thousand for measurements (`userhooks.capacity`)"""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)
_LABEL = re.compile(rf"lesson [A-Za-z0-9_-]{{1,40}}: ({'|'.join(USERS)})")
_SCHEMA_PREFIX = "lesson_"
_POLL = 0.1
_BEFORE_EVERYTHING = datetime.min.replace(tzinfo=UTC)


# A created_at may be null, as in the seed's table; such a row is older than any subscription.
_ROWS = """
    SELECT id, user_id, coalesce(created_at, 'epoch') FROM public.notifications
    WHERE user_id IS NOT NULL AND (%(users)s::int[] IS NULL OR user_id = ANY(%(users)s::int[])) ORDER BY id
"""
_SUBSCRIBED_AT = "SELECT sequin_sink_id::text, created_at FROM public.webhook_subscriptions"
_DELETE_USERS = "DELETE FROM public.users WHERE id = ANY(%s)"


class Lesson:
    """The users Ada, Ben and Cy of one lesson, and an inbox for each. Made by `Stack.lesson`.

    Nobody else's users, rows, subscriptions or inboxes are touched. The exception is a real Sequin server, which can take few sinks: there
    the sinks of other lessons are removed. In the database a user is called like `lesson 01: ada`, and so is the
    inbox. `user` is always one of `ada`, `ben`, `cy`; any other raises NotFound.

        lesson = stack.lesson("01")
        lesson.subscribe("ada", url=lesson.inbox("ada").url)
        lesson.generate(rate=100, seconds=5)

    It is long because each thing that a cell does with a lesson is one method.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidInput("name", f"The lesson's name is {name!r}.", "Use letters, digits, - and _, like 01.")
        self.clients = clients
        self.name = name
        self._since: dict[str, datetime] = {}
        self._replays: list[BackfillRead] = []
        self._recordings: list[Recording] = []
        self._remove()
        if clients.settings.sequin_url is not None:
            self._remove_sinks_of_other_lessons()
        self._users = {user: clients.database.create_user(self._label(user)) for user in USERS}
        self._inboxes = {user: clients.inspector.inbox(self._label(user)) for user in USERS}

    @property
    def users(self) -> Mapping[str, int]:
        """Name -> id in the table users."""
        return dict(self._users)

    def user(self, user: str) -> int:
        """The user's id in the table users."""
        self._require(user)
        return self._users[user]

    def inbox(self, user: str) -> Inbox:
        """The inbox that is meant for this user's webhooks; subscribe its `url`."""
        self._require(user)
        return self._inboxes[user]

    def subscribe(self, user: str, url: str) -> Subscription:
        """Send the user's rows to `url` from now on; the same call again returns the same subscription.

        Raises InvalidInput for a URL that is none, and what `Subscriptions.subscribe` raises.
        """
        before = self.clients.database.wal_position()
        subscription = self.clients.subscriptions.subscribe(self.user(user), url)
        if subscription.created:
            self._since[subscription.sink_id] = _now(self.clients)
            self._leave_out_before(subscription.sink_id, before)
        return subscription

    def _leave_out_before(self, sink_id: str, lsn: int) -> None:
        """A sink of a real server may be sent rows that are older than itself; the lesson's inboxes do not show them."""
        if self.clients.settings.sequin_url is not None:
            for inbox in self._inboxes.values():
                inbox.leave_out_before(sink_id, lsn)

    def serve(self, handler: type[BaseHTTPRequestHandler]) -> own_receiver.ReceiverServer:
        """Serve a receiver that the reader wrote, in the background; subscribe its `url`. Raises InvalidInput for anything but a handler.

        The same call again closes the one before and puts the new one in its place, at the same URL. It listens where the inspector does.

            server = lesson.serve(Receiver)
            lesson.subscribe("ada", url=server.url)
            server.answers()
        """
        settings = self.clients.settings
        host = urlsplit(settings.inspector_public_url or "").hostname or "127.0.0.1"
        return own_receiver.serve(self.name, handler, bind=settings.inspector_bind, host=host)

    def subscriptions(self) -> list[Subscription]:
        """The subscriptions of this lesson's users."""
        return [subscription for user in self._users.values() for subscription in self.clients.subscriptions.list(user)]

    def insert(self, user: str, text: str) -> int:
        """Insert one notification for the user and return its id."""
        return self.clients.database.insert_notifications([(self.user(user), text)])[0]

    def schema(self) -> str:
        """The name of a Postgres schema of this lesson's own, for tables that it makes; it is made when there is none.

        It goes with the lesson, and before it the sinks on its tables with their endpoints. Raises DatabaseUnsuitable when a schema of that
        name is somebody else's.
        """
        self.clients.database.create_schema(self._schema)
        return self._schema

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
        """Write notifications for this lesson's users, `rate` rows a second, until `seconds` or `count` is reached or Stop is pressed.

        `seed` makes the choice of users repeatable. `mix` and `progress` are those of `generator.generate`, as are the errors.

            generated = lesson.generate(rate=100, seconds=5, seed=1)
            print(generated.summary())
            generated.per_user
        """
        users = list(self._users.values())
        return generate(
            self.clients.database_url, rate=rate, seconds=seconds, count=count, mix=mix, users=users, seed=seed, progress=progress
        )

    def backfill(self, user: str) -> BackfillHandle:
        """Send all the user's rows that are there to the user's first subscription once more; `.wait()` for the end.

        As `stack.backfill` does, and the ledger then expects those rows too. Raises NotFound when the user has no subscription.
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

    def break_it(self, user: str) -> Sink:
        """Send every row of the table, whoever's it is, to this user's inbox too: a sink whose filter is `none`. `mend` undoes it.

        It leads to an inbox of this lesson and nowhere else. It also goes when any lesson begins or ends, so that a kernel that was killed
        leaves no leak behind for long.
        """
        before = self.clients.database.wal_position()
        sink = open_leak(self.clients.sequin, self.clients.home_key, self.user(user), self.inbox(user))
        self._leave_out_before(sink.id, before)
        return sink

    def mend(self) -> None:
        """Remove the sink that `break_it` made; what it has sent stays in the inbox."""
        close_leak(self.clients.sequin)

    @overload
    def ledger(self, wait: float = 10.0) -> Ledger: ...

    @overload
    def ledger(self, wait: float = 10.0, *, wal: Literal[True]) -> WalLedger: ...

    def ledger(self, wait: float = 10.0, *, wal: bool = False) -> Ledger | WalLedger:
        """Hold every row of this lesson's users against what their inboxes received; with `wal`, every change from now on.

        What is owed and has not come is given `wait` seconds more and is `lost` after them. What was committed in the meantime, and with
        `wait` 0 everything, is `not yet arrived`. Counts subscriptions to this lesson's
        inboxes, rows that are still in the table, and backfills begun by `Lesson.backfill` and not cancelled. Subscriptions to other
        receivers are `not checked`.

            ledger = lesson.ledger()
            ledger.verdict()
            ledger.frame()

        With `wal=True` updates, deletes, and rows that change hands count as well: Postgres' WAL is read from a temporary slot. That costs
        the database work for every change, so measure rates without it. Raises DatabaseUnsuitable when Postgres has no slot left.

            with lesson.ledger(wal=True) as ledger:
                lesson.generate(rate=100, seconds=5, mix={"insert": 8, "update": 1, "delete": 1})
            ledger.verdict()
        """
        if not wal:
            return _settled(self.clients, wait, lambda: self._reconciled(rows.reconcile))
        recording = Recording(self.clients.database_url, self.clients.sequin.publication())
        self._recordings.append(recording)
        return WalLedger(recording, lambda recorded: _settled(self.clients, wait, lambda: self._judged(recorded)))

    def close(self) -> None:
        """Remove this lesson's users with their rows and subscriptions, empty its inboxes, and close what it serves."""
        for recording in self._recordings:
            recording.close()
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Lesson({self.name!r}, users {', '.join(self._users)})"

    def _label(self, user: str) -> str:
        return f"lesson {self.name}: {user}"

    @property
    def _schema(self) -> str:
        return f"{_SCHEMA_PREFIX}{self.name}"

    def _require(self, user: str) -> None:
        if user not in self._users:
            raise NotFound(f"This lesson has no user {user!r}.", f"Its users are {', '.join(self._users)}.")

    def _judged(self, recording: Recording) -> Ledger:
        users = set(self._users.values())

        def reconcile(table: list[Row], received: list[Receipt], owed: list[OwedSubscription], replays: list[BackfillRead]) -> Ledger:
            committed = recording.changes()  # read last: whatever was received had committed by then
            return changes.reconcile(committed, received, owed, replays, table, users=users, since_lsn=recording.start_lsn)

        return self._reconciled(reconcile)

    def _reconciled(self, reconcile: Callable[[list[Row], list[Receipt], list[OwedSubscription], list[BackfillRead]], Ledger]) -> Ledger:
        inboxes = {inbox.url: inbox for inbox in self._inboxes.values()}
        subscriptions = self.subscriptions()
        received = [receipt for user, inbox in self._inboxes.items() for receipt in _receipts(inbox, {}, self._users[user])]
        owed = _owed(self.clients, subscriptions, inboxes, self._since)
        live = {debt.sink_id for debt in owed if debt.is_seen}
        replays = [replay for replay in self._replays if replay.sink_id in live and not self._is_cancelled(replay, subscriptions)]
        return reconcile(_rows(self.clients, list(self._users.values())), received, owed, replays)

    def _is_cancelled(self, replay: BackfillRead, subscriptions: Iterable[Subscription]) -> bool:
        sink_name = next(subscription.sink_name for subscription in subscriptions if subscription.sink_id == replay.sink_id)
        return self.clients.subscriptions.find_backfill(sink_name, replay.backfill_id).state == "cancelled"

    def _remove(self) -> None:
        """What an earlier run of this lesson left, or this one made: sinks first, so that nothing is sent any more, inboxes last."""
        self.mend()
        labels = {self._label(user) for user in USERS}
        database, subscriptions = self.clients.database, self.clients.subscriptions
        users = [user_id for user_id, name in database.users() if name in labels]
        for user_id in users:
            for subscription in subscriptions.list(user_id):
                if subscription.status != MISSING:
                    subscriptions.unsubscribe(subscription.sink_name)
        if database.has_schema(self._schema):
            self._remove_schema()
        with database.connect() as connection:
            connection.execute(_DELETE_USERS, [users])
        for inbox in self.clients.inspector.inboxes():
            if inbox.name in labels:
                inbox.respond()
                inbox.clear()
        own_receiver.leave(self.name)

    def _remove_sinks_of_other_lessons(self) -> None:
        """Remove the sinks that other lessons left: a real server runs every sink's filter for every row, and twenty can bring it down.

        Those are the subscriptions of their users and of a crowd, and the sinks on tables of their schemas.
        """
        database, sequin = self.clients.database, self.clients.sequin
        subscribed = {row.user_id for row in database.subscriptions()}
        others = [user for user, name in database.users() if user in subscribed and (_LABEL.fullmatch(name) or name == LOAD_USER)]
        if others:
            self.clients.subscriptions.unsubscribe_all(others)
        for sink in sequin.sinks():
            schemas = {table.partition(".")[0] for table in sink.include_tables}
            if schemas and sink.database == sequin.database and all(map(self._is_of_a_lesson, schemas)):
                sequin.delete_sink(sink.id)

    def _is_of_a_lesson(self, schema: str) -> bool:
        return schema.startswith(_SCHEMA_PREFIX) and self.clients.database.has_schema(schema)

    def _remove_schema(self) -> None:
        """The sinks on the schema's tables, every endpoint that leads to an inbox of this lesson and has no sink any more, the schema."""
        sequin = self.clients.sequin
        sinks = sequin.sinks()
        theirs = [sink for sink in sinks if any(table.startswith(f"{self._schema}.") for table in sink.include_tables)]
        for sink in theirs:
            sequin.delete_sink(sink.id)
        labels = {self._label(user) for user in USERS}
        inboxes = {inbox.url: inbox for inbox in self.clients.inspector.inboxes() if inbox.name in labels}
        used = {sink.endpoint for sink in sinks if sink not in theirs}
        for endpoint in sequin.endpoints():
            if endpoint.name not in used and _inbox_at(endpoint.url, inboxes):
                sequin.delete_endpoint(endpoint.id)
        self.clients.database.drop_schema(self._schema)


def stack_ledger(clients: Clients, wait: float = 10.0) -> Ledger:
    """Hold every row of every user against what the inboxes of the stack received; subscriptions to other URLs are `not checked`.

    An inbox belongs to the users that are subscribed to it. What `Lesson.ledger` says of a lesson's users, and of `wait`, holds here
    for all.
    """
    return _settled(clients, wait, lambda: _stack_reconciled(clients))


def _settled(clients: Clients, wait: float, look: Callable[[], Ledger]) -> Ledger:
    """Look until everything owed has come or `wait` seconds are over; only what was committed before them can be lost.

    The filter function in Sequin is compared as well: foreign rows may come at any time when somebody has changed it.
    """
    called_at = _now(clients) if wait > 0 else _BEFORE_EVERYTHING
    deadline = time.monotonic() + wait
    while True:
        began = time.monotonic()
        ledger = look()
        ended = time.monotonic()
        if ledger.complete or ended >= deadline:
            return replace(ledger.awaiting(called_at), filter_problem=_filter_problem(clients))
        time.sleep(min(max(_POLL, ended - began), deadline - ended))


def _filter_problem(clients: Clients) -> str:
    try:
        clients.subscriptions.check_function()
    except SequinMismatch as error:
        return f"{error.what} {error.remedy}"
    return ""


def _now(clients: Clients) -> datetime:
    """The database's clock, which also dates the rows."""
    with clients.database.connect() as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None  # noqa: S101 - a SELECT of one expression has one row
        now: datetime = row[0]
        return now


def _stack_reconciled(clients: Clients) -> Ledger:
    inboxes = {inbox.url: inbox for inbox in clients.inspector.inboxes()}
    subscriptions = clients.subscriptions.list()
    subscribed = [(one, inbox) for one in subscriptions if (inbox := _inbox_of(one, inboxes))]
    received: list[Receipt] = []
    for inbox in {inbox.id: inbox for _, inbox in subscribed}.values():
        owners = {one.sink_id: one.user_id for one, its in subscribed if its is inbox}
        received += _receipts(inbox, owners, otherwise=next(iter(owners.values())))
    return rows.reconcile(_rows(clients, None), received, _owed(clients, subscriptions, inboxes, {}))


def _inbox_of(subscription: Subscription, inboxes: Mapping[str, Inbox]) -> Inbox | None:
    """The inbox, of those by URL, that receives the subscription's webhooks."""
    return _inbox_at(subscription.url, inboxes)


def _inbox_at(url: str, inboxes: Mapping[str, Inbox]) -> Inbox | None:
    """The inbox, of those by URL, that receives what is sent to `url`: its own, or one below it."""
    return next((inbox for its, inbox in inboxes.items() if re.match(re.escape(its) + r"(?:[/?]|$)", url)), None)


def _receipts(inbox: Inbox, owners: Mapping[str, int], otherwise: int) -> list[Receipt]:
    """Every message in the inbox, in the order of arrival; `owners` says by sink whose inbox it is."""
    return [
        Receipt(owners.get(message.sink_id, otherwise), request.seq, request.received_at, request.accepted, message)
        for request in inbox.received()
        for message in request.messages()
    ]


def _owed(
    clients: Clients, subscriptions: Iterable[Subscription], inboxes: Mapping[str, Inbox], since: Mapping[str, datetime]
) -> list[OwedSubscription]:
    """What each subscription owes: everything from the moment it is known to be live, else from when its row was written."""
    with clients.database.connect() as connection:
        written = dict(connection.execute(_SUBSCRIBED_AT).fetchall())
    return [
        OwedSubscription(
            one.user_id,
            one.sink_id,
            one.sink_name,
            since.get(one.sink_id, written.get(one.sink_id, datetime.now(UTC))),
            is_seen=_inbox_of(one, inboxes) is not None,
        )
        for one in subscriptions
        if one.status != MISSING
    ]


def _rows(clients: Clients, users: list[int] | None) -> list[Row]:
    with clients.database.connect() as connection:
        return [Row(*row) for row in connection.execute(_ROWS, {"users": users})]
