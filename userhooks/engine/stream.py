"""From the slot's payloads to messages owed: transactions, table shapes, routing, backfill watermarks. No I/O, and no waiting.

`commit_idx` counts inserts, updates, deletes, truncates and logical messages of a transaction from 0, as Sequin does (recorded), so gaps
are normal.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import orjson

from userhooks.engine import pgoutput
from userhooks.engine.delivery import SinkDelivery
from userhooks.engine.owed import Message
from userhooks.engine.progress import Progress, Transaction
from userhooks.engine.rendering import Change, TableShape, group_key
from userhooks.engine.resources import Table, TableName
from userhooks.engine.routing import Route, Router
from userhooks.engine.values import TypeCatalog

log = logging.getLogger(__name__)

WATERMARK = "userhooks.backfill"
"""Prefix of the transactional logical messages that mark where a backfill's page belongs in the stream"""
_ANNOTATE = "sequin:transaction_annotations.set"
_FORGET_ANNOTATIONS = "sequin:transaction_annotations.clear"


class CatalogStale(Exception):
    """A table of the stream is not (or no longer) what the catalog says: read the catalog again, then take the payload again."""


class Watcher(Protocol):
    """A running backfill, which has to know of every change to its table."""

    table: TableName

    def touched(self, change: Change, xid: int, owed: bool) -> None:
        """A change to the table came by; `owed` when the backfill's sink was owed it."""

    def interrupt(self) -> None:
        """The stream was lost and taken up again; watermarks may be missing."""

    @property
    def sink_id(self) -> str:
        """The backfill's sink."""


class Stream:
    """The state of reading one slot. `acknowledged` is what was delivered above the position from which the stream starts."""

    def __init__(
        self,
        progress: Progress,
        router: Router,
        tables: Mapping[TableName, Table],
        types: TypeCatalog,
        acknowledged: dict[int, set[tuple[int, int]]],
        on_watermark: Callable[[str], None],
    ) -> None:
        self.progress = progress
        self.router = router
        self.tables = tables
        self.types = types
        self.watchers: list[Watcher] = []
        self.changes = 0
        self.bytes = 0
        self.last_commit_us = 0
        self.recent_xids: deque[int] = deque(maxlen=10_000)
        """the latest transactions read; a SELECT may not see all of them yet"""
        self._acknowledged = acknowledged
        self._on_watermark = on_watermark
        self._shapes: dict[bytes, TableShape] = {}
        """by the table's oid as changes begin with it"""
        self._skip = 0
        self._transaction: Transaction | None = None
        self._delivered_before: set[tuple[int, int]] = set()
        self._index = 0
        self._commit_us = 0
        self._annotations: bytes | None = None

    def take(self, payload: bytes, *, refreshed: bool = False) -> None:
        """Handle one payload of the output plugin; raises CatalogStale (never when `refreshed`) and pgoutput.DecodeError."""
        event = pgoutput.decode(payload)
        self.bytes += len(payload)
        if isinstance(event, pgoutput.RowChange):
            self._change(event)
        elif isinstance(event, pgoutput.Begin):
            self._begin(event)
        elif isinstance(event, pgoutput.Commit):
            if self._transaction is None:
                raise pgoutput.DecodeError("a commit outside a transaction")
            self.last_commit_us = self._commit_us
            self._transaction = None
            self._skip = 0
            self.progress.commit(event.end_lsn)
        elif isinstance(event, pgoutput.Relation):
            self._shapes[event.oid.to_bytes(4)] = self._shape(event, refreshed)
        elif isinstance(event, pgoutput.LogicalMessage):
            self._logical_message(event)
        elif isinstance(event, pgoutput.Truncate):
            self._index += 1  # Sequin sends nothing for it (recorded)

    def start_over(self, lsn: int) -> None:
        """Nothing between what was read and `lsn` will come any more; what was read, of an interrupted transaction too, stays owed."""
        if self._transaction is None:
            self.progress.keepalive(lsn)
        else:
            self._transaction = None
            self._skip = 0
            self.progress.commit(lsn)

    def _begin(self, event: pgoutput.Begin) -> None:
        interrupted = self._transaction
        if interrupted is not None and interrupted.commit_lsn == event.final_lsn:
            self._skip = self._index  # read once more after the connection was lost: what came by then is in the queues
        else:
            self._transaction = self.progress.begin(event.final_lsn, event.xid)
            self._delivered_before = self._acknowledged.pop(event.final_lsn, set())
            self.recent_xids.append(event.xid)
        self._commit_us = event.commit_time_us
        self._index = 0
        self._annotations = None

    def _shape(self, relation: pgoutput.Relation, refreshed: bool) -> TableShape:
        """Join the stream's description of a table with its primary key, which only the catalog knows under REPLICA IDENTITY FULL."""
        table = self.tables.get((relation.schema, relation.name))
        fits = table is not None and [(c.name, c.type_oid) for c in table.columns] == [(c.name, c.type_oid) for c in relation.columns]
        if not refreshed and not (fits and all(self.types.knows(c.type_oid) for c in relation.columns)):
            raise CatalogStale(f"{relation.schema}.{relation.name}")
        names = {c.name for c in relation.columns}
        key = table.primary_key if table is not None and names.issuperset(table.primary_key) else ()
        return TableShape(relation, key, self.types)

    def _change(self, event: pgoutput.RowChange) -> None:
        transaction = self._transaction
        if transaction is None:
            raise pgoutput.DecodeError("a change outside a transaction")
        index = self._index
        self._index = index + 1
        if index < self._skip:
            return
        self.changes += 1
        shape = self._shapes.get(event.payload[1:5])
        if shape is None:
            raise pgoutput.DecodeError("a change of a table that was not described")
        change = Change(shape, event, transaction.commit_lsn, index, self._commit_us, self._annotations)
        routes, failed = self.router.for_table(shape).match(change)
        for route in routes:
            self._owe(route, change, transaction, index, unjudged=False)
        for route, _ in failed:
            self._owe(route, change, transaction, index, unjudged=True)
        if self.watchers:
            owed = {route.sink_id for route in routes} | {route.sink_id for route, _ in failed}
            for watcher in self.watchers:
                if watcher.table == shape.table:
                    watcher.touched(change, transaction.xid, watcher.sink_id in owed)

    def _owe(self, route: Route, change: Change, transaction: Transaction, index: int, *, unjudged: bool) -> None:
        delivery: SinkDelivery = route.target
        if self._delivered_before and (index, delivery.number) in self._delivered_before:
            transaction.owed += 1
            transaction.settle(index, delivery.number)  # stays acknowledged until the position has passed it
            return
        transaction.owed += 1
        delivery.owe(Message(change, transaction, group_of(delivery, change), unjudged))

    def _logical_message(self, event: pgoutput.LogicalMessage) -> None:
        if not event.transactional:
            return
        self._index += 1
        if event.prefix == WATERMARK and self._index > self._skip:
            self._on_watermark(event.content.decode(errors="replace"))  # anybody may write such a message
        elif event.prefix == _ANNOTATE:
            if _is_json(event.content):
                self._annotations = event.content  # as it came: orjson reads numbers and depths that it cannot write again
            else:
                self._annotations = None
                log.warning("a transaction's annotations are not JSON; they are left out")
        elif event.prefix == _FORGET_ANNOTATIONS:
            self._annotations = None


def _is_json(content: bytes) -> bool:
    try:
        orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        if "number is infinity" not in exc.msg:  # 1e400 is JSON, and jsonb holds it; orjson reads doubles
            return False
        try:
            json.loads(content, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def group_of(delivery: SinkDelivery, change: Change) -> object:
    """Return the message's group, or None when it has none: by primary key, by the sink's columns for that table, or not at all.

    A `tables` entry without columns, no primary key and `message_grouping: false` mean no group (Sequin contract, 7.3).
    """
    sink = delivery.sink
    if not sink.message_grouping:
        return None
    for entry in sink.tables:
        if entry.table == change.shape.table:
            return change.group if entry.group_column_names is None else group_key(change, entry.group_column_names)
    return change.group
