"""The engine's state on disk: resources, the confirmed LSN, acknowledgements above it. One SQLite file with one writer; no decisions.

Everything here blocks; the engine calls the writing methods on one thread of their own. A method that returns has committed with
`synchronous=FULL`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import orjson

from userhooks.engine.resources import ApiKey, Backfill, ColumnFilter, Function, HttpEndpoint, Sink, SinkTable, Source

Resource = HttpEndpoint | Function | Sink | Backfill | ApiKey

_KINDS: Mapping[type[Any], str] = {
    HttpEndpoint: "endpoint",
    Function: "function",
    Sink: "sink",
    Backfill: "backfill",
    ApiKey: "api_key",
}

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists resources (
    number integer primary key,  -- short name of a sink in `acknowledged`
    id text not null unique,
    kind text not null,
    document blob not null,
    start_lsn integer not null default 0,
    cursor text
);
create table if not exists acknowledged (lsn integer, idx integer, sink integer, primary key (lsn, idx, sink)) without rowid;
"""


class StoreMismatch(Exception):
    """The store belongs to another Postgres cluster, database or slot; delivering on would lose or repeat changes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as it was read back, with what the engine keeps beside it."""

    resource: Resource
    number: int
    start_lsn: int
    cursor: tuple[str, ...] | None


class Store:
    """The open file; `path` is created with mode 0600, since endpoints hold secrets."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(_SCHEMA)

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
            Stored(_revive(classes[kind], orjson.loads(document)), number, start_lsn, _cursor(cursor))
            for number, kind, document, start_lsn, cursor in rows
        ]

    def save(self, resource: Resource, *, start_lsn: int | None = None) -> int:
        """Create or replace a resource by id and return its number; `start_lsn` None leaves that of an existing one."""
        document = orjson.dumps(asdict(resource))
        with self._lock:
            self._db.execute(
                "insert into resources (id, kind, document, start_lsn) values (?, ?, ?, coalesce(?, 0))"
                " on conflict (id) do update set document = excluded.document, start_lsn = coalesce(?, start_lsn)",
                (resource.id, _KINDS[type(resource)], document, start_lsn, start_lsn),
            )
            number = self._db.execute("select number from resources where id = ?", (resource.id,)).fetchone()[0]
        return int(number)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove resources by id, all or none, with what was kept for them."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                for one in ids:
                    self._db.execute("delete from acknowledged where sink = (select number from resources where id = ?)", (one,))
                    self._db.execute("delete from resources where id = ?", (one,))
                self._db.execute("commit")
            except BaseException:
                self._db.execute("rollback")
                raise

    def save_backfill(self, backfill: Backfill, cursor: tuple[str, ...] | None) -> None:
        """Keep a backfill's counters together with the key up to which every row is delivered."""
        with self._lock:
            self._db.execute(
                "update resources set document = ?, cursor = ? where id = ?",
                (orjson.dumps(asdict(backfill)), None if cursor is None else orjson.dumps(cursor).decode(), backfill.id),
            )

    # --- progress ------------------------------------------------------------------------------------------------------

    def flush(self, confirmed_lsn: int, acknowledged: Iterable[tuple[int, int, int]]) -> None:
        """Commit the confirmed position and the (lsn, index, sink number) acknowledgements above it; those below it are forgotten."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                self._db.execute("insert or replace into meta values ('confirmed_lsn', ?)", (str(confirmed_lsn),))
                self._db.executemany("insert or ignore into acknowledged values (?, ?, ?)", acknowledged)
                self._db.execute("delete from acknowledged where lsn < ?", (confirmed_lsn,))
                self._db.execute("commit")
            except BaseException:
                self._db.execute("rollback")
                raise

    def set_confirmed(self, lsn: int) -> None:
        """Start over at a position: the slot is new, and what was acknowledged in an older one says nothing about it."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                self._db.execute("insert or replace into meta values ('confirmed_lsn', ?)", (str(lsn),))
                self._db.execute("delete from acknowledged")
                self._db.execute("commit")
            except BaseException:
                self._db.execute("rollback")
                raise

    def confirmed_lsn(self) -> int:
        """Return the position from which replication goes on; 0 when nothing was ever confirmed."""
        return int(self.meta("confirmed_lsn") or 0)

    def acknowledged(self) -> dict[int, set[tuple[int, int]]]:
        """Return commit LSN -> (index, sink number) of what was delivered above the confirmed position."""
        result: dict[int, set[tuple[int, int]]] = {}
        with self._lock:
            for lsn, idx, sink in self._db.execute("select lsn, idx, sink from acknowledged"):
                result.setdefault(lsn, set()).add((idx, sink))
        return result


def _cursor(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(orjson.loads(text))


def _revive(cls: type[Any], document: dict[str, Any]) -> Resource:
    """Build the dataclass from what `asdict` and JSON left of it: lists become tuples again, nested ones their classes."""
    fields = {name: _tuples(document[name]) for name in get_type_hints(cls) if name in document}
    if cls is Sink:
        fields["source"] = Source(**{k: _tuples(v) for k, v in document["source"].items()})
        fields["tables"] = tuple(SinkTable(_tuples(t["table"]), _tuples(t["group_column_names"])) for t in document["tables"])
        if document["filters"] is not None:
            fields["filters"] = tuple(ColumnFilter(**f) for f in document["filters"])
        fields["annotations"] = document["annotations"]
    resource: Resource = cls(**fields)
    return resource


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
