"""The engine's state on disk, in one SQLite file: resources, the confirmed LSN, acknowledgements above it, the backlog, counters.

All methods block; the engine calls those that write on a separate thread. When a method returns, its changes are committed with
`synchronous=FULL`.

This module is long because each statement is a method.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from userhooks.engine import exact_json
from userhooks.engine.resources import (
    ApiKey,
    BackfillResource,
    ColumnFilter,
    FunctionResource,
    HttpEndpoint,
    SinkResource,
    SinkTable,
    Source,
)

Resource = HttpEndpoint | FunctionResource | SinkResource | BackfillResource | ApiKey

_KINDS: Mapping[type[Any], str] = {
    HttpEndpoint: "endpoint",
    FunctionResource: "function",
    SinkResource: "sink",
    BackfillResource: "backfill",
    ApiKey: "api_key",
}

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists resources (
    number integer primary key autoincrement,  -- identifies a sink in the tables below; never reused
    id text not null unique,
    kind text not null,
    document blob not null,
    start_lsn integer not null default 0,
    cursor text
);
create table if not exists acknowledgements (lsn integer not null, pairs blob not null);  -- one row per transaction and flush
create index if not exists acknowledgements_lsn on acknowledgements (lsn);
create table if not exists shapes (id integer primary key, document blob not null);  -- of the tables that the messages below are from
create table if not exists backlog (
    id integer primary key,  -- ascends in the order in which a sink's messages must be delivered
    sink integer not null, shape integer not null, lsn integer not null, idx integer not null, commit_us integer not null,
    attempts integer not null, payload blob not null, annotations blob, backfill text
);
create table if not exists discarded (
    id integer primary key,
    sink integer not null, shape integer not null, lsn integer not null, idx integer not null, commit_us integer not null,
    attempts integer not null, payload blob not null, annotations blob, backfill text, error text not null, discarded_at text not null
);
create table if not exists counts (  -- of sinks with traffic; `since` is when counting began, in seconds since 1970
    sink integer primary key, attempted integer not null, delivered integer not null, failed integer not null, since integer not null
);
create index if not exists discarded_sink on discarded (sink);  -- for deleting a sink's messages with it
"""
_ROW = "id, sink, shape, lsn, idx, commit_us, attempts, payload, annotations, backfill"
_SAVE_COUNTS = (
    "insert or replace into counts select " + ", ".join(f"json_extract(value, '$[{i}]')" for i in range(5)) + " from json_each(?)"
)
"""A single statement for all sinks, since each row of `executemany` would wait for the event loop to release the GIL."""
_PAGES_GIVEN_BACK = 4096
"""Maximum number of free pages to return to the file system in one flush; more would delay the next flush."""


class Kept(NamedTuple):
    """A message in the backlog: `payload` is the change in pgoutput's format, `shape` the id of its table's shape."""

    id: int
    sink: int
    shape: int
    lsn: int
    idx: int
    commit_us: int
    attempts: int
    payload: bytes
    annotations: bytes | None
    backfill: str | None


class SinkCounts(NamedTuple):
    """A sink's message counters since `since` (Unix time): attempted, delivered, and failed; once for each attempt."""

    sink: int
    attempted: int
    delivered: int
    failed: int
    since: int


@dataclass(slots=True)
class Flush:
    """The changes that one flush writes, besides the confirmed position.

    `acknowledged`: commit LSN -> (index, sink number) pairs. `kept`: messages to add to the backlog. `shapes`: id -> document. `done`: row
    ids to delete from the backlog. `attempts`: (count, row id) of messages that failed again. `discarded`: (row id, error, time) of
    messages to move out of the backlog; a message in `kept` may be one of them. `counts`: counters that have changed.
    """

    acknowledged: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    shapes: dict[int, bytes] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    attempts: list[tuple[int, int]] = field(default_factory=list)
    discarded: list[tuple[int, str, str]] = field(default_factory=list)
    counts: list[SinkCounts] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.acknowledged or self.kept or self.done or self.attempts or self.discarded or self.counts)


class StoreMismatch(Exception):
    """The store belongs to another Postgres cluster, database, or slot; using it would lose or repeat changes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource read from the store, with the engine's data about it."""

    resource: Resource
    number: int
    start_lsn: int
    cursor: tuple[str, ...] | None


class StateStore:
    """The open store. `path` is created with mode 0600, since endpoints contain secrets; `max_pages` limits its size, in pages of 4 kB.

    The class is long because each statement is a method.
    """

    def __init__(self, path: Path, max_pages: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma auto_vacuum = incremental")  # has an effect only before the first table is created
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma journal_size_limit = 4194304")
        if max_pages is not None:
            self._db.execute(f"pragma max_page_count = {int(max_pages)}")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(_SCHEMA)
        last = self._db.execute("select seq from sqlite_sequence where name = 'resources'").fetchone()
        self._last_number = 0 if last is None else int(last[0])

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    # --- owner of the state --------------------------------------------------------------------------------------------

    def bind(self, identity: Mapping[str, str]) -> None:
        """Bind the state to a cluster, database, and slot on first use; raises StoreMismatch if it is bound to another."""
        with self._lock:
            for key, value in identity.items():
                row = self._db.execute("select value from meta where key = ?", (key,)).fetchone()
                if row is None:
                    self._db.execute("insert into meta values (?, ?)", (key, value))
                elif row[0] != value:
                    raise StoreMismatch(f"{key} is {value} now but was {row[0]} when the state was written")

    def meta(self, key: str) -> str | None:
        """Return a metadata value, or None if it is not set."""
        with self._lock:
            row = self._db.execute("select value from meta where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a metadata value."""
        with self._lock:
            self._db.execute("insert or replace into meta values (?, ?)", (key, value))

    # --- resources -----------------------------------------------------------------------------------------------------

    def load(self) -> list[Stored]:
        """Return all resources in the order in which they were created."""
        with self._lock:
            rows = self._db.execute("select number, kind, document, start_lsn, cursor from resources order by number").fetchall()
        classes = {kind: cls for cls, kind in _KINDS.items()}
        return [
            Stored(_revive(classes[kind], exact_json.loads(document)), number, start_lsn, _cursor(cursor))
            for number, kind, document, start_lsn, cursor in rows
        ]

    def save(self, resource: Resource, *, start_lsn: int | None = None) -> int:
        """Create or replace a resource by id and return its number; a `start_lsn` of None keeps the current one."""
        with self._lock:
            return self._save(resource, start_lsn)

    def reserve(self, count: int) -> list[int]:
        """Reserve numbers for resources that `save_all` may create later."""
        with self._lock:
            return [self._next_number() for _ in range(count)]

    def save_all(self, resources: Sequence[Resource], *, start_lsn: int | None = None, numbers: Mapping[str, int] | None = None) -> None:
        """Save resources as `save` does, all or none, in one commit; `numbers` maps ids of new resources to reserved numbers."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                for resource in resources:
                    self._save(resource, start_lsn, (numbers or {}).get(resource.id))
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def _save(self, resource: Resource, start_lsn: int | None, reserved: int | None = None) -> int:
        document = exact_json.dumps(resource)
        known = self._db.execute("select number from resources where id = ?", (resource.id,)).fetchone()
        if known is not None:
            update = "update resources set document = ?, start_lsn = coalesce(?, start_lsn) where number = ?"
            self._db.execute(update, (document, start_lsn, known[0]))
            return int(known[0])
        number = self._next_number() if reserved is None else reserved
        insert = "insert into resources (number, id, kind, document, start_lsn) values (?, ?, ?, ?, ?)"
        self._db.execute(insert, (number, resource.id, _KINDS[type(resource)], document, start_lsn or 0))
        return number

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def delete(self, ids: Sequence[str]) -> None:
        """Delete resources by id, all or none, with their discarded messages and counts."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                for id_ in ids:
                    for table in ("discarded", "counts"):
                        self._db.execute(f"delete from {table} where sink = (select number from resources where id = ?)", (id_,))
                    self._db.execute("delete from resources where id = ?", (id_,))
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def save_backfill(self, backfill: BackfillResource, cursor: tuple[str, ...] | None) -> None:
        """Save a backfill's counters together with `cursor`, the key up to which all rows are delivered."""
        with self._lock:
            self._db.execute(
                "update resources set document = ?, cursor = ? where id = ?",
                (orjson.dumps(backfill), None if cursor is None else orjson.dumps(cursor).decode(), backfill.id),
            )

    # --- progress ------------------------------------------------------------------------------------------------------

    def flush(self, confirmed_lsn: int, batch: Flush) -> None:
        """Commit the confirmed position and all of `batch`, or nothing; delete acknowledgements below the position.

        Raises sqlite3.Error, for example when the disk or the file is full.
        """
        db = self._db
        # Statements without rows are skipped: each one releases the GIL and must wait for the event loop to get it back.
        changes: list[tuple[str, Sequence[Sequence[Any]]]] = [
            ("insert or replace into meta values ('confirmed_lsn', ?)", [(str(confirmed_lsn),)]),
            ("delete from backlog where id = ?", [(row,) for row in batch.done]),
            ("insert or ignore into shapes values (?, ?)", list(batch.shapes.items())),
            (f"insert into backlog ({_ROW}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", batch.kept),
            ("update backlog set attempts = ? where id = ?", batch.attempts),
            (
                f"insert into discarded select {_ROW}, ?, ? from backlog where id = ?",
                [(error, at, row) for row, error, at in batch.discarded],
            ),
            ("delete from backlog where id = ?", [(row,) for row, _, _ in batch.discarded]),
            (
                "insert into acknowledgements values (?, ?)",
                [(lsn, array("q", chain.from_iterable(pairs)).tobytes()) for lsn, pairs in batch.acknowledged.items()],
            ),
            ("delete from acknowledgements where lsn < ?", [(confirmed_lsn,)]),
            (_SAVE_COUNTS, [(orjson.dumps([tuple(counts) for counts in batch.counts]).decode(),)] if batch.counts else []),
        ]
        with self._lock:
            db.execute("begin immediate")
            try:
                for statement, rows in changes:
                    if rows:
                        db.executemany(statement, rows)
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
            if batch.done and db.execute("pragma freelist_count").fetchone()[0] > _PAGES_GIVEN_BACK // 16:
                db.executescript(f"pragma incremental_vacuum({_PAGES_GIVEN_BACK})")  # `execute` would free only one page

    # --- the backlog ---------------------------------------------------------------------------------------------------

    def counts(self) -> list[SinkCounts]:
        """Return the saved counters of all sinks with traffic."""
        with self._lock:
            return [SinkCounts(*row) for row in self._db.execute("select sink, attempted, delivered, failed, since from counts")]

    def backlog(self) -> list[tuple[int, int]]:
        """Delete the messages and counts of sinks that no longer exist; return the (row id, sink number) of other messages, in order."""
        with self._lock:
            for table in ("backlog", "discarded", "counts"):
                self._db.execute(f"delete from {table} where sink not in (select number from resources where kind = 'sink')")
            return self._db.execute("select id, sink from backlog order by id").fetchall()

    def next_row(self) -> int:
        """Return a row id greater than all row ids in use."""
        with self._lock:
            query = "select 1 + max(coalesce((select max(id) from backlog), 0), coalesce((select max(id) from discarded), 0))"
            return int(self._db.execute(query).fetchone()[0])

    def shapes(self) -> dict[int, bytes]:
        """Delete shapes that no message uses, and return the documents of all others by id."""
        with self._lock:
            self._db.execute("delete from shapes where id not in (select shape from backlog union select shape from discarded)")
            return dict(self._db.execute("select id, document from shapes").fetchall())

    def read_backlog(self, rows: Sequence[int], room: int) -> tuple[list[Kept], list[int]]:
        """Return the messages with these row ids, in order, and the row ids that were not read.

        Reads as many messages as fit in `room` bytes, but at least one.
        """
        marks = ",".join("?" * len(rows))
        messages: list[Kept] = []
        with self._lock:
            for values in self._db.execute(f"select {_ROW} from backlog where id in ({marks}) order by id", rows):
                message = Kept(*values)
                room -= len(message.payload)
                if room < 0 and messages:
                    return messages, [row for row in rows if row >= message.id]
                messages.append(message)
        return messages, []

    def discarded_count(self) -> dict[int, int]:
        """Return the number of discarded messages by sink number."""
        with self._lock:
            return dict(self._db.execute("select sink, count(*) from discarded group by sink").fetchall())

    def read_discarded(self, sink: int, limit: int) -> list[tuple[Kept, str, str]]:
        """Return a sink's discarded messages, oldest first, each with its last error and the time it was discarded."""
        query = f"select {_ROW}, error, discarded_at from discarded where sink = ? order by id limit ?"
        with self._lock:
            return [(Kept(*values[:10]), values[10], values[11]) for values in self._db.execute(query, (sink, limit)).fetchall()]

    def take_discarded(self, sink: int, ids: Sequence[int] | None, first_row: int) -> list[int]:
        """Move a sink's discarded messages, all or those in `ids`, to the end of the backlog; return their row ids, from `first_row` on."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                discarded = [id_ for (id_,) in self._db.execute("select id from discarded where sink = ? order by id", (sink,))]
                chosen = discarded if ids is None else sorted(set(discarded) & set(ids))
                rows = []
                for row, id_ in enumerate(chosen, first_row):
                    self._db.execute(
                        f"insert into backlog ({_ROW}) select ?, sink, shape, lsn, idx, commit_us, 0, payload, annotations, backfill"
                        " from discarded where id = ?",
                        (row, id_),
                    )
                    self._db.execute("delete from discarded where id = ?", (id_,))
                    rows.append(row)
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
        return rows

    # --- the confirmed position ----------------------------------------------------------------------------------------

    def set_confirmed(self, lsn: int) -> None:
        """Start over at the position of a new slot, and delete all acknowledgements, which belong to an older slot."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                self._db.execute("insert or replace into meta values ('confirmed_lsn', ?)", (str(lsn),))
                self._db.execute("delete from acknowledgements")
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def confirmed_lsn(self) -> int:
        """Return the position at which replication resumes; 0 if nothing was ever confirmed."""
        return int(self.meta("confirmed_lsn") or 0)

    def acknowledged(self) -> dict[int, set[tuple[int, int]]]:
        """Return the acknowledged deliveries above the confirmed position: commit LSN -> (index, sink number) pairs."""
        result: dict[int, set[tuple[int, int]]] = {}
        with self._lock:
            for lsn, pairs in self._db.execute("select lsn, pairs from acknowledgements"):
                numbers = array("q", pairs)
                result.setdefault(lsn, set()).update(zip(numbers[::2], numbers[1::2], strict=True))
        return result


def _cursor(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(orjson.loads(text))


def _revive(cls: type[Any], document: dict[str, Any]) -> Resource:
    """Rebuild a resource from its JSON: lists become tuples, and nested objects become dataclasses again."""
    values = {field.name: _tuples(document[field.name]) for field in fields(cls) if field.name in document}
    if cls is SinkResource:
        values["source"] = Source(**{k: _tuples(v) for k, v in document["source"].items()})
        values["tables"] = tuple(SinkTable(_tuples(t["table"]), _tuples(t["group_column_names"])) for t in document["tables"])
        if document["filters"] is not None:
            values["filters"] = tuple(ColumnFilter(**f) for f in document["filters"])
        values["annotations"] = document["annotations"]
    resource: Resource = cls(**values)
    return resource


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
