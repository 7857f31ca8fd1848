"""The stack as one object: start it or attach to it, kill and restart its parts, and get clients for them.

Notebooks and commands use this object. `supervisor.py` manages the processes. Each client has its own module, which is imported on first
use, so that `import userhooks` stays fast.
"""

from __future__ import annotations

import html
import re
import ssl
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from userhooks.clients import Clients
from userhooks.errors import START, ConfigurationError, DatabaseUnavailable, NotRunning, SequinError, SequinFailed, SequinUnreachable
from userhooks.settings import Settings
from userhooks.stack import control
from userhooks.stack.home import Home
from userhooks.stack.status import PARTS, PartName, SlotStatus, StackStatus
from userhooks.stack.supervisor import describe
from userhooks.web.access_tokens import page_link

if TYPE_CHECKING:
    import pandas as pd

    from userhooks.inspector.client import InspectorClient
    from userhooks.lessons.lesson import Lesson
    from userhooks.webhooks.database import Database
    from userhooks.webhooks.sequin_client import SequinClient
    from userhooks.webhooks.subscriptions import BackfillHandle, Subscription, Subscriptions

_METRICS_SECONDS = 10.0


class Stack:
    """A running stack: Postgres, Sequin (the local engine or a separate server), the subscription server, and the inspector.

    Create one with `Stack.start()` or `Stack.attach()`. The stack keeps running after this object, or the kernel that created it, is gone.
    As a context manager, it closes its clients on exit, and stops the stack if `start` started it.

        stack = Stack.start()
        stack.database.users()
        stack.stop()
    """

    def __init__(self, settings: Settings, status: StackStatus, *, started: bool) -> None:
        self.settings = settings
        self.started = started
        """Whether `start` started the stack, rather than finding it running, when it created this object."""
        self._home = Home(settings.home)
        self._status = status  # its addresses and tokens stay valid, but its process ids may be out of date

    @classmethod
    def start(cls, settings: Settings | None = None) -> Stack:
        """Attach to the home's stack and start every part that is down, or start the whole stack.

        Settings are read from the environment unless `settings` is given. Raises ConfigurationError if a port is in use, this release
        cannot use the home, or the stack is running with other settings. Raises DatabaseUnavailable, DatabaseUnsuitable, or SequinError if
        the database or a separate Sequin server cannot be used.
        """
        settings = settings or Settings.from_env()
        status, started = control.up(settings)
        return cls(settings, status, started=started)

    @classmethod
    def attach(cls, settings: Settings | None = None) -> Stack:
        """Connect to the running stack. Raises NotRunning if there is none, or if a part of it is down."""
        settings = settings or Settings.from_env()
        status = stack_status(settings)
        if not status.ready:
            down = [part for part in PARTS if status.state(part) == "down"]
            raise NotRunning(f"Not running: {', '.join(down)}.", f"{START}.")
        return cls(settings, status, started=False)

    def stop(self) -> str:
        """Stop every process of the stack and keep its data.

        Return a note about the WAL that your own database still retains for the stack, or an empty string if the embedded database is used.
        """
        return stop_stack(self.settings)

    def close(self) -> None:
        """Close the connections of this object's clients. The stack keeps running."""
        for name in ("sequin", "inspector"):
            if (client := self.__dict__.pop(name, None)) is not None:
                client.close()
        self.__dict__.pop("subscriptions", None)  # it uses the Sequin client, which is now closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the clients, and stop the stack if this object started it."""
        self.close()
        if self.started:
            self.stop()

    def wait(self) -> None:
        """Wait until the stack has been stopped, by this process or another."""
        state = self._home.running()
        while state is not None and control.await_end({state["supervisor"]["pid"]: state["supervisor"]["started"]}, patience=0):
            time.sleep(0.2)

    def status(self) -> StackStatus:
        """Return what runs where. Unlike `userhooks status`, this does not send Sequin any requests."""
        return stack_status(self.settings)

    def kill(self, part: str) -> None:
        """Kill `postgres`, `sequin`, `server`, or `inspector`. It stays down until `restart` or the next `start`."""
        control.ask(self._running(), "kill", part=part)

    def restart(self, part: str) -> None:
        """Stop a part if it is running, start it, and return when it is ready."""
        control.ask(self._running(), "restart", part=part)

    def _running(self) -> dict[str, Any]:
        state = self._home.running()
        if state is None:
            raise NotRunning("The stack is not running.", f"{START}.")
        return state

    # --- clients -------------------------------------------------------------------------------------------------------

    @property
    def home_key(self) -> bytes:
        """The key that every subscription's secret is derived from."""
        return self._home.secrets.home_key

    @property
    def database_url(self) -> str:
        """The URL of the app's database, including the password."""
        return self._status.postgres.url or ""

    @cached_property
    def database(self) -> Database:
        """A client for the app's database: its users, notifications, and setup."""
        from userhooks.webhooks.database import Database

        return Database(self.database_url)

    @cached_property
    def sequin(self) -> SequinClient:
        """A client for Sequin's Management API."""
        from userhooks.webhooks.sequin_client import SequinClient

        return SequinClient(self._status.sequin.url, self._status.sequin.api_token or "", self._status.sequin.database)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        """A client to subscribe, unsubscribe, pause, resume, and backfill."""
        from userhooks.webhooks.subscriptions import Subscriptions

        return Subscriptions(self.database, self.sequin, self.home_key, allow_private=self._status.private_addresses == "allow")

    @cached_property
    def inspector(self) -> InspectorClient:
        """A client for the inspector's inboxes."""
        from userhooks.inspector.client import InspectorClient

        return InspectorClient(self._status.inspector.url, self._status.inspector.token or "")

    @property
    def clients(self) -> Clients:
        """The clients and settings that a lesson needs, as one value."""
        return Clients(
            settings=self.settings,
            database_url=self.database_url,
            home_key=self.home_key,
            database=self.database,
            sequin=self.sequin,
            inspector=self.inspector,
            subscriptions=self.subscriptions,
            start=lambda: self.start(self.settings),
            kill=self.kill,
            restart=self.restart,
        )

    def metrics(self) -> pd.DataFrame:
        """Return Sequin's Prometheus metrics as a DataFrame with one row per sample.

        The columns are `metric`, `value`, and one for each label.

        Raises ConfigurationError if the metrics URL of a separate server is not set, and SequinUnreachable or SequinFailed if the page
        cannot be read.

            page = stack.metrics()
            page[page["metric"] == "sequin_messages_buffered"]
        """
        import httpx

        from userhooks.stack.sequin_metrics import parse

        url = self._status.sequin.metrics_url
        if url is None:
            address = "http://localhost:8376/metrics with compose.yaml"
            remedy = f"Run userhooks down, set SEQUIN_METRICS_URL ({address}), and run userhooks up --detach."
            raise ConfigurationError("The metrics URL of this Sequin server is not set.", remedy)
        try:
            answer = httpx.get(url, timeout=_METRICS_SECONDS, trust_env=False, verify=_trusted_certificates())
            answer.raise_for_status()
            return parse(answer.text)
        except httpx.HTTPStatusError:
            raise SequinFailed(f"The metrics page answered with status {answer.status_code}.", "Check SEQUIN_METRICS_URL.") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            remedy = "When Sequin is down, so is its metrics page. Start it with userhooks up, or correct SEQUIN_METRICS_URL."
            raise SequinUnreachable(f"The metrics page does not answer: {error}.", remedy) from None

    def lesson(self, name: str) -> Lesson:
        """Return a lesson with separate users and empty inboxes. What an earlier run of the same lesson left behind is removed."""
        from userhooks.lessons.ipython_errors import explain_errors
        from userhooks.lessons.lesson import Lesson

        explain_errors(lambda: None)
        lesson = Lesson(self.clients, name)
        explain_errors(lesson.problem)
        return lesson

    def backfill(self, subscription: Subscription | str) -> BackfillHandle:
        """Send all current rows of a subscription's user again. Call `wait` on the result to wait until they have been sent.

        The subscription may also be given as the name of its sink.
        """
        sink_name = subscription if isinstance(subscription, str) else subscription.sink_name
        return self.subscriptions.backfill(sink_name)

    # --- notebook display ----------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Stack({self._status.mode})"

    def _repr_html_(self) -> str:
        pages = {
            "server": (f"{self._status.server.url}/openapi.json", "accepts subscriptions"),
            "sequin": (self._status.sequin.url, "reads the WAL and sends webhooks"),
            "inspector": (self._status.inspector.url, "receives webhooks"),
        }
        links = page_links(self._status)
        rows = "".join(
            f'<tr><th style="text-align: left">{part}</th>'
            f'<td><a href="{html.escape(links.get(part, url))}">{html.escape(url)}</a></td><td>{role}</td></tr>'
            for part, (url, role) in pages.items()
        )
        caption = f"The stack ({self._status.mode}). {private_addresses(self._status)}."
        return f"<table><caption>{caption}</caption>{rows}</table>"


def stack_status(settings: Settings) -> StackStatus:
    """Return what runs where, whether or not the stack is running. Nothing is started, created, or sent to any part."""
    home = Home(settings.home)
    state = home.running()
    if state is not None:
        try:
            return control.ask(state, "status")
        except NotRunning:
            pass  # the supervisor was killed, so its programs have exited too, or are about to
    ports = home.ports(settings) if home.path.exists() else settings.ports
    return describe(settings, home, ports, pids={}, ready=False, version=None)


def full_status(settings: Settings) -> StackStatus:
    """Return `stack_status`, completed by what Sequin reports.

    This is whether the filter function has changed and, for a separate server, its sinks and its slot.
    """
    status = stack_status(settings)
    if not status.ready:
        return status
    from userhooks.webhooks.database import Database
    from userhooks.webhooks.sequin_client import SequinClient
    from userhooks.webhooks.subscriptions import FUNCTION_CODE, FUNCTION_NAME

    part = status.sequin
    # Errors are ignored here; `userhooks doctor` explains why Sequin does not answer or refuses the token.
    with SequinClient(part.url, part.api_token or "", part.database) as sequin, suppress(SequinError, DatabaseUnavailable):
        if sequin.function_state(FUNCTION_NAME, "filter", FUNCTION_CODE) == "different":
            part = replace(part, filter_function="different")
        if not part.embedded:
            sinks = [sink for sink in sequin.sinks() if sink.database == sequin.database and "user_id" in sink.annotations]
            part = replace(part, sinks=dict(Counter("failing" if sink.error else sink.status for sink in sinks)))
            slot = sequin.slot()
            progress = Database(status.postgres.url or "").slot_progress(slot)
            behind = None if progress is None else max(0, progress[1] - progress[0])
            part = replace(part, slot=SlotStatus(slot, behind))
    return replace(status, sequin=part)


def stop_stack(settings: Settings) -> str:
    """Stop the home's stack, even if parts of it have died. Return a note about the WAL that a slot in the user's own database retains."""
    home = Home(settings.home)
    database = stack_status(settings).postgres
    control.down(home)
    if database.embedded:
        return ""
    return _held_wal(database.url or "", home.slot)


@cache
def _trusted_certificates() -> ssl.SSLContext:
    """Return a TLS context with the usual root certificates. Loading them takes longer than reading a metrics page."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def page_links(status: StackStatus) -> dict[str, str]:
    """Return links to the web pages of the inspector and the local engine, if they are running. Links expire and contain no token."""
    pages: dict[PartName, tuple[str, str | None]] = {
        "inspector": (status.inspector.url, status.inspector.token),
        "sequin": (status.sequin.url, status.sequin.api_token),
    }
    return {part: page_link(f"{url}/", token or "", time.time()) for part, (url, token) in pages.items() if status.state(part) == "running"}


def without_password(url: str) -> str:
    """Return a database URL or a libpq connection string with its password replaced, for display."""
    return re.sub(r"(?<=password=)('(?:[^'\\]|\\.)*'|[^\s&]+)", "…", re.sub(r"(?<=//)([^:/@]*):[^@/]*@", r"\1@", url))


def private_addresses(status: StackStatus) -> str:
    """Return a sentence that says whether webhooks may go to loopback and private addresses, and which variable controls it."""
    verdict = "allowed" if status.private_addresses == "allow" else "refused"
    return f"Webhooks to loopback and private addresses are {verdict} (USERHOOKS_PRIVATE_ADDRESSES={status.private_addresses})"


def _held_wal(database_url: str, slot: str) -> str:
    import psycopg

    from userhooks.shared.postgres_connections import connect

    try:
        with connect(database_url) as connection:
            row = connection.execute(
                "SELECT pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_replication_slots WHERE slot_name = %s",
                [slot],
            ).fetchone()
    except psycopg.OperationalError:
        return f"The database does not answer, so the WAL that the slot {slot} still holds is not known."
    if row is None:
        return ""
    return (
        f"The slot {slot} still holds {row[0]} of WAL in your database, and more with every change, until the next userhooks up.\n"
        f"""If you are done with it, drop it: psql "$DATABASE_URL" -c "SELECT pg_drop_replication_slot('{slot}')\""""
    )
