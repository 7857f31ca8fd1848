"""From the slot's payloads to messages owed: transactions, table shapes, routing, backfill watermarks. No I/O, and no waiting.

`commit_idx` counts inserts, updates, deletes, truncates and logical messages of a transaction from 0, as Sequin does (recorded), so gaps
are normal.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import orjson

from userhooks.engine.capture.confirmed_lsn import Progress, Transaction
from userhooks.engine.change import Change
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.postgres import pgoutput
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.resources import Table, TableName
from userhooks.engine.routing import Route, Router
from userhooks.engine.table_shape import TableShape

log = logging.getLogger(__name__)

WATERMARK = "userhooks.backfill"
"""Prefix of the transactional logical messages that mark where a backfill's page belongs in the stream"""
_ANNOTATE = "sequin:transaction_annotations.set"
_FORGET_ANNOTATIONS = "sequin:transaction_annotations.clear"


class CatalogStale(Exception):
    """The stream describes a table, and does not say all of it: ask Postgres, then take the payload again.

    `key_is_missing`: under REPLICA IDENTITY FULL or NOTHING only the catalog knows the primary key. `types_are_missing`: a type is unknown.
    `fits`: the catalog's columns are those of the stream.
    """

    def __init__(self, relation: pgoutput.Relation, *, key_is_missing: bool, types_are_missing: bool, fits: bool) -> None:
        super().__init__(f"{relation.schema}.{relation.name}")
        self.relation = relation
        self.key_is_missing = key_is_missing
        self.types_are_missing = types_are_missing
        self.fits = fits


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

    def take(self, payload: bytes, *, primary_key: Sequence[str] | None = None) -> None:
        """Handle one payload of the output plugin. Raises DecodeError, and CatalogStale unless the table's `primary_key` is given."""
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
            self._describe(event, primary_key)
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

    def _describe(self, relation: pgoutput.Relation, primary_key: Sequence[str] | None) -> None:
        """Note what a table looks like from here on. Its key is in the stream, unless the replica identity is FULL or NOTHING."""
        in_stream = relation.replica_identity in "di"
        if primary_key is None:
            known = self.tables.get((relation.schema, relation.name))
            fits = known is not None and _fits(known, relation)
            types_are_missing = not all(self.types.knows(c.type_oid) for c in relation.columns)
            if not (in_stream and fits) or types_are_missing:
                raise CatalogStale(relation, key_is_missing=not in_stream, types_are_missing=types_are_missing, fits=fits)
        key = [c.name for c in relation.columns if c.is_key] if in_stream else primary_key or ()
        former = self._shapes.get(relation.oid.to_bytes(4))
        shown = {c.name for c in relation.columns}
        self._shapes[relation.oid.to_bytes(4)] = TableShape(
            relation, key if shown.issuperset(key) else (), self.types, former.group_names() if former is not None else ()
        )

    def last_key(self, relation: pgoutput.Relation) -> Sequence[str] | None:
        """Return a table's key as it was known last; None when it was never known, or the table has other columns by now."""
        shape = self._shapes.get(relation.oid.to_bytes(4))
        if shape is not None and [(c.name, c.type_oid) for c in shape.columns] == [(c.name, c.type_oid) for c in relation.columns]:
            return [shape.columns[at].name for at in shape.key_positions]
        known = self.tables.get((relation.schema, relation.name))
        return known.key if known is not None and _fits(known, relation) else None

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
            self._owe(route, change, transaction, index, unfiltered=False)
        for route, _ in failed:
            self._owe(route, change, transaction, index, unfiltered=True)
        if self.watchers:
            owed = {route.sink_id for route in routes} | {route.sink_id for route, _ in failed}
            for watcher in self.watchers:
                if watcher.table == shape.table:
                    watcher.touched(change, transaction.xid, watcher.sink_id in owed)

    def _owe(self, route: Route, change: Change, transaction: Transaction, index: int, *, unfiltered: bool) -> None:
        delivery: SinkDelivery = route.target
        if self._delivered_before and (index, delivery.queue.number) in self._delivered_before:
            transaction.owed += 1
            transaction.acknowledge(index, delivery.queue.number)  # stays acknowledged until the position has passed it
            return
        transaction.owed += 1
        delivery.owe(PendingMessage(change, transaction, delivery.queue.group_of(change), unfiltered))

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


def _fits(table: Table, relation: pgoutput.Relation) -> bool:
    """Whether the catalog's columns are those of the stream."""
    return [(c.name, c.type_oid) for c in table.columns] == [(c.name, c.type_oid) for c in relation.columns]
