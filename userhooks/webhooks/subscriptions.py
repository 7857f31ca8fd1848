"""Subscribe and unsubscribe users. The server, the commands, and the widgets all call this module, so their messages are the same.

A subscription consists of an HTTP endpoint and a sink in Sequin, and a row in webhook_subscriptions. Each call holds a lock on the user,
undoes its steps if it fails, and repairs what a crashed call left behind. `sequin_client.py` calls Sequin, and `database.py`
manages the rows and locks.

It is long because each step of a subscription is next to the code that undoes it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from userhooks.errors import (
    DeliveriesMissing,
    Forbidden,
    InvalidInput,
    NotFound,
    SequinError,
    SequinInvalid,
    SequinMismatch,
    SequinNotFound,
)
from userhooks.shared.html_table import html_table
from userhooks.web.addresses import check_webhook_url
from userhooks.webhooks.database import Database, LockedUser, SubscriptionRow
from userhooks.webhooks.receiver_call import TEST_EVENT_SECONDS, ReceiverAnswer, send_test_event
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.sequin_resources import (
    BACKFILL_STARTS_WITHIN_S,
    UNREADABLE_VALUE,
    Backfill,
    BackfillState,
    Endpoint,
    FunctionState,
    NewEndpoint,
    NewSink,
    Sink,
    SinkStatus,
)
from userhooks.webhooks.subscription_secret import subscription_secret

log = logging.getLogger(__name__)

TABLE = "public.notifications"
FUNCTION_NAME = "userhooks-rows-of-user"
# All sinks share one function, and each sink's annotation says whose rows it accepts. A sink without the annotation accepts nothing. An
# update that moves a row to another user is rejected for both users, because its `changes` contain the previous owner's values.
FUNCTION_CODE = """\
def filter(_action, record, changes, metadata) do
  wanted = metadata.consumer.annotations["user_id"]
  not is_nil(wanted) and is_nil(changes["user_id"]) and to_string(record["user_id"]) == to_string(wanted)
end
"""

MISSING: Final = "missing"
"""The status of a subscription whose sink no longer exists in Sequin."""

_SINK_NAME = re.compile(r"user-([1-9][0-9]{0,17})-notifications(-[0-9a-f]{8})?", re.ASCII)
_RUNNING = ("active", "paused")
_POLL_S = 0.1
_CALLS_AT_ONCE = 16


@dataclass(frozen=True)
class Subscription:
    """A user's webhooks to one URL.

    `status` is that of the sink, or MISSING. `created` is whether the call that returned it created the subscription; `secret` is set only
    in that case.
    """

    user_id: int
    sink_id: str
    sink_name: str
    url: str
    status: SinkStatus | Literal["missing"]
    secret: str | None = field(default=None, repr=False)
    created: bool = False

    def _repr_html_(self) -> str:
        return html_table("Subscription", {"user": self.user_id, "sink": self.sink_name, "URL": self.url, "status": self.status})


class _Names(NamedTuple):
    sink: str
    endpoint: str


class Subscriptions:
    """The subscriptions of the app's users.

    All methods may raise DatabaseUnavailable, DatabaseUnsuitable, and the SequinErrors of `SequinClient`. If a sink would
    send other users' rows, they delete it and raise SequinMismatch. `allow_private` permits webhook URLs in loopback and private networks.

    It is long because each step is next to the code that undoes it.
    """

    def __init__(
        self,
        database: Database,
        sequin: SequinClient,
        home_key: bytes,
        *,
        allow_private: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._sequin = sequin
        self._home_key = home_key
        self._allow_private = allow_private
        self._clock = clock
        self._sleep = sleep
        self._table_is_known = False

    # --- subscribe and unsubscribe -------------------------------------------------------------------------------------

    def subscribe(self, user_id: int, url: str) -> Subscription:
        """Send the user's rows to `url` from now on; repeating the call returns the existing subscription.

        Raises InvalidInput for an invalid user id or URL, and NotFound for an unknown user. A failed call leaves nothing behind.
        """
        check_user_id(user_id)
        check_webhook_url(url, allow_private=self._allow_private)
        with self._looking_at_tables_after_refusals(), self._database.locked_user(user_id) as user:
            user.require()
            self._ensure_function()
            rows = user.subscriptions()
            for row in (row for row in rows if row.url == url):
                sink = self._sink(row.sink_id)
                if sink is not None:
                    return self._reuse(sink, row)
                user.remove(row.sink_id)  # Somebody deleted its sink.
            names = self._free_names(user_id, url, {row.sink_id for row in rows})
            return self._create(user, user_id, url, names)

    def subscribe_all(self, urls: Mapping[int, str]) -> Sequence[Subscription]:
        """Subscribe new users, each to a URL, with one call to Sequin.

        Subscribes all users or none. Hundreds of users take as long as a few calls of `subscribe`. Raises InvalidInput if a user id or URL
        is not valid or a user already has a subscription, and NotFound if a user does not exist. Raises SequinInvalid if a sink of another
        database or app already has one of the names.
        """
        for user_id, url in urls.items():
            check_user_id(user_id)
            check_webhook_url(url, allow_private=self._allow_private)
        names = {user_id: _names(user_id, url)[0] for user_id, url in urls.items()}
        with self._looking_at_tables_after_refusals(), self._database.locked_users(urls) as users:
            users.require_new()
            self._ensure_function()
            endpoints = [NewEndpoint(names[user_id].endpoint, url, self._headers(user_id, url)) for user_id, url in urls.items()]
            sinks_to_make = [
                NewSink(name.sink, name.endpoint, (TABLE,), FUNCTION_NAME, {"user_id": str(user_id)}) for user_id, name in names.items()
            ]
            taken = self._sequin.taken_names(endpoints, sinks_to_make)
            for user_id, name in names.items():
                if not taken.isdisjoint(name):
                    self._free_names(user_id, urls[user_id], set())
                    self._sequin.delete_endpoint(name.endpoint)  # Sequin refuses this while another sink uses it.
            try:
                made = self._sequin.create_sinks(endpoints, sinks_to_make)
                self._sequin.wait_until_live([sink.name for sink in made])
                sinks = dict(zip(urls, made, strict=True))
                users.add([(user_id, url, sinks[user_id].id) for user_id, url in urls.items()])
                users.commit()
            except BaseException:
                self._undo_all(names)
                raise
        log.info("Subscribed %d users", len(urls))
        return [
            Subscription(
                user_id, sink.id, sink.name, urls[user_id], sink.status, subscription_secret(self._home_key, user_id, urls[user_id]), True
            )
            for user_id, sink in sinks.items()
        ]

    def unsubscribe_all(self, user_ids: Sequence[int]) -> None:
        """Remove these users' subscriptions, including incomplete ones left by a crash. Users who do not exist or have none are ignored.

        Sequin deletes one resource per call, so several calls run concurrently.
        """
        with self._looking_at_tables_after_refusals(), self._database.locked_users(user_ids) as users:
            rows: dict[int, list[SubscriptionRow]] = {user_id: [] for user_id in user_ids}
            for row in users.subscriptions():
                rows[row.user_id].append(row)
            pool = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="userhooks unsubscribe")
            try:
                for _ in pool.map(self._remove_from_sequin, rows.keys(), rows.values()):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)  # After Stop or an error, do not make the remaining calls.
            users.remove()
        log.info("Removed the subscriptions of %d users", len(user_ids))

    def _remove_from_sequin(self, user_id: int, rows: Sequence[SubscriptionRow]) -> None:
        """Delete a user's sinks and endpoints from Sequin, usually in two calls.

        `rows` are the user's subscriptions. If there are none, delete what a crash may have left behind.
        """
        first = _names(user_id, "")[0]
        left = None if rows else self._find_sink(first.sink)
        if left is not None and self._was_made_for(user_id, left):
            self._sequin.delete_sink(left.id)
        for row in rows:
            self._sequin.delete_sink(row.sink_id)
        if not self._delete_endpoint(first.endpoint) or len(rows) > 1:
            for row in rows:
                self._delete_endpoint(_names(user_id, row.url)[1].endpoint)

    def unsubscribe(self, sink_name: str) -> None:
        """Remove a subscription's sink, endpoint, and row, or those that still exist; raises NotFound if there is no such subscription."""
        user_id = _owner(sink_name)
        with self._looking_at_tables_after_refusals(), self._database.locked_user(user_id) as user:
            sink = self._sink(sink_name)
            row = self._row(user, sink_name, sink)
            if row is None and (sink is None or not self._was_made_for(user_id, sink)):
                raise _unknown_sink(sink_name)
            if row is not None:
                user.remove(row.sink_id)
            if sink is not None:
                self._sequin.delete_sink(sink.id)
            self._delete_endpoint(sink.endpoint if sink is not None else sink_name.replace("notifications", "endpoint"))
            log.info("Removed sink %s", sink_name)

    def _reuse(self, sink: Sink, row: SubscriptionRow) -> Subscription:
        """Return an existing subscription, after checking that its sink sends only the user's rows, and correcting its endpoint's URL."""
        self._require_rows_of(row.user_id, sink)
        endpoint = self._sequin.endpoint(sink.endpoint)
        if not _same_url(endpoint.url, row.url):
            self._sequin.update_endpoint(endpoint.id, url=row.url, encrypted_headers=self._headers(row.user_id, row.url))
            log.info("Pointed HTTP endpoint %s back to the subscription's URL", endpoint.name)
        return Subscription(row.user_id, sink.id, sink.name, row.url, sink.status)

    def _free_names(self, user_id: int, url: str, sinks_with_row: set[str]) -> _Names:
        """Return the first of the two pairs of names that no other subscription of the user has.

        If a crash left a sink with these names but without a row, it is deleted.
        """
        for names in _names(user_id, url):
            sink = self._find_sink(names.sink)
            if sink is None:
                return names
            if sink.id in sinks_with_row:
                continue
            if not self._was_made_for(user_id, sink):
                what = f"Sequin has a sink {sink.name} already, for its database {sink.database}, which userhooks did not create."
                raise SequinInvalid(what, "Rename or delete that sink, or use another account of this Sequin server.")
            self._sequin.delete_sink(sink.id)
            log.info("Removed sink %s (id %s), which belonged to no subscription", sink.name, sink.id)
            return names
        raise InvalidInput("webhookUrl", "webhookUrl leads to a sink name that another URL of this user has.", "Change the URL a little.")

    def _create(self, user: LockedUser, user_id: int, url: str, names: _Names) -> Subscription:
        # Delete a resource by name until its id is known, because the answer with the id can be lost. From then on, delete it by id: if the
        # database connection breaks, the lock is lost, and another call may use the same names.
        sink_ref = endpoint_ref = ""
        try:
            endpoint_ref = names.endpoint
            endpoint = self._create_endpoint(names.endpoint, user_id, url)
            endpoint_ref = endpoint.id
            log.info("Created HTTP endpoint %s (id %s)", endpoint.name, endpoint.id)
            sink_ref = names.sink
            sink = self._sequin.create_sink(
                names.sink,
                endpoint=names.endpoint,
                include_tables=[TABLE],
                filter_function=FUNCTION_NAME,
                annotations={"user_id": str(user_id)},
            )
            sink_ref = sink.id
            log.info("Created sink %s (id %s)", sink.name, sink.id)
            self._sequin.wait_until_live([sink.name])
            user.add(url, sink.id)
            user.commit()
        except BaseException:
            self._undo(sink_ref, endpoint_ref)
            raise
        return Subscription(user_id, sink.id, sink.name, url, sink.status, self.secret(user_id, url), created=True)

    def _create_endpoint(self, name: str, user_id: int, url: str) -> Endpoint:
        headers = self._headers(user_id, url)
        try:
            return self._sequin.create_endpoint(name, url, encrypted_headers=headers)
        except SequinInvalid as error:
            if "name" not in error.validation_errors:
                raise
        self._sequin.delete_endpoint(name)  # A crash left it behind. No sink uses it, or `_free_names` would have found the sink.
        return self._sequin.create_endpoint(name, url, encrypted_headers=headers)

    def _was_made_for(self, user_id: int, sink: Sink) -> bool:
        """Return whether a sink was created for this user of our database, rather than for another database or app."""
        return sink.database == self._sequin.database and sink.annotations.get("user_id") == str(user_id)

    def _undo_all(self, names: Mapping[int, _Names]) -> None:
        """Delete the sinks and endpoints that a failed `subscribe_all` created. They are found by name, since the ids may be unknown."""
        users = {name.sink: user_id for user_id, name in names.items()}
        try:
            for sink in self._sequin.sinks():
                if sink.name in users and self._was_made_for(users[sink.name], sink):
                    self._sequin.delete_sink(sink.id)
            for name in names.values():
                self._delete_endpoint(name.endpoint)
        except SequinError as error:
            log.warning("Could not undo a failed subscribe (%s); the next one of these users will.", error.what)

    def _undo(self, sink_ref: str, endpoint_ref: str) -> None:
        try:
            if sink_ref:
                self._sequin.delete_sink(sink_ref)
            self._sequin.delete_endpoint(endpoint_ref)
        except SequinError as error:
            log.warning("Could not undo a failed subscribe (%s); the next one of this user will.", error.what)

    def _delete_endpoint(self, name: str) -> bool:
        """Delete an endpoint, unless a sink uses it, and return whether it was deleted."""
        try:
            return self._sequin.delete_endpoint(name)
        except SequinInvalid as error:  # Another sink uses it.
            log.warning("Kept HTTP endpoint %s: %s", name, error.what)
            return False

    def _headers(self, user_id: int, url: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret(user_id, url)}"}

    def secret(self, user_id: int, url: str) -> str:
        """Return the secret that this user's webhooks to this URL send as `Authorization: Bearer …`; show it to the URL's owner only."""
        return subscription_secret(self._home_key, user_id, url)

    def send_test_event(self, sink_name: str, timeout: float = TEST_EVENT_SECONDS) -> ReceiverAnswer:
        """Send a test event to a subscription's receiver, and return its answer; raises InvalidInput or NotFound.

        The event comes from this computer, not from Sequin, and contains no rows. It is sent even if the sink is paused. `timeout` is in
        seconds.
        """
        subscription = self.get(sink_name)
        user_id, url = subscription.user_id, subscription.url
        return send_test_event(
            url, self.secret(user_id, url), sink_name=sink_name, user_id=user_id, allow_private=self._allow_private, timeout=timeout
        )

    # --- list, pause, resume -------------------------------------------------------------------------------------------

    def list(self, user_id: int | None = None) -> list[Subscription]:
        """Return all subscriptions, or one user's; raises InvalidInput for an invalid user id and NotFound for an unknown one.

        A subscription whose sink no longer exists has the status MISSING and a name derived from its URL. Subscribing again recreates it.
        """
        if user_id is None:
            rows = self._database.subscriptions()
            sinks = {sink.id: sink for sink in self._sequin.sinks()} if rows else {}
            return [_subscription(row, sinks.get(row.sink_id)) for row in rows]
        check_user_id(user_id)
        with self._database.locked_user(user_id) as user:
            user.require()
            rows = user.subscriptions()
        return [_subscription(row, self._find_sink(row.sink_id)) for row in rows]

    def get(self, sink_name: str) -> Subscription:
        """Return one subscription; raises InvalidInput or NotFound."""
        with self._database.locked_user(_owner(sink_name)) as user:
            sink = self._sink(sink_name)
            row = self._row(user, sink_name, sink)
        if row is None:
            raise _unknown_sink(sink_name)
        return _subscription(row, sink)

    def pause(self, sink_name: str) -> Subscription:
        """Pause delivery of the user's rows until `resume`; raises InvalidInput or NotFound."""
        return self._set_status(sink_name, "paused")

    def resume(self, sink_name: str) -> Subscription:
        """Resume delivery, starting with the rows of the pause; raises InvalidInput or NotFound."""
        return self._set_status(sink_name, "active")

    def _set_status(self, sink_name: str, status: SinkStatus) -> Subscription:
        subscription = self.get(sink_name)
        sink = self._sink(subscription.sink_id)
        if sink is None:
            raise _unknown_sink(sink_name)
        with self._looking_at_tables_after_refusals():
            self._ensure_function()
            self._require_rows_of(subscription.user_id, sink)
            status = self._sequin.update_sink(sink.id, status=status).status
        return Subscription(subscription.user_id, sink.id, sink.name, subscription.url, status)

    # --- backfills -----------------------------------------------------------------------------------------------------

    def backfill(self, sink_name: str, user_id: int | None = None) -> BackfillHandle:
        """Start sending all existing rows of the sink's user as `read` messages.

        Raises InvalidInput or NotFound. Raises Forbidden if `user_id` is given and the sink belongs to another user, and SequinInvalid if
        a backfill of this sink is already running.
        """
        owner = _owner(sink_name)
        if user_id is not None:
            check_user_id(user_id)
        sink = self._sink(sink_name)
        if sink is None:
            raise _unknown_sink(sink_name)
        if user_id not in (None, owner):
            raise Forbidden(f"The sink {sink_name} is not one of user {user_id}.", "Give the name of one of this user's own sinks.")
        with self._looking_at_tables_after_refusals():
            self._ensure_function()
            self._require_rows_of(owner, sink)
            try:
                backfill = self._sequin.create_backfill(sink.id)
            except SequinInvalid as error:
                if "sink_consumer_id" not in error.validation_errors:
                    raise
                what = f"A backfill of {sink_name} is running already."
                raise SequinInvalid(what, "Wait until it has ended, or cancel it.", status=error.status) from None
        log.info("Created backfill of sink %s (id %s)", sink_name, backfill.id)
        return BackfillHandle(self._sequin, backfill, clock=self._clock, sleep=self._sleep)

    def find_backfill(self, sink_name: str, backfill_id: str) -> BackfillHandle:
        """Return a backfill started earlier; raises InvalidInput or NotFound."""
        _owner(sink_name)
        unknown = NotFound(f"The sink {sink_name} has no backfill {backfill_id}.", "Use the id that the call to backfill returned.")
        try:
            uuid.UUID(backfill_id)
            backfill = self._sequin.backfill(sink_name, backfill_id)
        except (ValueError, SequinNotFound):
            raise unknown from None
        return BackfillHandle(self._sequin, backfill, clock=self._clock, sleep=self._sleep)

    # --- shared steps ---------------------------------------------------------------------------------------------------

    def _ensure_function(self) -> None:
        """Make sure Sequin has the filter function and knows the table; raises SequinMismatch if somebody changed the function.

        The code is compared every time, because a sink that is created while the function accepts everything would send all users' rows to
        one user.
        """
        if not self._table_is_known:
            self._sequin.refresh_tables()
            self._table_is_known = True
        if self.check_function() == "missing":
            self.restore_function()

    def check_function(self) -> FunctionState:
        """Return whether Sequin's filter function is `same` or `missing`; raises SequinMismatch if somebody changed its code."""
        state = self.function_state()
        if state == "different":
            what = f"The function {FUNCTION_NAME} in Sequin is not the one that userhooks created. It may send one user's rows to another."
            raise SequinMismatch(what, "Run userhooks up, which puts it back, and find out who changed it.")
        return state

    def function_state(self) -> FunctionState:
        """Return whether Sequin's filter function is `same`, `missing`, or `different`."""
        return self._sequin.function_state(FUNCTION_NAME, "filter", FUNCTION_CODE)

    def restore_function(self) -> bool:
        """Restore the filter function, and return whether it was missing or different."""
        return self._sequin.ensure_function(FUNCTION_NAME, "filter", FUNCTION_CODE)

    @contextmanager
    def _looking_at_tables_after_refusals(self) -> Iterator[None]:
        """If Sequin refuses a call in this block, reload its tables before the next call."""
        try:
            yield
        except SequinError as error:
            if error.status is not None and 400 <= error.status < 500:
                self._table_is_known = False
            raise

    def _require_rows_of(self, user_id: int, sink: Sink) -> Sink:
        wanted = {"filter": FUNCTION_NAME, "annotations": {"user_id": str(user_id)}, "source": {"include_tables": [TABLE]}}
        return self._sequin.require_sink(sink, wanted)

    def _find_sink(self, name_or_id: str) -> Sink | None:
        try:
            return self._sequin.sink(name_or_id)
        except SequinNotFound:
            return None

    def _sink(self, name_or_id: str) -> Sink | None:
        """Return the sink if it exists and reads our database."""
        sink = self._find_sink(name_or_id)
        return sink if sink is not None and sink.database == self._sequin.database else None

    def _row(self, user: LockedUser, sink_name: str, sink: Sink | None) -> SubscriptionRow | None:
        """Return the sink's row. If `sink` is None, return a row whose sink is gone and whose URL could have given it `sink_name`."""
        rows = user.subscriptions()
        if sink is not None:
            return next((row for row in rows if row.sink_id == sink.id), None)
        fitting = (row for row in rows if sink_name in [names.sink for names in _names(row.user_id, row.url)])
        return next((row for row in fitting if self._find_sink(row.sink_id) is None), None)


class BackfillHandle:
    """A backfill in Sequin; its `state` and row counters are those of the last `refresh`."""

    def __init__(
        self,
        sequin: SequinClient,
        backfill: Backfill,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sequin = sequin
        self._backfill = backfill
        self._clock = clock
        self._sleep = sleep

    @property
    def id(self) -> str:
        """The backfill's id in Sequin."""
        return self._backfill.id

    @property
    def sink_name(self) -> str:
        """The name of the backfill's sink."""
        return self._backfill.sink_name

    @property
    def state(self) -> BackfillState:
        """One of active, paused, completed, cancelled, and failed."""
        return self._backfill.state

    @property
    def rows_initial_count(self) -> int | None:
        """Number of rows in the table at the start, for all users; None until Sequin has counted them."""
        return self._backfill.rows_initial_count

    @property
    def rows_processed_count(self) -> int:
        """Number of the table's rows processed so far."""
        return self._backfill.rows_processed_count

    @property
    def rows_ingested_count(self) -> int:
        """Number of the table's rows ingested so far."""
        return self._backfill.rows_ingested_count

    def refresh(self) -> BackfillHandle:
        """Update the state and the counters from Sequin, and return this handle."""
        self._backfill = self._sequin.backfill(self.sink_name, self.id)
        return self

    def wait(self, timeout: float = 60.0, progress: Callable[[BackfillHandle], None] = lambda handle: None) -> BackfillHandle:
        """Wait until the backfill is completed, and return this handle.

        Raises DeliveriesMissing after `timeout` seconds, or if the backfill ends in another state. `progress` is called with this handle
        after each refresh. A real Sequin server takes up to 20 s to read the first row.
        """
        deadline = self._clock() + timeout
        while self.refresh().state in _RUNNING:
            progress(self)
            if self._clock() >= deadline:
                what = f"The backfill of {self.sink_name} is {self.state} and has not ended within {timeout:g} s: {self._progress()}."
                remedy = "Check with userhooks subscriptions whether the sink is paused or its receiver fails, or wait longer."
                if self._backfill.has_read_nothing:
                    remedy = f"Sequin may take {BACKFILL_STARTS_WITHIN_S:g} s before the first row. {UNREADABLE_VALUE}"
                raise DeliveriesMissing(what, self._backfill.error or remedy)
            self._sleep(_POLL_S)
        progress(self)
        if self.state != "completed":
            why = self._backfill.error or "Ask for a new one."
            raise DeliveriesMissing(f"The backfill of {self.sink_name} was {self.state}: {self._progress()}.", why)
        return self

    def cancel(self) -> BackfillHandle:
        """Cancel the backfill; raises SequinInvalid if it has already ended."""
        self._backfill = self._sequin.update_backfill(self.sink_name, self.id, "cancelled")
        return self

    def _progress(self) -> str:
        total = "?" if self.rows_initial_count is None else self.rows_initial_count
        return f"{self.rows_processed_count} of {total} rows of the table are done"

    def __repr__(self) -> str:
        return f"BackfillHandle({self.sink_name}, {self.state}, {self._progress()})"

    def _repr_html_(self) -> str:
        return self._backfill._repr_html_()


def check_user_id(user_id: object) -> int:
    """Return `user_id` if it is a positive integer; otherwise, raise InvalidInput for the field `userId`."""
    if not isinstance(user_id, int) or isinstance(user_id, bool) or user_id < 1:
        raise InvalidInput("userId", "userId must be a whole number from 1 on.", "Give the id of a row in users, like 1.")
    return user_id


def _owner(sink_name: object) -> int:
    """Return the user id contained in a subscription's sink name."""
    if not isinstance(sink_name, str) or not sink_name:
        raise InvalidInput("sinkName", "sinkName must be the name of a sink.", "Give one like user-1-notifications.")
    match = _SINK_NAME.fullmatch(sink_name)
    if match is None:
        raise _unknown_sink(sink_name)
    return int(match.group(1))


def _unknown_sink(sink_name: str) -> NotFound:
    remedy = "List the subscriptions with userhooks subscriptions, or GET /subscriptions."
    return NotFound(f"There is no subscription with the sink {sink_name[:100]}.", remedy)


def _names(user_id: int, url: str) -> tuple[_Names, _Names]:
    """Return the names for a user's first URL, and the names for any further URL."""
    suffix = hashlib.sha256(url.encode()).hexdigest()[:8]
    plain = _Names(f"user-{user_id}-notifications", f"user-{user_id}-endpoint")
    return plain, _Names(f"{plain.sink}-{suffix}", f"{plain.endpoint}-{suffix}")


def _subscription(row: SubscriptionRow, sink: Sink | None) -> Subscription:
    if sink is None:
        return Subscription(row.user_id, row.sink_id, _names(row.user_id, row.url)[1].sink, row.url, MISSING)
    return Subscription(row.user_id, sink.id, sink.name, row.url, sink.status)


def _same_url(url_a: str, url_b: str) -> bool:
    """Compare URLs as Sequin normalizes them: lowercase scheme and host, without the scheme's default port."""

    def normal(url: str) -> tuple[object, ...]:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, port, parts.path or "/", parts.query, parts.fragment

    return normal(url_a) == normal(url_b)
