"""The checks of `userhooks doctor`, which find what can go wrong between a row and its webhook, and say what to do about it.

Checks are read-only: nothing is started, repaired, or sent. Their order is from the machine to each subscription. A check is skipped if it
depends on another that has failed, so that the first failure is the one to act on.

It is long because each check is one function.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from userhooks.errors import DatabaseUnsuitable, UserhooksError
from userhooks.settings import Settings
from userhooks.stack.embedded_postgres import cluster_folder, runs_as_root
from userhooks.stack.home import Home, require_free
from userhooks.stack.stack import stack_status
from userhooks.stack.status import PARTS, PartName, StackStatus
from userhooks.web.addresses import forbidden
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.sequin_resources import UNREADABLE_VALUE, Backfill, Sink
from userhooks.webhooks.subscriptions import FUNCTION_NAME, MISSING, Subscription, Subscriptions

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

DISK_NEEDED = 1 << 30
"""Free bytes required for an empty database (40 MB), its WAL, and the WAL that a slot retains if it falls behind for a while."""
WAL_ALLOWED = 64 << 20
"""Bytes of WAL that a slot may retain without being reported. This is four segments."""
CONNECT_SECONDS = 3.0
OBSERVATION_SECONDS = 40.0
"""Seconds to watch a separate Sequin server's slot if it has unconfirmed WAL.

A healthy server, whose heartbeat is 15 s, confirms within 30 s.
"""
SLOT_POLL_SECONDS = 0.2
STALLED_BACKFILL_SECONDS = 60.0
"""Seconds after which an active backfill is reported if it has not read any rows yet."""
NAMED = 5
"""Maximum number of sinks that a finding names; the rest are counted."""

_RESUME = """Resume it: PATCH /subscriptions/{} with the body {{"status": "active"}}, at the server's address."""

_SLOT = """
select active, wal_status, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
  from pg_replication_slots where slot_name = %s
"""
_CONFIRMED = """
select active, (confirmed_flush_lsn - '0/0')::bigint, (pg_current_wal_lsn() - '0/0')::bigint
  from pg_replication_slots where slot_name = %s
"""
_IDENTITY = "select relreplident = 'f' from pg_class where oid = to_regclass('public.notifications')"
_PUBLICATION = "select exists (select from pg_publication where pubname = %s)"
_PUBLISHED = (
    "select exists (select from pg_publication_tables where pubname = %s and schemaname = 'public' and tablename = 'notifications')"
)
_READABLE = """
select bool_and(has_column_privilege(attrelid, attnum, 'select')) from pg_attribute
 where attrelid = 'public.notifications'::regclass and attnum > 0 and not attisdropped
"""
_ROWS_HIDDEN = "select row_security_active('public.notifications')"


_OF_A_FUNCTION = ("[filter]", "[transform]", "[routing]", "[function]", "[sink_pipeline]: [function]", "Filter functions must")
"""Prefixes of errors about functions, first those of the local engine, then those of a separate Sequin server."""
_FUNCTION = {"same": "is unchanged", "missing": "does not exist yet; the first subscription creates it"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    `about` is the name of what was checked, `fine` is whether the check passed, `text` describes what was found, and `remedy` says what to
    do if it failed.
    """

    about: str
    fine: bool
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'ok   ' if self.fine else 'WRONG'}  {self.about}: {self.text}"
        return f"{line}\n       {self.remedy}" if self.remedy and not self.fine else line


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything, from the machine to each subscription, and yield each finding as soon as it is known."""
    status = stack_status(settings)
    home = Home(settings.home)
    yield from _machine(home, our_postgres=status.postgres.embedded)
    yield from _parts(status, settings, home)
    embedded = status.sequin.embedded
    if status.state("postgres") == "down":
        return
    database = Database(status.postgres.url or "")
    connection = _finding(
        "database", lambda: database.check(home.slot if embedded else None), lambda _: "answers and supports logical replication"
    )
    yield connection
    if not connection.fine:
        return
    tables_exist = True
    try:
        yield from _contents(database, home, embedded=embedded)
    except DatabaseUnsuitable as error:
        tables_exist = False
        yield Finding("tables", False, error.what, error.remedy)
    if status.state("sequin") == "down":
        return
    with SequinClient(status.sequin.url, status.sequin.api_token or "", status.sequin.database) as sequin:
        # The home's key is only needed to create subscriptions, and the home may not exist yet.
        yield from _sequin(database, sequin, Subscriptions(database, sequin, home_key=b""), status, tables_exist=tables_exist)


# --- the machine and the processes -------------------------------------------------------------------------------------


def _machine(home: Home, *, our_postgres: bool) -> Iterator[Finding]:
    if not home.path.exists():
        yield Finding("home", True, f"{home.path} does not exist yet; userhooks up creates it")
    else:
        yield judge_home(home)
    yield judge_disk(home.path, shutil.disk_usage(_existing(home.path)).free)
    if not our_postgres:
        return
    cluster = cluster_folder(home.path)
    if runs_as_root():
        yield judge_path(_existing(cluster.parent))
    else:
        has_name = _has_name(os.geteuid())
        text = f"this user (uid {os.geteuid()}) has {'an' if has_name else 'no'} entry in the password file"
        yield Finding("user", has_name, text, "Run as a user with an entry there, which Postgres requires.")


def judge_home(home: Home) -> Finding:
    """Check that only its owner can enter the home and read its secrets."""
    open_paths = [path for path in (home.path, home.secrets_file, home.stack_file) if path.exists() and path.stat().st_mode & 0o077]
    if open_paths:
        names = " ".join(str(path) for path in open_paths)
        return Finding("home", False, f"other users can read {names}", f"Run chmod go-rwx {names}")
    return Finding("home", True, f"only the owner can read {home.path}")


def judge_disk(path: Path, free: int) -> Finding:
    """Check that `free` bytes are enough for the database and the WAL that a slot may retain."""
    return Finding(
        "disk", free >= DISK_NEEDED, f"{free / 2**30:.1f} GB free at {path}", "Free at least 1 GB, or set USERHOOKS_HOME to another disk."
    )


def judge_path(folder: Path) -> Finding:
    """Check that `nobody`, the user that runs Postgres if we are root, can access a folder."""
    closed = [str(parent) for parent in (folder, *folder.parents) if not parent.stat().st_mode & stat.S_IXOTH]
    if closed:
        return Finding("path to the database", False, f"the user nobody cannot enter {closed[-1]}", f"Run chmod o+x {closed[-1]}")
    return Finding("path to the database", True, f"the user nobody, which runs Postgres for root, can reach {folder}")


def _has_name(uid: int) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(uid).pw_name)
    return False


def _existing(path: Path) -> Path:
    """Return the path itself, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _parts(status: StackStatus, settings: Settings, home: Home) -> Iterator[Finding]:
    """Check that the stack's own parts are running or, if one is not, that its port is free."""
    ours = [part for part in PARTS if status.state(part) != "external"]
    stopped = all(status.state(part) == "down" for part in ours)
    if stopped:
        yield Finding("stack", False, f"is not running: {', '.join(ours)}", "Run userhooks up --detach")
    for part in PARTS:
        if status.state(part) == "down":
            if not stopped:
                yield Finding(part, False, "is not running", f"Run userhooks up --detach. Its log is {home.log(part)}")
            yield from _ports(part, status, settings)
        elif status.state(part) == "running":
            yield Finding(part, True, f"is running as process {status.part(part).pid}")


def _ports(part: PartName, status: StackStatus, settings: Settings) -> Iterator[Finding]:
    host = settings.inspector_bind if part == "inspector" else "127.0.0.1"
    urls = {part: status.part(part).url, "metrics": status.sequin.metrics_url}
    for name in ("sequin", "metrics") if part == "sequin" else (part,):
        # Port 0 becomes a free port later. A database that does not exist yet has no URL.
        if port := urlsplit(urls[name] or "").port or settings.ports[name]:
            yield _finding(f"port {port}", partial(require_free, name, host, port), lambda _: "is free")


# --- the database ------------------------------------------------------------------------------------------------------


def _contents(database: Database, home: Home, *, embedded: bool) -> Iterator[Finding]:
    users = len(database.users())
    text = f"{users} in the table users" if users else "there are none, but a notification needs one, because its user_id is a foreign key"
    yield Finding("users", users > 0, text, "Add one: INSERT INTO users (name) VALUES ('Ada');")
    with database.connect() as connection:
        full = _scalar(connection, _IDENTITY) is True
        text = "is FULL" if full else "is not FULL, so deletes carry no user_id and are not delivered"
        yield Finding("replica identity", full, f"that of notifications {text}", "Run userhooks up, which applies sql/replica_identity.sql")
        if embedded:
            exists = _scalar(connection, _PUBLICATION, home.publication) is True
            published = _scalar(connection, _PUBLISHED, home.publication) is True
            text = f"notifications is {'in' if published else 'not in'} {home.publication}" if exists else f"{home.publication} is missing"
            remedy = (
                "Run userhooks up, which applies sql/publication.sql. Then backfill each subscription: changes until then are not sent."
            )
            yield Finding("publication", published, text, remedy)
            readable = _scalar(connection, _READABLE) is True
            text = f"the role {connection.info.user} may {'' if readable else 'not '}read notifications, which backfills need"
            yield Finding("privileges", readable, text, f"Run GRANT SELECT ON notifications TO {connection.info.user};")
            if _scalar(connection, _ROWS_HIDDEN) is True:
                user = connection.info.user
                text = f"it hides rows of notifications from the role {user}, so backfills do not read them"
                remedy = f"Run ALTER ROLE {user} BYPASSRLS; as a superuser, or set DATABASE_URL to a role that may read all rows."
                yield Finding("row-level security", False, text, remedy)
            row = connection.execute(_SLOT, [home.slot]).fetchone()
            yield judge_slot(home.slot, row)


def judge_slot(slot: str, row: tuple[bool, str, int] | None) -> Finding:
    """Check that the slot exists, is being read, is intact, and is not far behind. `row` is (active, wal_status, retained bytes of WAL)."""
    if row is None:
        remedy = (
            "Run userhooks up --detach, which creates it, or see the log of sequin. Then run userhooks doctor again to see what is lost."
        )
        return Finding("slot", False, f"{slot} does not exist", remedy)
    active, wal_status, retained = row
    wal = f"retains {retained / 2**20:.1f} MB of WAL"
    if wal_status == "lost":
        remedy = "Run userhooks up --detach, which creates it again. Then backfill every subscription: userhooks backfill SINK"
        return Finding("slot", False, f"{slot} fell so far behind that Postgres invalidated it, and changes are lost", remedy)
    if not active:
        return Finding("slot", False, f"{slot} is not being read, and {wal}", "Run userhooks up --detach, or see the log of sequin.")
    if retained > WAL_ALLOWED or wal_status == "unreserved":
        remedy = "Find the receiver that fails (userhooks subscriptions lists them), and pause or unsubscribe it."
        return Finding("slot", False, f"{slot} is being read, but {wal}, which Postgres cannot remove", remedy)
    return Finding("slot", True, f"{slot} is being read, and {wal}")


# --- Sequin and the subscriptions --------------------------------------------------------------------------------------


def _sequin(
    database: Database, sequin: SequinClient, subscriptions: Subscriptions, status: StackStatus, *, tables_exist: bool
) -> Iterator[Finding]:
    server = _finding("Sequin", sequin.version, lambda version: f"answers at {status.sequin.url}, version {version}")
    yield server
    if not server.fine:
        return
    token = _finding("API token", sequin.sinks, lambda sinks: f"accepted; sinks: {len(sinks)}")
    yield token
    if not token.fine:
        return
    name = status.sequin.database
    connected = _finding("Sequin's database", sequin.test_connection, lambda _: f"Sequin can connect to {name}")
    yield connected
    yield _finding("filter function", subscriptions.check_function, lambda state: f"{FUNCTION_NAME} {_FUNCTION[state]}")
    if connected.fine and not status.sequin.embedded:
        yield from _replication(database, sequin.slot())
    if tables_exist:
        yield from _subscriptions(sequin, subscriptions, status)


@dataclass(frozen=True)
class SlotObservation:
    """The result of watching a slot for `seconds`.

    `waiting` is the number of bytes of WAL that existed at the start and are still unconfirmed at the end. `confirmed` is whether any WAL
    was confirmed in between, and `active` whether a program read the slot.
    """

    seconds: float
    waiting: int
    confirmed: bool
    active: bool


def watch_slot(
    read: Callable[[], tuple[bool, int, int] | None], clock: Callable[[], float], sleep: Callable[[float], None]
) -> SlotObservation | None:
    """Watch a slot until some WAL is confirmed, all of it is, or OBSERVATION_SECONDS have passed. Return None if there is no slot.

    `read` returns (active, confirmed LSN, end of the WAL).
    """
    start, first = clock(), read()
    latest, active = first, False
    while first is not None and latest is not None:
        active |= latest[0]
        seconds, waiting, confirmed = clock() - start, max(0, int(first[2] - latest[1])), latest[1] > first[1]
        if not waiting or confirmed or seconds >= OBSERVATION_SECONDS:
            return SlotObservation(seconds, waiting, confirmed, active)
        sleep(SLOT_POLL_SECONDS)
        latest = read()
    return None


def _replication(database: Database, slot: str) -> Iterator[Finding]:
    with database.connect() as connection:
        result = watch_slot(lambda: connection.execute(_CONFIRMED, [slot]).fetchone(), time.monotonic, time.sleep)
    if result is not None:
        yield judge_replication(slot, result)


def judge_replication(slot: str, observed: SlotObservation) -> Finding:
    """Check that a separate Sequin server confirms the WAL of its slot."""
    if observed.confirmed or not observed.waiting:
        return Finding("replication", True, f"Sequin confirms what it reads from {slot}")
    text = f"no WAL of {slot} was confirmed for {observed.seconds:.0f} s, although {observed.waiting / 2**10:,.0f} kB are waiting"
    if not observed.active:
        return Finding("replication", False, f"{text}, and nobody reads it", "Start Sequin, or see its log. No sink gets anything.")
    remedy = (
        "If this is reported again in a minute, Sequin probably cannot read a change, and no sink gets any changes. An int[] with bounds "
        "such as [0:1]={1,2} causes this. Correcting the row is not enough, because the WAL keeps the change. Correct it, stop Sequin, run "
        f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn()); and start Sequin. The waiting changes are not sent, but a "
        "ledger names them. Run userhooks backfill SINK for each subscription; deletes among the waiting changes are lost."
    )
    return Finding("replication", False, text, remedy)


def judge_backfill(about: str, backfill: Backfill, now: datetime) -> Finding | None:
    """Return a finding if a backfill of an active sink has stalled, otherwise None."""
    seconds = (now - backfill.inserted_at).total_seconds()
    if not backfill.has_read_nothing or seconds < STALLED_BACKFILL_SECONDS:
        return None
    text = f"its backfill {backfill.id} is active but has not read a row of {backfill.table} for {seconds:.0f} s"
    return Finding(f"{about}, backfill", False, text, backfill.error or UNREADABLE_VALUE)


def _subscriptions(sequin: SequinClient, subscriptions: Subscriptions, status: StackStatus) -> Iterator[Finding]:
    listed = subscriptions.list()
    yield from each_thing_once([finding for subscription in listed for finding in _subscription(subscription, sequin, status)])
    known = {subscription.sink_id for subscription in listed}
    for sink in sequin.sinks():
        if "user_id" in sink.annotations and sink.id not in known and sink.database == status.sequin.database:
            text = f"belongs to user {sink.annotations['user_id']} but has no row in webhook_subscriptions"
            yield Finding(sink.name, False, text, f"If the user was deleted, run userhooks unsubscribe {sink.name}")


def _subscription(subscription: Subscription, sequin: SequinClient, status: StackStatus) -> Iterator[Finding]:
    about = subscription.sink_name
    if subscription.status == MISSING:
        remedy = f"Run userhooks subscribe {subscription.user_id} {subscription.url}"
        yield Finding(about, False, "its sink no longer exists in Sequin", remedy)
        return
    sink = sequin.sink(subscription.sink_id)
    connect = partial(_connect, allow_private=status.private_addresses == "allow")
    reach = judge_reach(about, subscription.url, own_engine=status.sequin.embedded, delivers=_delivers(sink), connect=connect)
    if sink.status != "active":
        state = Finding(about, False, f"is {sink.status}, so nothing is sent", _RESUME.format(about))
    elif sink.error is not None:
        state = judge_error(about, sink.error)
    else:
        state = Finding(about, True, f"user {subscription.user_id}, {sink.health or 'active'}")
    yield from judge_together(
        state,
        reach,
        refused=sink.status == "active" and (sink.error or "").startswith("[http_endpoint]"),
        reported=status.state("inspector") == "down" and _is_at(subscription.url, status.inspector.url),
    )
    if sink.status == "active":
        stalled = (judge_backfill(about, backfill, datetime.now(UTC)) for backfill in sink.active_backfills)
        yield from (finding for finding in stalled if finding is not None)


def _delivers(sink: Sink) -> bool | None:
    """Return whether the sink's webhooks arrive, according to its health, or None if none has been sent yet."""
    return False if sink.error is not None else True if sink.health == "healthy" else None


def judge_together(sink: Finding, reach: Finding, *, refused: bool, reported: bool) -> list[Finding]:
    """Combine the findings about a sink's health and its receiver, so that a dead receiver is one finding.

    `refused` is whether the sink's error is about its receiver. `reported` is whether the receiver is an inspector that has already been
    reported as down.
    """
    if reach.fine:
        return [sink, reach]
    if reported:
        return [] if refused else [sink]
    return [replace(reach, about=sink.about, text=f"{reach.text}. {sink.text}")] if refused else [sink, reach]


def each_thing_once(findings: Sequence[Finding]) -> list[Finding]:
    """Merge failed findings that have the same text and remedy into one, whose `about` lists all of them."""
    abouts: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if not finding.fine:
            abouts.setdefault((finding.text, finding.remedy), []).append(finding.about)
    merged: list[Finding] = []
    for finding in findings:
        names = [finding.about] if finding.fine else abouts.pop((finding.text, finding.remedy), [])
        if names:
            rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            merged.append(replace(finding, about=", ".join(names[:NAMED]) + rest))
    return merged


def _is_at(url: str, base: str) -> bool:
    """Return whether two URLs have the same scheme, host, and port."""
    target, server = urlsplit(url), urlsplit(base)
    return (target.scheme, target.hostname, target.port) == (server.scheme, server.hostname, server.port)


def judge_error(about: str, error: str) -> Finding:
    """Convert the error in a sink's health to a finding. In the local engine's own messages, the remedy follows the first sentence."""
    what, _, remedy = error.partition(". ")
    if error.startswith(_OF_A_FUNCTION):
        remedy = "Correct the function in Sequin, or the row. Until then nothing is sent, and pending webhooks are retried."
        return Finding(about, False, f"Sequin says: {error}", remedy)
    if error.startswith("[") or not remedy:
        return Finding(about, False, f"Sequin says: {error}", "Pending webhooks are kept and retried. Check what the receiver answers.")
    if "Start a backfill" in remedy:
        remedy = f"Run userhooks backfill {about}"
    return Finding(about, False, f"Sequin says: {what}", remedy)


def judge_reach(about: str, url: str, *, own_engine: bool, delivers: bool | None, connect: Callable[[str, int], str]) -> Finding:
    """Check that the sender of the webhooks can reach the URL's host. `connect` returns what is wrong, or an empty string.

    The local engine sends from this machine, so connecting from here is a valid test. A separate Sequin server sends from its own machine
    or container, which cannot be tested from here. `delivers` is whether its webhooks arrive, or None if none has been sent yet.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    about = f"{about}, URL"
    if own_engine:
        problem = connect(host, port)
        return Finding(about, not problem, problem or f"{host} port {port} accepts connections", "Start the receiver, or correct the URL.")
    if _is_loopback(host) and delivers is not False:
        evidence = "webhooks arrive" if delivers else "the first webhook will show whether that is this machine"
        return Finding(about, True, f"{host} means the Sequin server's own machine or container; {evidence}")
    if _is_loopback(host):
        remedy = (
            "Set USERHOOKS_INSPECTOR_BIND=0.0.0.0, and USERHOOKS_INSPECTOR_PUBLIC_URL to an address that Sequin can reach. "
            "Then subscribe again."
        )
        return Finding(about, False, f"{host} means the Sequin server's own machine or container, not this machine", remedy)
    return Finding(about, True, f"the Sequin server sends to {host} port {port}, which cannot be tested from here")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _connect(host: str, port: int, *, allow_private: bool) -> str:
    """Connect as the local engine would, to allowed addresses only. Return what is wrong, or an empty string."""
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        return f"the host name {host} does not resolve"
    if any(forbidden(address, allow_private=allow_private) for address in addresses):
        return f"{host} resolves to an address that webhooks may not be sent to"
    for address in addresses:
        with contextlib.suppress(OSError):
            socket.create_connection((address, port), timeout=CONNECT_SECONDS).close()
            return ""
    return f"{host} port {port} does not accept connections"


# --- helpers -----------------------------------------------------------------------------------------------------------


def _finding(about: str, check: Callable[[], T], text: Callable[[T], str]) -> Finding:
    """Return a finding from a call that raises an error if something is wrong."""
    try:
        return Finding(about, True, text(check()))
    except UserhooksError as error:
        return Finding(about, False, error.what, error.remedy)


def _scalar(connection: psycopg.Connection[Any], query: str, *values: str) -> object:
    row = connection.execute(query.encode(), values).fetchone()
    return row[0] if row else None
