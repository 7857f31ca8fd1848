"""What `userhooks doctor` looks at: each thing that can be wrong between a row and its webhook, with what to do about it.

Checks only look: nothing is started, repaired or sent. They go from the machine to the single subscription, and those that need what was
found wrong are left out, so that the first complaint is the one to act on.

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
"""Bytes for an empty database (40 MB), its WAL, and a slot that falls behind for a while."""
WAL_ALLOWED = 64 << 20
"""Bytes of WAL that a slot may keep before it is a finding: four segments."""
CONNECT_SECONDS = 3.0
SLOT_LOOK_SECONDS = 40.0
"""Seconds to watch the slot of a Sequin server that has WAL to confirm; a healthy one confirms within 30, by its heartbeat (every 15 s)."""
SLOT_POLL_SECONDS = 0.2
STALLED_BACKFILL_SECONDS = 60.0
"""Seconds after which an active backfill that has read no row is a finding."""
NAMED = 5
"""Sinks named in one finding before the rest is counted."""

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
"""How errors of functions begin: the engine's, then a real Sequin's."""
_FUNCTION = {"same": "has the code that userhooks gave it", "missing": "is not there yet; the first subscription makes it"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `about` what, whether it is `fine`, what is the case, and what to do when it is not."""

    about: str
    fine: bool
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'ok   ' if self.fine else 'WRONG'}  {self.about}: {self.text}"
        return f"{line}\n       {self.remedy}" if self.remedy and not self.fine else line


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, from the machine up to each subscription; a finding is yielded as soon as it is known."""
    status = stack_status(settings)
    home = Home(settings.home)
    yield from _machine(home, our_postgres=status.postgres.embedded)
    yield from _parts(status, settings, home)
    embedded = status.sequin.embedded
    if status.state("postgres") == "down":
        return
    database = Database(status.postgres.url or "")
    answer = _asking(
        "database", lambda: database.check(home.slot if embedded else None), lambda _: "answers, and can do logical replication"
    )
    yield answer
    if not answer.fine:
        return
    tables_are_there = True
    try:
        yield from _contents(database, home, embedded=embedded)
    except DatabaseUnsuitable as error:
        tables_are_there = False
        yield Finding("tables", False, error.what, error.remedy)
    if status.state("sequin") == "down":
        return
    with SequinClient(status.sequin.url, status.sequin.api_token or "", status.sequin.database) as sequin:
        # Without the home's key: it is for the secrets of new subscriptions, and there may be no home yet.
        yield from _sequin(database, sequin, Subscriptions(database, sequin, home_key=b""), status, tables_are_there=tables_are_there)


# --- the machine and the processes -------------------------------------------------------------------------------------


def _machine(home: Home, *, our_postgres: bool) -> Iterator[Finding]:
    if not home.path.exists():
        yield Finding("home", True, f"{home.path} is not there yet; userhooks up makes it")
    else:
        yield judge_home(home)
    yield judge_disk(home.path, shutil.disk_usage(_existing(home.path)).free)
    if not our_postgres:
        return
    cluster = cluster_folder(home.path)
    if runs_as_root():
        yield judge_way(_existing(cluster.parent))
    else:
        with_name = _has_name(os.geteuid())
        text = f"this user (uid {os.geteuid()}) has {'an' if with_name else 'no'} entry in the password file"
        yield Finding("user", with_name, text, "Run as a user with a name: Postgres refuses to run without one.")


def judge_home(home: Home) -> Finding:
    """Whether only its owner may enter the home and read its secrets."""
    open_paths = [path for path in (home.path, home.secrets_file, home.stack_file) if path.exists() and path.stat().st_mode & 0o077]
    if open_paths:
        names = " ".join(str(path) for path in open_paths)
        return Finding("home", False, f"others may read {names}", f"Run chmod go-rwx {names}")
    return Finding("home", True, f"{home.path} is its owner's alone")


def judge_disk(path: Path, free: int) -> Finding:
    """Whether `free` bytes are enough for the database and what a slot may hold back."""
    return Finding(
        "disk", free >= DISK_NEEDED, f"{free / 2**30:.1f} GB free at {path}", "Free at least 1 GB, or set USERHOOKS_HOME to another disk."
    )


def judge_way(folder: Path) -> Finding:
    """Whether `nobody`, as whom Postgres runs when we are root, can reach this folder."""
    closed = [str(step) for step in (folder, *folder.parents) if not step.stat().st_mode & stat.S_IXOTH]
    if closed:
        return Finding("way to the database", False, f"the user nobody cannot enter {closed[-1]}", f"Run chmod o+x {closed[-1]}")
    return Finding("way to the database", True, f"the user nobody, as whom Postgres runs for root, can reach {folder}")


def _has_name(uid: int) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(uid).pw_name)
    return False


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(step for step in (path, *path.parents) if step.exists())


def _parts(status: StackStatus, settings: Settings, home: Home) -> Iterator[Finding]:
    """Which of our parts run; for those that do not, whether their ports are free."""
    ours = [part for part in PARTS if status.state(part) != "external"]
    stopped = all(status.state(part) == "down" for part in ours)
    if stopped:
        yield Finding("stack", False, f"is not running: {', '.join(ours)}", "Run userhooks up --detach")
    for part in PARTS:
        if status.state(part) == "down":
            if not stopped:
                yield Finding(part, False, "is not running", f"Run userhooks up --detach; what it said last is in {home.log(part)}")
            yield from _ports(part, status, settings)
        elif status.state(part) == "running":
            yield Finding(part, True, f"runs as process {status.part(part).pid}")


def _ports(part: PartName, status: StackStatus, settings: Settings) -> Iterator[Finding]:
    host = settings.inspector_bind if part == "inspector" else "127.0.0.1"
    urls = {part: status.part(part).url, "metrics": status.sequin.metrics_url}
    for name in ("sequin", "metrics") if part == "sequin" else (part,):
        # A port that is still to be chosen is free by definition; the address of a database that is still to be made is not known.
        if port := urlsplit(urls[name] or "").port or settings.ports[name]:
            yield _asking(f"port {port}", partial(require_free, name, host, port), lambda _: "is free")


# --- the database ------------------------------------------------------------------------------------------------------


def _contents(database: Database, home: Home, *, embedded: bool) -> Iterator[Finding]:
    users = len(database.users())
    text = f"{users} in the table users" if users else "there are none, and a notification needs one: its user_id is a foreign key"
    yield Finding("users", users > 0, text, "Add one: INSERT INTO users (name) VALUES ('Ada');")
    with database.connect() as connection:
        full = _one(connection, _IDENTITY) is True
        text = "is FULL" if full else "is not FULL, so deletes carry no user_id and reach nobody"
        yield Finding("replica identity", full, f"that of notifications {text}", "Run userhooks up, which applies sql/replica_identity.sql")
        if embedded:
            there = _one(connection, _PUBLICATION, home.publication) is True
            published = _one(connection, _PUBLISHED, home.publication) is True
            text = f"notifications is {'in' if published else 'not in'} {home.publication}" if there else f"{home.publication} is missing"
            remedy = "Run userhooks up, which applies sql/publication.sql, and backfill each subscription: changes until then are left out."
            yield Finding("publication", published, text, remedy)
            readable = _one(connection, _READABLE) is True
            text = f"the role {connection.info.user} may {'' if readable else 'not '}read notifications, as backfills do"
            yield Finding("rights", readable, text, f"Run GRANT SELECT ON notifications TO {connection.info.user};")
            if _one(connection, _ROWS_HIDDEN) is True:
                user = connection.info.user
                text = f"it hides rows of notifications from the role {user}, so no backfill reads them"
                remedy = f"Run ALTER ROLE {user} BYPASSRLS; as a superuser, or set DATABASE_URL to a role that may read all rows."
                yield Finding("row-level security", False, text, remedy)
            row = connection.execute(_SLOT, [home.slot]).fetchone()
            yield judge_slot(home.slot, row)


def judge_slot(slot: str, row: tuple[bool, str, int] | None) -> Finding:
    """Whether the slot is there, read, intact and not far behind; `row` is (active, wal_status, bytes of WAL that it keeps)."""
    if row is None:
        remedy = "Run userhooks up --detach: the engine makes one, and its log says why when it cannot; then doctor again for what is lost."
        return Finding("slot", False, f"{slot} is not there", remedy)
    active, wal_status, kept = row
    wal = f"keeps {kept / 2**20:.1f} MB of WAL"
    if wal_status == "lost":
        remedy = "Run userhooks up --detach: the engine makes it anew; then backfill every subscription: userhooks backfill SINK"
        return Finding("slot", False, f"{slot} fell so far behind that Postgres gave it up, and changes with it", remedy)
    if not active:
        return Finding("slot", False, f"nobody reads {slot}, which {wal}", "Run userhooks up --detach, or see the log of sequin.")
    if kept > WAL_ALLOWED or wal_status == "unreserved":
        remedy = "Look for a receiver that fails: userhooks subscriptions; pause or unsubscribe it."
        return Finding("slot", False, f"{slot} is read and {wal}, which Postgres cannot remove", remedy)
    return Finding("slot", True, f"{slot} is read, {wal}")


# --- Sequin and the subscriptions --------------------------------------------------------------------------------------


def _sequin(
    database: Database, sequin: SequinClient, subscriptions: Subscriptions, status: StackStatus, *, tables_are_there: bool
) -> Iterator[Finding]:
    answer = _asking("Sequin", sequin.version, lambda version: f"answers at {status.sequin.url}, {version}")
    yield answer
    if not answer.fine:
        return
    token = _asking("API token", sequin.sinks, lambda sinks: f"accepted; sinks: {len(sinks)}")
    yield token
    if not token.fine:
        return
    name = status.sequin.database
    connected = _asking("Sequin's database", sequin.test_connection, lambda _: f"Sequin can connect to {name}")
    yield connected
    yield _asking("filter function", subscriptions.check_function, lambda state: f"{FUNCTION_NAME} {_FUNCTION[state]}")
    if connected.fine and not status.sequin.embedded:
        yield from _replication(database, sequin.slot())
    if tables_are_there:
        yield from _subscriptions(sequin, subscriptions, status)


@dataclass(frozen=True)
class SlotLook:
    """What watching a slot for `seconds` showed.

    `waiting`: bytes of the WAL of the start that were not confirmed at the end. `confirmed`: whether any were in between.
    `active`: whether somebody read the slot.
    """

    seconds: float
    waiting: int
    confirmed: bool
    active: bool


def watch_slot(
    read: Callable[[], tuple[bool, int, int] | None], clock: Callable[[], float], sleep: Callable[[float], None]
) -> SlotLook | None:
    """Watch a slot until something is confirmed or nothing waits, at most SLOT_LOOK_SECONDS; None when it is not there.

    `read` returns (active, confirmed LSN, WAL's end).
    """
    start, first = clock(), read()
    latest, active = first, False
    while first is not None and latest is not None:
        active |= latest[0]
        seconds, waiting, confirmed = clock() - start, max(0, int(first[2] - latest[1])), latest[1] > first[1]
        if not waiting or confirmed or seconds >= SLOT_LOOK_SECONDS:
            return SlotLook(seconds, waiting, confirmed, active)
        sleep(SLOT_POLL_SECONDS)
        latest = read()
    return None


def _replication(database: Database, slot: str) -> Iterator[Finding]:
    with database.connect() as connection:
        look = watch_slot(lambda: connection.execute(_CONFIRMED, [slot]).fetchone(), time.monotonic, time.sleep)
    if look is not None:
        yield judge_replication(slot, look)


def judge_replication(slot: str, look: SlotLook) -> Finding:
    """Whether a Sequin server confirms what the slot holds."""
    if look.confirmed or not look.waiting:
        return Finding("replication", True, f"Sequin confirms what it reads from {slot}")
    nothing = f"Nothing of {slot} was confirmed for {look.seconds:.0f} s, although {look.waiting / 2**10:,.0f} kB of WAL wait"
    if not look.active:
        return Finding("replication", False, f"{nothing}, and nobody reads it", "Start Sequin, or see its log: no sink gets anything.")
    remedy = (
        "If it is so again in a minute, Sequin probably cannot read a change, and no sink gets any; an int[] with bounds such as "
        "[0:1]={1,2} does that. Correcting the row does not help, because the WAL keeps the change. Correct it, stop Sequin, run "
        f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn()); and start Sequin. The changes that waited are not sent: "
        "a ledger names them. Run userhooks backfill SINK for each subscription; deletes among them are lost."
    )
    return Finding("replication", False, nothing, remedy)


def judge_backfill(about: str, backfill: Backfill, now: datetime) -> Finding | None:
    """What is wrong with a backfill of an active sink, if anything is."""
    seconds = (now - backfill.inserted_at).total_seconds()
    if not backfill.has_read_nothing or seconds < STALLED_BACKFILL_SECONDS:
        return None
    text = f"its backfill {backfill.id} is active and has read no row of {backfill.table} for {seconds:.0f} s"
    return Finding(f"{about}, backfill", False, text, backfill.error or UNREADABLE_VALUE)


def _subscriptions(sequin: SequinClient, subscriptions: Subscriptions, status: StackStatus) -> Iterator[Finding]:
    listed = subscriptions.list()
    yield from each_thing_once([found for subscription in listed for found in _subscription(subscription, sequin, status)])
    known = {subscription.sink_id for subscription in listed}
    for sink in sequin.sinks():
        if "user_id" in sink.annotations and sink.id not in known and sink.database == status.sequin.database:
            text = f"belongs to user {sink.annotations['user_id']} and to no row of webhook_subscriptions"
            yield Finding(sink.name, False, text, f"Was the user deleted? Run userhooks unsubscribe {sink.name}")


def _subscription(subscription: Subscription, sequin: SequinClient, status: StackStatus) -> Iterator[Finding]:
    about = subscription.sink_name
    if subscription.status == MISSING:
        remedy = f"Run userhooks subscribe {subscription.user_id} {subscription.url}"
        yield Finding(about, False, "its sink is gone from Sequin", remedy)
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
        yield from (found for found in stalled if found is not None)


def _delivers(sink: Sink) -> bool | None:
    """Whether the sink's webhooks arrive, by its health; None when nothing was sent yet."""
    return False if sink.error is not None else True if sink.health == "healthy" else None


def judge_together(sink: Finding, reach: Finding, *, refused: bool, reported: bool) -> list[Finding]:
    """Combine what a sink's health and a connection to its receiver say, so that a dead receiver is one finding.

    `refused`: the sink's complaint is about its receiver. `reported`: the receiver is our inspector, which has a finding of its own.
    """
    if reach.fine:
        return [sink, reach]
    if reported:
        return [] if refused else [sink]
    return [replace(reach, about=sink.about, text=f"{reach.text}. {sink.text}")] if refused else [sink, reach]


def each_thing_once(findings: Sequence[Finding]) -> list[Finding]:
    """Merge the findings that say the same thing is wrong, with the same remedy, into one that names everything it is about."""
    abouts: dict[tuple[str, str], list[str]] = {}
    for found in findings:
        if not found.fine:
            abouts.setdefault((found.text, found.remedy), []).append(found.about)
    merged: list[Finding] = []
    for found in findings:
        names = [found.about] if found.fine else abouts.pop((found.text, found.remedy), [])
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            merged.append(replace(found, about=", ".join(names[:NAMED]) + more))
    return merged


def _is_at(url: str, base: str) -> bool:
    """Whether `url` leads to the server at `base`."""
    its, own = urlsplit(url), urlsplit(base)
    return (its.scheme, its.hostname, its.port) == (own.scheme, own.hostname, own.port)


def judge_error(about: str, error: str) -> Finding:
    """Turn a sink's health error into a finding; in the engine's own messages, the remedy follows the first sentence."""
    what, _, remedy = error.partition(". ")
    if error.startswith(_OF_A_FUNCTION):
        remedy = "Correct the function in Sequin, or the row; nothing is sent in the meantime, and the webhooks that wait are tried again."
        return Finding(about, False, f"Sequin says: {error}", remedy)
    if error.startswith("[") or not remedy:
        return Finding(about, False, f"Sequin says: {error}", "The webhooks wait and are sent again; see what the receiver answers.")
    if "Start a backfill" in remedy:
        remedy = f"Run userhooks backfill {about}"
    return Finding(about, False, f"Sequin says: {what}", remedy)


def judge_reach(about: str, url: str, *, own_engine: bool, delivers: bool | None, connect: Callable[[str, int], str]) -> Finding:
    """Whether the place that sends the webhooks can reach the URL's host; `connect` returns '' or what is wrong.

    The local engine sends from here, so it is tried from here, without sending anything. A real Sequin server sends from its own machine
    or container, which we cannot try. Whether a loopback address leads from there to a receiver here is known once something was sent:
    `delivers`.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    about = f"{about}, URL"
    if own_engine:
        problem = connect(host, port)
        return Finding(about, not problem, problem or f"{host} port {port} takes connections", "Start the receiver, or correct the URL.")
    if _is_loopback(host) and delivers is not False:
        shown = "webhooks arrive there" if delivers else "whether that is this one shows with the first webhook"
        return Finding(about, True, f"{host} is the machine or container of the Sequin server; {shown}")
    if _is_loopback(host):
        remedy = (
            "Set USERHOOKS_INSPECTOR_BIND=0.0.0.0 and USERHOOKS_INSPECTOR_PUBLIC_URL to an address that Sequin reaches, and subscribe anew."
        )
        return Finding(about, False, f"{host} is Sequin's own machine or container, seen from there", remedy)
    return Finding(about, True, f"{host} port {port} is sent to by the Sequin server, from where it cannot be tried")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _connect(host: str, port: int, *, allow_private: bool) -> str:
    """Connect as the local engine would, to vetted addresses only; '' or what is wrong."""
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        return f"the name {host} does not resolve"
    if any(forbidden(address, allow_private=allow_private) for address in addresses):
        return f"{host} leads to an address to which no webhooks are sent"
    for address in addresses:
        with contextlib.suppress(OSError):
            socket.create_connection((address, port), timeout=CONNECT_SECONDS).close()
            return ""
    return f"nothing takes connections at {host} port {port}"


# --- asking ------------------------------------------------------------------------------------------------------------


def _asking(about: str, ask: Callable[[], T], text: Callable[[T], str]) -> Finding:
    """A finding from a call that raises when something is wrong; its error says what, and what to do."""
    try:
        return Finding(about, True, text(ask()))
    except UserhooksError as error:
        return Finding(about, False, error.what, error.remedy)


def _one(connection: psycopg.Connection[Any], query: str, *values: str) -> object:
    row = connection.execute(query.encode(), values).fetchone()
    return row[0] if row else None
