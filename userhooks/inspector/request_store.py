"""Where received requests are kept: SQLite behind one writer that stores in batches, and a ring per inbox; no HTTP here.

`RequestStore.record` returns once the request is committed to SQLite's write-ahead log, and only then does ingest.py answer. So a request
that was answered 2xx survives `kill -9` of this process: the bound on what is lost is zero requests. (A power cut may take what was written
since the log was last synced, because `synchronous=NORMAL`; a test bench for webhooks need not pay an fsync for each.) Waiting for the
commit costs a fraction of a millisecond, since whatever arrives during one commit goes into the next one together.

A row's key is `inbox number << 40 | seq`: one B-tree without a second index, in which each inbox is one range in the order of arrival.

Memory follows the disk: what a call changes in an `StoredInbox` takes effect when its transaction is committed, and not at all when that
fails.

It is long because tables, writer and rings are one unit: each knows what the others hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from userhooks.errors import ConfigurationError
from userhooks.inspector.response_script import Script, parse_script

RING = 200_000
"""Requests that one inbox keeps; older ones are dropped, and counted as dropped."""

HOME_BYTES = 1 << 30
"""What all inboxes together may take on disk; beyond it the oldest requests of all go first."""

_SEQ_BITS = 40
_SEQ_MASK = (1 << _SEQ_BITS) - 1
_TRIM_ROWS = 500
_PAGE_BYTES = 4096
_CHECKPOINT_PAGES = 4_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inboxes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    cleared INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    script TEXT NOT NULL DEFAULT '[]',
    set_at INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS requests (
    key INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    method TEXT NOT NULL,
    path BLOB NOT NULL,
    query BLOB NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL,
    status INTEGER,
    response TEXT NOT NULL,
    note TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS unanswered ON requests (key) WHERE status IS NULL AND note = '';
"""
_FORMAT = 2
"""Of the file, in SQLite's user_version; 1 (which wrote 0 there) had `status`, `delay` and `fail_first` instead of a script."""

_FROM_1 = """
ALTER TABLE inboxes ADD COLUMN script TEXT NOT NULL DEFAULT '[]';
UPDATE inboxes SET script = json_array(
    json_object('first', fail_first, 'status', 500, 'delay', delay), json_object('status', status, 'delay', delay)
) WHERE status <> 200 OR delay <> 0 OR fail_first <> 0;
ALTER TABLE inboxes DROP COLUMN status;
ALTER TABLE inboxes DROP COLUMN delay;
ALTER TABLE inboxes DROP COLUMN fail_first;
ALTER TABLE requests ADD COLUMN response TEXT NOT NULL DEFAULT '';
"""
_COLUMNS = "key, received_at, method, path, query, headers, body, status, response, note"
_INSERTS = [
    (rows, f"INSERT INTO requests ({_COLUMNS}) VALUES " + ", ".join(["(" + ", ".join("?" * 10) + ")"] * rows))  # noqa: S608
    for rows in (256, 16, 1)
]
_SELECT = f"SELECT {_COLUMNS} FROM requests WHERE key BETWEEN ? AND ? ORDER BY key"  # noqa: S608
_ANSWERED = "UPDATE requests SET status = ?, note = ? WHERE key = ?"
_UNANSWERED = "SELECT key FROM requests WHERE status IS NULL AND note = '' AND key BETWEEN ? AND ?"
_ORPHANS = f"DELETE FROM requests WHERE key >= (SELECT coalesce(max(number), 0) + 1 FROM inboxes) << {_SEQ_BITS}"  # noqa: S608
"""Older versions kept requests for an inbox that they had failed to store; the next inbox would get its number, and show them."""
_STOPPED = "UPDATE requests SET note = 'the inspector was stopped before the answer' WHERE status IS NULL AND note = ''"
_DELETE = "DELETE FROM requests WHERE key BETWEEN ? AND ?"
_FIRST = "SELECT received_at FROM requests WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1"
_SIZES = "SELECT key, length(headers) + length(body) + 100 FROM requests WHERE key BETWEEN ? AND ? ORDER BY key"
_INBOXES = "SELECT number, id, name, cleared, floor, script, set_at FROM inboxes ORDER BY number"
_ENDS = "SELECT (SELECT min(key) FROM requests WHERE key BETWEEN ?1 AND ?2), (SELECT max(key) FROM requests WHERE key BETWEEN ?1 AND ?2)"


class Recorded(NamedTuple):
    """One received request as it is kept.

    `received_at` is in microseconds since 1970 (UTC). `path` and `query` are as they stood in the request line, and so are `headers`, a
    line `name:value` each in their order, names in lower case (HTTP names have no case; the server hands them over like this);
    `header_pairs` reads them.
    `status` is None when no answer was sent, yet or ever; `note` then says why, where that is known. `response` says in words what the
    response script wanted (`500, rule 1: first 3`); it is empty for what an older inspector received.
    """

    seq: int
    received_at: int
    method: str
    path: bytes
    query: bytes
    headers: bytes
    body: bytes
    status: int | None
    response: str
    note: str


def header_pairs(headers: bytes) -> list[tuple[str, str]]:
    """The headers of a `Recorded`, decoded as Latin-1, which loses nothing."""
    return [(name, value) for line in headers.decode("latin-1").split("\n") for name, _, value in [line.partition(":")] if name]


@dataclass(slots=True, eq=False)
class StoredInbox:
    """An inbox's state in memory; the event loop's thread alone changes it.

    `last` is the seq handed out last, `stored` the last one committed, `cleared` the last one that a person removed, `floor` the last one
    that is gone for whatever reason; `removed` is how far rows were really deleted. `set_at` is `last` when the response script was set.
    """

    number: int
    id: str
    name: str
    script: Script = ()
    set_at: int = 0
    last: int = 0
    stored: int = 0
    cleared: int = 0
    floor: int = 0
    removed: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    changing: set[asyncio.Future[None]] = field(default_factory=set)
    """Response scripts that are being stored: each decides from the next request on, so that one has to wait for them."""

    @property
    def count(self) -> int:
        return self.stored - self.floor

    @property
    def dropped(self) -> int:
        """Requests since the inbox was last cleared that the ring let go."""
        return self.floor - self.cleared

    def next_seq(self) -> int:
        """Hand out the number of a request that is recorded at once, before anything else gets to run."""
        self.last += 1
        return self.last

    def key(self, seq: int) -> int:
        return self.number << _SEQ_BITS | seq


class _Job(NamedTuple):
    """One piece of work for the writer: a row to insert, or a statement to run in its place in the order.

    `committed` changes the memory as the statement does the disk; it is called in the same order, once the transaction is committed.
    """

    inbox: StoredInbox
    row: tuple[Any, ...] | None
    statement: str
    parameters: tuple[Any, ...]
    committed: Callable[[], object] | None
    done: asyncio.Future[None]


class RequestStore:
    """The requests of all inboxes of one home.

    `await open()` first, `await close()` last. All methods belong to one event loop, except those that say "for any thread".

    It is long because its one writer has to know all that it keeps.
    """

    def __init__(self, path: Path, *, ring: int = RING, home_bytes: int = HOME_BYTES) -> None:
        self.path = path
        self.ring = ring
        self.home_bytes = home_bytes
        self.by_id: dict[str, StoredInbox] = {}
        self.by_name: dict[str, StoredInbox] = {}
        self._creating: dict[str, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._jobs: list[_Job] = []
        self._behind: set[StoredInbox] = set()
        self._wake = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open or create the file, and take up every inbox where it stood."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, prepare, self.path)
        self._connection = await loop.run_in_executor(self._thread, _connect, self.path)
        for inbox in await loop.run_in_executor(self._thread, _load, self._connection):
            self._add(inbox)
            self._let_go(inbox)
            self._numbers = itertools.count(inbox.number + 1)
        self._writer = loop.create_task(self._write_forever())

    async def close(self) -> None:
        """Store what is waiting, then close the file."""
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            await self._writer
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def create(self, name: str | None) -> tuple[StoredInbox, bool]:
        """The inbox of that name and whether it is new; without a name, a new one called `inbox-N`. Raises sqlite3.Error."""
        if name is None:
            numbers = itertools.count(len(self.by_name) + 1)
            name = next(free for n in numbers if (free := f"inbox-{n}") not in self.by_name and free not in self._creating)
        known = self.by_name.get(name)
        if known is not None:
            return known, False
        creating = self._creating.get(name)
        is_first = creating is None
        if creating is None:
            inbox = StoredInbox(next(self._numbers), secrets.token_urlsafe(16), name)
            insert = "INSERT INTO inboxes (number, id, name) VALUES (?, ?, ?)"
            creating = self._enqueue(inbox, None, insert, (inbox.number, inbox.id, name), lambda: self._add(inbox))
            creating.add_done_callback(lambda _: self._creating.pop(name))
            self._creating[name] = creating
        await asyncio.shield(creating)  # a caller that leaves does not end it for the others
        return self.by_name[name], is_first

    async def record(
        self,
        inbox: StoredInbox,
        seq: int,
        received_at: int,
        method: str,
        path: bytes,
        query: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        status: int | None,
        response: str,
        note: str = "",
    ) -> None:
        """Keep one request; returns when it is committed. Raises sqlite3.Error when that failed: then it must not be answered 2xx."""
        kept = b"\n".join([b":".join(header) for header in headers])
        await self._enqueue(inbox, (inbox.key(seq), received_at, method, path, query, kept, body, status, response, note), "", ())

    async def answered(self, inbox: StoredInbox, seq: int, status: int | None, note: str = "") -> None:
        """Add to a request that was recorded without an answer what became of it."""
        await self._enqueue(inbox, None, _ANSWERED, (status, note, inbox.key(seq)))

    async def set_script(self, inbox: StoredInbox, script: Script) -> None:
        """Answer like this from the next request on, also after a restart. Raises sqlite3.Error, and then nothing has changed."""
        set_at = inbox.last

        def committed() -> None:
            inbox.script, inbox.set_at = script, set_at

        text = orjson.dumps([rule.as_json() for rule in script]).decode()
        update = "UPDATE inboxes SET script = ?, set_at = ? WHERE number = ?"
        stored = self._enqueue(inbox, None, update, (text, set_at, inbox.number), committed)
        inbox.changing.add(stored)
        stored.add_done_callback(inbox.changing.discard)
        await asyncio.shield(stored)

    async def clear(self, inbox: StoredInbox) -> None:
        """Remove every request received so far; their numbers are not used again. Raises sqlite3.Error, and then nothing has changed."""
        upto = inbox.last

        def committed() -> None:
            inbox.cleared = upto
            inbox.floor = max(inbox.floor, upto)
            inbox.stored = max(inbox.stored, upto)

        await self._enqueue(inbox, None, "UPDATE inboxes SET cleared = ? WHERE number = ?", (upto, inbox.number), committed)

    def next_change(self, inbox: StoredInbox) -> asyncio.Future[None]:
        """A future that is done after the next change to this inbox."""
        future = asyncio.get_running_loop().create_future()
        inbox.waiting = [waiting for waiting in inbox.waiting if not waiting.done()]
        inbox.waiting.append(future)
        return future

    def read(self, inbox: StoredInbox, after: int, limit: int, max_bytes: int) -> list[Recorded]:
        """Up to `limit` requests with a seq above `after`, fewer when their bodies exceed `max_bytes`, but one at least. For any thread."""
        first = max(after, inbox.floor) + 1
        found: list[Recorded] = []
        size = 0
        with self._reading() as connection:
            for row in connection.execute(_SELECT, (inbox.key(first), inbox.key(inbox.stored))):
                found.append(Recorded(row[0] & _SEQ_MASK, *row[1:]))
                size += len(found[-1].body)
                if len(found) == limit or size >= max_bytes:
                    break
        return found

    def unanswered(self, inbox: StoredInbox) -> set[int]:
        """The seqs of the requests whose answer is still to come. For any thread."""
        with self._reading() as connection:
            return {key & _SEQ_MASK for (key,) in connection.execute(_UNANSWERED, (inbox.key(0), inbox.key(_SEQ_MASK)))}

    def _reading(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True))

    def _add(self, inbox: StoredInbox) -> None:
        self.by_id[inbox.id] = self.by_name[inbox.name] = inbox

    def _enqueue(
        self,
        inbox: StoredInbox,
        row: tuple[Any, ...] | None,
        statement: str,
        parameters: tuple[Any, ...],
        committed: Callable[[], object] | None = None,
    ) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(inbox, row, statement, parameters, committed, done))
        self._wake.set()
        return done

    async def _write_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._jobs and not self._behind:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            jobs, self._jobs = self._jobs, []
            doomed = self._next_doomed()
            try:
                used = await loop.run_in_executor(self._thread, self._write, jobs, doomed)
            except sqlite3.Error as error:
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(error)
                self._behind.clear()  # what was to be removed is met again when its inbox next receives something
                continue
            self._committed(jobs)
            if doomed is not None:
                doomed[0].removed = doomed[1]
                self._let_go(doomed[0])
            if used > self.home_bytes and not self._behind:
                ranges = [(inbox, inbox.floor + 1, inbox.stored) for inbox in self.by_id.values() if inbox.count]
                oldest = await loop.run_in_executor(self._thread, self._oldest, used - self.home_bytes, ranges)
                if oldest is not None:
                    oldest[0].floor = max(oldest[0].floor, oldest[1])
                    self._let_go(oldest[0])

    def _next_doomed(self) -> tuple[StoredInbox, int] | None:
        """Which rows are removed with the next batch: of which inbox, up to which seq; a bounded number, so that no commit takes long."""
        if not self._behind:
            return None
        inbox = self._behind.pop()
        return inbox, min(inbox.floor, inbox.removed + _TRIM_ROWS)

    def _committed(self, jobs: list[_Job]) -> None:
        touched = {job.inbox for job in jobs}
        for job in jobs:
            if job.row is not None:
                job.inbox.stored = max(job.inbox.stored, job.row[0] & _SEQ_MASK)
            elif job.committed is not None:
                job.committed()
            if not job.done.done():
                job.done.set_result(None)
        for inbox in touched:
            self._let_go(inbox)
            waiting, inbox.waiting = inbox.waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _let_go(self, inbox: StoredInbox) -> None:
        inbox.floor = max(inbox.floor, inbox.stored - self.ring)
        if inbox.removed < inbox.floor:
            self._behind.add(inbox)

    def _write(self, jobs: list[_Job], doomed: tuple[StoredInbox, int] | None) -> int:
        """In the writer's thread: do the jobs in their order and remove what is doomed, in one transaction; returns the bytes in use."""
        connection = self._connection
        assert connection is not None  # noqa: S101
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows: list[tuple[Any, ...]] = []
            for job in jobs:
                if job.row is not None:
                    rows.append(job.row)
                    continue
                _insert(connection, rows)
                rows = []
                connection.execute(job.statement, job.parameters)
            _insert(connection, rows)
            if doomed is not None:
                inbox, upto = doomed
                connection.execute(_DELETE, (inbox.key(0), inbox.key(upto)))
                connection.execute("UPDATE inboxes SET floor = ? WHERE number = ?", (upto, inbox.number))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        pages: int = connection.execute("PRAGMA page_count").fetchone()[0] - connection.execute("PRAGMA freelist_count").fetchone()[0]
        return pages * _PAGE_BYTES

    def _oldest(self, excess: int, ranges: list[tuple[StoredInbox, int, int]]) -> tuple[StoredInbox, int] | None:
        """In the writer's thread: whose requests go when the home is full (the inbox that holds the oldest one), and up to which seq."""
        connection = self._connection
        assert connection is not None  # noqa: S101
        oldest: tuple[int, StoredInbox, int, int] | None = None
        for inbox, first, last in ranges:
            found = connection.execute(_FIRST, (inbox.key(first), inbox.key(last))).fetchone()
            if found is not None and (oldest is None or found[0] < oldest[0]):
                oldest = (found[0], inbox, first, last)
        if oldest is None:
            return None
        _, inbox, first, last = oldest
        upto = first
        for key, size in connection.execute(_SIZES, (inbox.key(first), inbox.key(min(last, first + _TRIM_ROWS)))):
            upto = key & _SEQ_MASK
            excess -= size
            if excess <= 0:
                break
        return inbox, upto


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)  # received headers hold secrets; SQLite gives its log the same mode
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return connection


def prepare(path: Path) -> None:
    """Make the file, or bring one that an older inspector wrote up to date; raises ConfigurationError when it cannot be used."""
    remove = f"Move it away (its inboxes are then begun anew): mv {path} {path}.old"
    try:
        with contextlib.closing(_connect(path)) as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > _FORMAT:
                raise ConfigurationError(f"The inspector's store {path} was written by a newer version of userhooks.", remove)
            older = found == 0 and connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'inboxes'").fetchone()
            connection.executescript(
                f"BEGIN; {_FROM_1 if older else ''} {_SCHEMA} PRAGMA user_version = {_FORMAT}; {_ORPHANS}; {_STOPPED}; COMMIT"
            )
    except sqlite3.Error as error:
        raise ConfigurationError(f"The inspector's store {path} cannot be used: {error}.", remove) from None


def _load(connection: sqlite3.Connection) -> list[StoredInbox]:
    inboxes = []
    for number, ident, name, cleared, floor, script, set_at in connection.execute(_INBOXES).fetchall():
        inbox = StoredInbox(number, ident, name, parse_script(orjson.loads(script)), set_at, cleared=cleared)
        lowest, highest = connection.execute(_ENDS, (inbox.key(0), inbox.key(_SEQ_MASK))).fetchone()
        inbox.stored = max(cleared, floor, (highest or 0) & _SEQ_MASK)
        inbox.last = max(inbox.stored, set_at)
        inbox.removed = (lowest & _SEQ_MASK) - 1 if lowest is not None else inbox.stored
        inbox.floor = max(cleared, floor)
        inboxes.append(inbox)
    return inboxes


def _insert(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows in statements of many rows each.

    Python's lock is given up once per statement; with one statement per row this thread would queue for it behind the event loop each time.
    """
    start = 0
    for size, statement in _INSERTS:
        while len(rows) - start >= size:
            connection.execute(statement, list(itertools.chain.from_iterable(rows[start : start + size])))
            start += size
