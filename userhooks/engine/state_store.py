"""The engine's state on disk: resources, the confirmed LSN, acknowledgements above it, the backlog. One SQLite file; no decisions.

Everything here blocks; the engine calls the writing methods on one thread of their own. A method that returns has committed with
`synchronous=FULL`.
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
    number integer primary key autoincrement,  -- short name of a sink in the tables below; never given twice
    id text not null unique,
    kind text not null,
    document blob not null,
    start_lsn integer not null default 0,
    cursor text
);
create table if not exists acknowledgements (lsn integer not null, pairs blob not null);  -- of one transaction and one flush
create index if not exists acknowledgements_lsn on acknowledgements (lsn);
create table if not exists shapes (id integer primary key, document blob not null);  -- what tables looked like to the changes below
create table if not exists backlog (
    id integer primary key,  -- grows in the order in which a sink's messages are to be delivered
    sink integer not null, shape integer not null, lsn integer not null, idx integer not null, commit_us integer not null,
    attempts integer not null, payload blob not null, annotations blob, backfill text
);
create table if not exists discarded (
    id integer primary key,
    sink integer not null, shape integer not null, lsn integer not null, idx integer not null, commit_us integer not null,
    attempts integer not null, payload blob not null, annotations blob, backfill text, error text not null, discarded_at text not null
);
create index if not exists discarded_sink on discarded (sink);  -- a deleted sink's go with it
"""
_ROW = "id, sink, shape, lsn, idx, commit_us, attempts, payload, annotations, backfill"
_PAGES_GIVEN_BACK = 4096
"""Free pages that go back to the file system with one flush; more would hold up the next one"""


class Kept(NamedTuple):
    """One message of the backlog: `payload` is the change as pgoutput has it, `shape` names what its table looked like."""

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


@dataclass(slots=True)
class Flush:
    """What one transaction of the store writes beside the confirmed position.

    `acknowledged`: commit LSN -> (index, sink number) pairs. `shapes`: documents by id. `attempts`: (count, row id) of messages that
    failed again. `discarded`: (row id, error, time) of rows of the backlog, those in `kept` included.
    """

    acknowledged: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    shapes: dict[int, bytes] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    attempts: list[tuple[int, int]] = field(default_factory=list)
    discarded: list[tuple[int, str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.acknowledged or self.kept or self.done or self.attempts or self.discarded)


class StoreMismatch(Exception):
    """The store belongs to another Postgres cluster, database or slot; delivering on would lose or repeat changes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as it was read back, with what the engine keeps beside it."""

    resource: Resource
    number: int
    start_lsn: int
    cursor: tuple[str, ...] | None


class StateStore:
    """The open file; `path` is created with mode 0600, since endpoints hold secrets. `max_pages` bounds it, in pages of 4 kB.

    It is long because each statement is one method.
    """

    def __init__(self, path: Path, max_pages: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma auto_vacuum = incremental")  # before the first table, or it has no effect
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma journal_size_limit = 4194304")
        if max_pages is not None:
            self._db.execute(f"pragma max_page_count = {int(max_pages)}")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(_SCHEMA)
        last = self._db.execute("select seq from sqlite_sequence where name = 'resources'").fetchone()
        self._last_number = 0 if last is None else int(last[0])

    def close(self) -> None:
        """Close the file; the object is of no use afterwards."""
        with self._lock:
            self._db.close()

    # --- whose state this is -------------------------------------------------------------------------------------------

    def bind(self, identity: Mapping[str, str]) -> None:
        """Tie the state to a cluster, database and slot on first use; raises StoreMismatch when it is tied to another."""
        with self._lock:
            for key, value in identity.items():
                row = self._db.execute("select value from meta where key = ?", (key,)).fetchone()
                if row is None:
                    self._db.execute("insert into meta values (?, ?)", (key, value))
                elif row[0] != value:
                    raise StoreMismatch(f"{key} is {value} now and was {row[0]} when the state was written")

    def meta(self, key: str) -> str | None:
        """Return one kept value."""
        with self._lock:
            row = self._db.execute("select value from meta where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep one value."""
        with self._lock:
            self._db.execute("insert or replace into meta values (?, ?)", (key, value))

    # --- resources -----------------------------------------------------------------------------------------------------

    def load(self) -> list[Stored]:
        """Return all resources in the order in which they were made."""
        with self._lock:
            rows = self._db.execute("select number, kind, document, start_lsn, cursor from resources order by number").fetchall()
        classes = {kind: cls for cls, kind in _KINDS.items()}
        return [
            Stored(_revive(classes[kind], exact_json.loads(document)), number, start_lsn, _cursor(cursor))
            for number, kind, document, start_lsn, cursor in rows
        ]

    def save(self, resource: Resource, *, start_lsn: int | None = None) -> int:
        """Create or replace a resource by id and return its number; `start_lsn` None leaves that of an existing one."""
        with self._lock:
            return self._save(resource, start_lsn)

    def reserve(self, count: int) -> list[int]:
        """Hand out numbers for resources that `save_all` creates later, or never."""
        with self._lock:
            return [self._next_number() for _ in range(count)]

    def save_all(self, resources: Sequence[Resource], *, start_lsn: int | None = None, numbers: Mapping[str, int] | None = None) -> None:
        """Save resources as `save` does, all or none, with one commit to disk; `numbers` maps new resources' ids to reserved numbers."""
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
        """Remove resources by id, all or none, with what was kept for them."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                for one in ids:
                    self._db.execute("delete from discarded where sink = (select number from resources where id = ?)", (one,))
                    self._db.execute("delete from resources where id = ?", (one,))
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def save_backfill(self, backfill: BackfillResource, cursor: tuple[str, ...] | None) -> None:
        """Keep a backfill's counters together with the key up to which every row is delivered."""
        with self._lock:
            self._db.execute(
                "update resources set document = ?, cursor = ? where id = ?",
                (orjson.dumps(backfill), None if cursor is None else orjson.dumps(cursor).decode(), backfill.id),
            )

    # --- progress ------------------------------------------------------------------------------------------------------

    def flush(self, confirmed_lsn: int, batch: Flush) -> None:
        """Commit the confirmed position and all of `batch`, or nothing; acknowledgements below the position are forgotten.

        Raises sqlite3.Error, also when the disk or the file is full.
        """
        db = self._db
        # What is empty is left out: each statement gives Python's lock away and queues for it behind the event loop.
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
                db.executescript(f"pragma incremental_vacuum({_PAGES_GIVEN_BACK})")  # `execute` would stop after one page

    # --- the backlog ---------------------------------------------------------------------------------------------------

    def backlog(self) -> list[tuple[int, int]]:
        """Return (row id, sink number) of every message, in order; those of sinks that are gone are dropped."""
        with self._lock:
            for table in ("backlog", "discarded"):
                self._db.execute(f"delete from {table} where sink not in (select number from resources where kind = 'sink')")
            return self._db.execute("select id, sink from backlog order by id").fetchall()

    def next_row(self) -> int:
        """Return an id above all that are in use."""
        with self._lock:
            query = "select 1 + max(coalesce((select max(id) from backlog), 0), coalesce((select max(id) from discarded), 0))"
            return int(self._db.execute(query).fetchone()[0])

    def shapes(self) -> dict[int, bytes]:
        """Return the documents of all shapes by id; those that no message has any more are dropped."""
        with self._lock:
            self._db.execute("delete from shapes where id not in (select shape from backlog union select shape from discarded)")
            return dict(self._db.execute("select id, document from shapes").fetchall())

    def read_backlog(self, rows: Sequence[int], room: int) -> tuple[list[Kept], list[int]]:
        """Return messages by row id, in order, at least one and no more than `room` bytes; and the rows that are left."""
        marks = ",".join("?" * len(rows))
        found: list[Kept] = []
        with self._lock:
            for one in self._db.execute(f"select {_ROW} from backlog where id in ({marks}) order by id", rows):
                kept = Kept(*one)
                room -= len(kept.payload)
                if room < 0 and found:
                    return found, [row for row in rows if row >= kept.id]
                found.append(kept)
        return found, []

    def discarded_count(self) -> dict[int, int]:
        """Return how many messages were given up, by sink number."""
        with self._lock:
            return dict(self._db.execute("select sink, count(*) from discarded group by sink").fetchall())

    def read_discarded(self, sink: int, limit: int) -> list[tuple[Kept, str, str]]:
        """Return a sink's messages that were given up, oldest first, each with its last error and the time."""
        query = f"select {_ROW}, error, discarded_at from discarded where sink = ? order by id limit ?"
        with self._lock:
            return [(Kept(*one[:10]), one[10], one[11]) for one in self._db.execute(query, (sink, limit)).fetchall()]

    def take_discarded(self, sink: int, ids: Sequence[int] | None, first_row: int) -> list[int]:
        """Move a sink's given-up messages, all or those named, to the end of the backlog; returns their new row ids from `first_row` on."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                mine = [one for (one,) in self._db.execute("select id from discarded where sink = ? order by id", (sink,))]
                wanted = mine if ids is None else sorted(set(mine) & set(ids))
                rows = []
                for row, one in enumerate(wanted, first_row):
                    self._db.execute(
                        f"insert into backlog ({_ROW}) select ?, sink, shape, lsn, idx, commit_us, 0, payload, annotations, backfill"
                        " from discarded where id = ?",
                        (row, one),
                    )
                    self._db.execute("delete from discarded where id = ?", (one,))
                    rows.append(row)
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
        return rows

    # --- the confirmed position ----------------------------------------------------------------------------------------

    def set_confirmed(self, lsn: int) -> None:
        """Start over at a position: the slot is new, and what was acknowledged in an older one says nothing about it."""
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
        """Return the position from which replication goes on; 0 when nothing was ever confirmed."""
        return int(self.meta("confirmed_lsn") or 0)

    def acknowledged(self) -> dict[int, set[tuple[int, int]]]:
        """Return commit LSN -> (index, sink number) of what was delivered above the confirmed position."""
        result: dict[int, set[tuple[int, int]]] = {}
        with self._lock:
            for lsn, pairs in self._db.execute("select lsn, pairs from acknowledgements"):
                numbers = array("q", pairs)
                result.setdefault(lsn, set()).update(zip(numbers[::2], numbers[1::2], strict=True))
        return result


def _cursor(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(orjson.loads(text))


def _revive(cls: type[Any], document: dict[str, Any]) -> Resource:
    """Rebuild the dataclass from its JSON: lists become tuples again, and nested objects become their classes."""
    found = {one.name: _tuples(document[one.name]) for one in fields(cls) if one.name in document}
    if cls is SinkResource:
        found["source"] = Source(**{k: _tuples(v) for k, v in document["source"].items()})
        found["tables"] = tuple(SinkTable(_tuples(t["table"]), _tuples(t["group_column_names"])) for t in document["tables"])
        if document["filters"] is not None:
            found["filters"] = tuple(ColumnFilter(**f) for f in document["filters"])
        found["annotations"] = document["annotations"]
    resource: Resource = cls(**found)
    return resource


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
