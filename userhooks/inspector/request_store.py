"""Store received requests in SQLite. A single writer writes them in batches, and each inbox keeps its latest requests. No HTTP here.

`RequestStore.record` returns once the request is committed to SQLite's write-ahead log, and ingest.py responds only then. So every request
that was answered 2xx survives `kill -9` of this process. A power failure may lose what was written since the log was last synced,
because of `synchronous=NORMAL`, but a tool for testing webhooks does not need an fsync for each request. Waiting for the commit costs a
fraction of a millisecond, because all requests that arrive during one commit share the next one.

A row's key is `inbox number << 40 | seq`. So each inbox is one range of a single B-tree, in order of arrival, and no second index is
needed.

A call changes a `StoredInbox` in memory only when its transaction has been committed. If the commit fails, nothing changes.

This module is long because the tables, the writer, and the limits of inboxes depend on each other's state.
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
"""Maximum number of requests in an inbox; older requests are dropped and counted as dropped."""

HOME_BYTES = 1 << 30
"""Maximum bytes of all inboxes on disk; beyond it, the oldest requests of any inbox are dropped."""

TOO_LARGE = "the body was larger than 64 MB"
TOO_SLOW = "the body did not arrive within a minute"
NOT_KEPT = (TOO_LARGE, TOO_SLOW)
"""Notes of requests that were stored without their bodies."""

UNDO_SECONDS = 10.0
"""Seconds in which a clearing can be undone; afterwards, the cleared rows are deleted."""

_SEQ_BITS = 40
_SEQ_MASK = (1 << _SEQ_BITS) - 1
_TRIM_ROWS = 500
"""Maximum number of rows to delete in one transaction."""

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
"""Version of the file format, in SQLite's user_version.

Format 1, for which user_version was 0, had the columns `status`, `delay`, and `fail_first` instead of `script`.
"""

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
"""Statement that deletes requests without an inbox, which an older version may have left if it failed to store the inbox.

Otherwise, they would appear in the next inbox with that number.
"""
_STOPPED = "UPDATE requests SET note = 'the inspector stopped before the response' WHERE status IS NULL AND note = ''"
_DELETE = "DELETE FROM requests WHERE key BETWEEN ? AND ?"
_FIRST = "SELECT received_at FROM requests WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1"
_SIZES = "SELECT key, length(headers) + length(body) + 100 FROM requests WHERE key BETWEEN ? AND ? ORDER BY key"
_CLEARED = "UPDATE inboxes SET cleared = ? WHERE number = ?"
_INBOXES = "SELECT number, id, name, cleared, floor, script, set_at FROM inboxes ORDER BY number"
_ENDS = "SELECT (SELECT min(key) FROM requests WHERE key BETWEEN ?1 AND ?2), (SELECT max(key) FROM requests WHERE key BETWEEN ?1 AND ?2)"


class Recorded(NamedTuple):
    """A request as stored.

    `received_at` is in microseconds since 1970 (UTC). `path` and `query` are as received. `headers` has a line `name:value` for each
    header, in order, with names in lower case, as uvicorn delivers them; `header_pairs` parses it. `status` is None if no response was
    sent, or not yet; `note` then gives the reason, if it is known. `response` describes the response that the script chose (`500, rule 1:
    first 3`); it is empty if an older inspector received the request.
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
    """Return the names and values in `Recorded.headers`, decoded as Latin-1, which preserves every byte."""
    return [(name, value) for line in headers.decode("latin-1").split("\n") for name, _, value in [line.partition(":")] if name]


class Clearing(NamedTuple):
    """The `cleared` and `floor` of an inbox before it was cleared, and the timer that makes the clearing final."""

    cleared: int
    floor: int
    timer: asyncio.TimerHandle


@dataclass(slots=True, eq=False)
class StoredInbox:
    """An inbox's state in memory, changed only by the event loop's thread.

    Five fields hold the highest seq that was assigned (`last`), committed (`stored`), cleared by a user (`cleared`), cleared or dropped
    (`floor`), and deleted from the file (`removed`). `set_at` is the value of `last` when the response script was set. `undo` is the state
    before the last clearing while that can be undone, and None afterwards.
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
    undo: Clearing | None = None
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    changing: set[asyncio.Future[None]] = field(default_factory=set)
    """A future for each response script that is being stored. The next request waits for them, because the scripts apply to it."""

    @property
    def count(self) -> int:
        return self.stored - self.floor

    @property
    def dropped(self) -> int:
        """Number of requests dropped since the inbox was last cleared."""
        return self.floor - self.cleared

    @property
    def restorable(self) -> int:
        """Number of requests that would be restored by undoing the last clearing; 0 if it can no longer be undone."""
        return 0 if self.undo is None else max(0, self.cleared - self.undo.floor)

    @property
    def deletable(self) -> int:
        """Highest seq whose row may be deleted."""
        return self.floor if self.undo is None else self.undo.floor

    def next_seq(self) -> int:
        """Return the number of a new request. The caller must call `record` before the event loop runs anything else."""
        self.last += 1
        return self.last

    def key(self, seq: int) -> int:
        return self.number << _SEQ_BITS | seq


class _Job(NamedTuple):
    """A job for the writer: a row to insert, or a statement to run. Jobs are run in order.

    After the commit, `committed` is called to apply the statement's change in memory, also in the order of the jobs.
    """

    inbox: StoredInbox
    row: tuple[Any, ...] | None
    statement: str
    parameters: tuple[Any, ...]
    committed: Callable[[], object] | None
    done: asyncio.Future[None]


class RequestStore:
    """The inboxes of a home and their requests.

    Await `open()` first and `close()` last. Call all methods from one event loop, except those documented as callable from any thread.

    This class is long because its single writer handles every kind of change.
    """

    def __init__(self, path: Path, *, ring: int = RING, home_bytes: int = HOME_BYTES, undo_seconds: float = UNDO_SECONDS) -> None:
        self.path = path
        self.ring = ring
        self.undo_seconds = undo_seconds
        self.home_bytes = home_bytes
        self.by_id: dict[str, StoredInbox] = {}
        self.by_name: dict[str, StoredInbox] = {}
        self._creating: dict[str, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._jobs: list[_Job] = []
        self._to_trim: set[StoredInbox] = set()
        self._wake = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open or create the file, and load every inbox."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, prepare, self.path)
        self._connection = await loop.run_in_executor(self._thread, _connect, self.path)
        for inbox in await loop.run_in_executor(self._thread, _load, self._connection):
            self._add(inbox)
            self._apply_ring(inbox)
            self._numbers = itertools.count(inbox.number + 1)
        self._writer = loop.create_task(self._write_forever())

    async def close(self) -> None:
        """Store pending requests, then close the file."""
        self._closing = True
        for inbox in self.by_id.values():
            self._finish_clearing(inbox)
        self._wake.set()
        if self._writer is not None:
            await self._writer
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def create(self, name: str | None) -> tuple[StoredInbox, bool]:
        """Return the inbox with that name, created if necessary, and whether it is new. Raises sqlite3.Error.

        Without a name, create an inbox called `inbox-N`.
        """
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
        await asyncio.shield(creating)  # if one caller is cancelled, the others must still get the inbox
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
        """Store one request, and return when it is committed.

        Raises sqlite3.Error if the request could not be stored. In that case, it must not be answered 2xx.
        """
        header_lines = b"\n".join([b":".join(header) for header in headers])
        await self._enqueue(inbox, (inbox.key(seq), received_at, method, path, query, header_lines, body, status, response, note), "", ())

    async def answered(self, inbox: StoredInbox, seq: int, status: int | None, note: str = "") -> None:
        """Store the outcome of a request that was recorded as unanswered."""
        await self._enqueue(inbox, None, _ANSWERED, (status, note, inbox.key(seq)))

    async def set_script(self, inbox: StoredInbox, script: Script) -> None:
        """Set the response script. It applies to all later requests, even after a restart.

        Raises sqlite3.Error, in which case nothing has changed.
        """
        set_at = inbox.last

        def committed() -> None:
            inbox.script, inbox.set_at = script, set_at

        text = orjson.dumps([rule.as_json() for rule in script]).decode()
        update = "UPDATE inboxes SET script = ?, set_at = ? WHERE number = ?"
        done = self._enqueue(inbox, None, update, (text, set_at, inbox.number), committed)
        inbox.changing.add(done)
        done.add_done_callback(inbox.changing.discard)
        await asyncio.shield(done)

    async def clear(self, inbox: StoredInbox) -> None:
        """Remove every request received so far; their numbers are not reused. Raises sqlite3.Error, in which case nothing has changed.

        `restore` undoes this for UNDO_SECONDS. Clearing again, or a restart, makes it final.
        """
        upto = inbox.last

        def committed() -> None:
            self._finish_clearing(inbox)
            if inbox.stored > inbox.floor:
                timer = asyncio.get_running_loop().call_later(self.undo_seconds, self._finish_clearing, inbox)
                inbox.undo = Clearing(inbox.cleared, inbox.floor, timer)
            inbox.cleared = upto
            inbox.floor = max(inbox.floor, upto)
            inbox.stored = max(inbox.stored, upto)

        await self._enqueue(inbox, None, _CLEARED, (upto, inbox.number), committed)

    async def restore(self, inbox: StoredInbox) -> bool:
        """Undo the last clearing, and return whether that was still possible. Raises sqlite3.Error, in which case nothing has changed."""
        undo = inbox.undo
        if undo is None:
            return False
        undo.timer.cancel()  # so that no row is deleted before the commit

        def committed() -> None:
            if inbox.undo is not None:
                inbox.undo.timer.cancel()
            inbox.cleared, inbox.floor, inbox.undo = undo.cleared, undo.floor, None

        try:
            await asyncio.shield(self._enqueue(inbox, None, _CLEARED, (undo.cleared, inbox.number), committed))
        except sqlite3.Error:
            timer = asyncio.get_running_loop().call_later(self.undo_seconds, self._finish_clearing, inbox)
            inbox.undo = undo._replace(timer=timer)
            raise
        return True

    def _finish_clearing(self, inbox: StoredInbox) -> None:
        """Make the last clearing final, so that its rows are deleted."""
        if inbox.undo is not None:
            inbox.undo.timer.cancel()
            inbox.undo = None
            self._apply_ring(inbox)
            self._notify(inbox)
            self._wake.set()

    def next_change(self, inbox: StoredInbox) -> asyncio.Future[None]:
        """Return a future that completes after the next change to the inbox."""
        future = asyncio.get_running_loop().create_future()
        inbox.waiting = [waiting for waiting in inbox.waiting if not waiting.done()]
        inbox.waiting.append(future)
        return future

    def read(self, inbox: StoredInbox, after: int, limit: int, max_bytes: int) -> list[Recorded]:
        """Return up to `limit` requests with a seq above `after`, fewer if their bodies exceed `max_bytes`.

        If there are any such requests, at least one is returned. May be called from any thread.
        """
        first = max(after, inbox.floor) + 1
        requests: list[Recorded] = []
        size = 0
        with self._reading() as connection:
            for row in connection.execute(_SELECT, (inbox.key(first), inbox.key(inbox.stored))):
                requests.append(Recorded(row[0] & _SEQ_MASK, *row[1:]))
                size += len(requests[-1].body)
                if len(requests) == limit or size >= max_bytes:
                    break
        return requests

    def unanswered(self, inbox: StoredInbox) -> set[int]:
        """Return the seqs of the requests whose response has not been sent yet. May be called from any thread."""
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
            if not self._jobs and not self._to_trim:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            jobs, self._jobs = self._jobs, []
            deletion = self._next_deletion()
            try:
                used = await loop.run_in_executor(self._thread, self._write, jobs, deletion)
            except sqlite3.Error as error:
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(error)
                self._to_trim.clear()  # an inbox is added again when it next receives a request
                continue
            self._committed(jobs)
            if deletion is not None:
                deletion[0].removed = deletion[1]
                self._apply_ring(deletion[0])
            if used > self.home_bytes and not self._to_trim:
                for inbox in self.by_id.values():
                    self._finish_clearing(inbox)
            if used > self.home_bytes and not self._to_trim:
                ranges = [(inbox, inbox.floor + 1, inbox.stored) for inbox in self.by_id.values() if inbox.count]
                oldest = await loop.run_in_executor(self._thread, self._oldest, used - self.home_bytes, ranges)
                if oldest is not None:
                    oldest[0].floor = max(oldest[0].floor, oldest[1])
                    self._apply_ring(oldest[0])

    def _next_deletion(self) -> tuple[StoredInbox, int] | None:
        """Choose the rows to delete in the next transaction: an inbox, and the highest seq to delete.

        The number of rows is limited, so that no commit takes long.
        """
        if not self._to_trim:
            return None
        inbox = self._to_trim.pop()
        return inbox, min(inbox.deletable, inbox.removed + _TRIM_ROWS)

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
            self._apply_ring(inbox)
            self._notify(inbox)

    @staticmethod
    def _notify(inbox: StoredInbox) -> None:
        waiting, inbox.waiting = inbox.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _apply_ring(self, inbox: StoredInbox) -> None:
        inbox.floor = max(inbox.floor, inbox.stored - self.ring)
        if inbox.removed < inbox.deletable:
            self._to_trim.add(inbox)

    def _write(self, jobs: list[_Job], deletion: tuple[StoredInbox, int] | None) -> int:
        """Run the jobs in order and delete old rows, in one transaction, and return the bytes in use.

        Runs in the writer's thread.
        """
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
            if deletion is not None:
                inbox, upto = deletion
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
        """Choose the requests to drop if the inboxes exceed their limit: the inbox with the oldest request, and the highest seq to drop.

        Runs in the writer's thread.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101
        oldest: tuple[int, StoredInbox, int, int] | None = None
        for inbox, first, last in ranges:
            row = connection.execute(_FIRST, (inbox.key(first), inbox.key(last))).fetchone()
            if row is not None and (oldest is None or row[0] < oldest[0]):
                oldest = (row[0], inbox, first, last)
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
    path.touch(mode=0o600)  # received headers contain secrets; SQLite gives its log the same mode
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return connection


def prepare(path: Path) -> None:
    """Create the file, or migrate one from an older inspector; raises ConfigurationError if it cannot be used."""
    remedy = f"Move the file away (the inspector then starts without inboxes): mv {path} {path}.old"
    try:
        with contextlib.closing(_connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _FORMAT:
                raise ConfigurationError(f"The inspector's store {path} was written by a newer version of userhooks.", remedy)
            is_format_1 = version == 0 and connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'inboxes'").fetchone()
            connection.executescript(
                f"BEGIN; {_FROM_1 if is_format_1 else ''} {_SCHEMA} PRAGMA user_version = {_FORMAT}; {_ORPHANS}; {_STOPPED}; COMMIT"
            )
    except sqlite3.Error as error:
        raise ConfigurationError(f"The inspector's store {path} cannot be used: {error}.", remedy) from None


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
    """Insert rows, up to 256 in one statement.

    Each statement releases Python's global interpreter lock once. With one statement per row, this thread would have to wait for the event
    loop after every row.
    """
    start = 0
    for size, statement in _INSERTS:
        while len(rows) - start >= size:
            connection.execute(statement, list(itertools.chain.from_iterable(rows[start : start + size])))
            start += size
