"""Converts the slot's payloads to pending messages: transactions, table shapes, routing, backfill watermarks. No I/O.

`commit_idx` counts a transaction's inserts, updates, deletes, truncates, and logical messages from 0. As recorded,
Sequin counts the same way. So gaps between the messages of a transaction are normal.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import orjson

from userhooks.engine.capture.confirmable_lsn import Progress, Transaction
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
"""Prefix of the transactional logical messages that mark the place of a backfill's page in the stream."""
_ANNOTATE = "sequin:transaction_annotations.set"
_FORGET_ANNOTATIONS = "sequin:transaction_annotations.clear"


class CatalogStale(Exception):
    """The stream described a table incompletely; query Postgres, then take the payload again.

    `key_is_missing` is set under REPLICA IDENTITY FULL or NOTHING, where only the catalog has the primary key. `types_are_missing` is set
    if a column's type is unknown. `fits` is whether the catalog has the same columns as the stream.
    """

    def __init__(self, relation: pgoutput.Relation, *, key_is_missing: bool, types_are_missing: bool, fits: bool) -> None:
        super().__init__(f"{relation.schema}.{relation.name}")
        self.relation = relation
        self.key_is_missing = key_is_missing
        self.types_are_missing = types_are_missing
        self.fits = fits


class Watcher(Protocol):
    """A running backfill, which must see every change to its table."""

    table: TableName

    def touched(self, change: Change, xid: int, owed: bool) -> None:
        """Note a change to the table; `owed` is whether it was routed to the backfill's sink."""

    def interrupt(self) -> None:
        """Handle a reconnect of the stream, after which watermarks may be missing."""

    @property
    def sink_id(self) -> str:
        """The id of the backfill's sink."""


class Stream:
    """State of one slot's stream.

    `acknowledged` maps commit LSNs to the (index, sink number) pairs that were already delivered above the start position.
    """

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
        """Ids of the latest transactions read; some may not be visible to a SELECT yet."""
        self._acknowledged = acknowledged
        self._on_watermark = on_watermark
        self._shapes: dict[bytes, TableShape] = {}
        """Maps a table's oid, as the four bytes that a change contains, to its shape."""
        self._skip = 0
        self._transaction: Transaction | None = None
        self._delivered_before: set[tuple[int, int]] = set()
        self._index = 0
        self._commit_us = 0
        self._annotations: bytes | None = None

    def take(self, payload: bytes, *, primary_key: Sequence[str] | None = None) -> None:
        """Process one payload of the output plugin.

        Raises DecodeError. Raises CatalogStale if the payload describes a table incompletely and `primary_key` is None.
        """
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
            self._index += 1  # As recorded, Sequin sends no message for a truncate.

    def start_over(self, lsn: int) -> None:
        """Continue at `lsn`, because the changes before it are lost.

        Messages read so far stay pending, including those of an interrupted transaction.
        """
        if self._transaction is None:
            self.progress.keepalive(lsn)
        else:
            self._transaction = None
            self._skip = 0
            self.progress.commit(lsn)

    def _begin(self, event: pgoutput.Begin) -> None:
        interrupted = self._transaction
        if interrupted is not None and interrupted.commit_lsn == event.final_lsn:
            # The transaction is read again after a reconnect; changes before this index are already queued.
            self._skip = self._index
        else:
            self._transaction = self.progress.begin(event.final_lsn, event.xid)
            self._delivered_before = self._acknowledged.pop(event.final_lsn, set())
            self.recent_xids.append(event.xid)
        self._commit_us = event.commit_time_us
        self._index = 0
        self._annotations = None

    def _describe(self, relation: pgoutput.Relation, primary_key: Sequence[str] | None) -> None:
        """Store a table's shape for the changes that follow.

        The stream contains the key unless the replica identity is FULL or NOTHING.
        """
        key_in_stream = relation.replica_identity in "di"
        if primary_key is None:
            table = self.tables.get((relation.schema, relation.name))
            fits = table is not None and _fits(table, relation)
            types_are_missing = not all(self.types.knows(c.type_oid) for c in relation.columns)
            if not (key_in_stream and fits) or types_are_missing:
                raise CatalogStale(relation, key_is_missing=not key_in_stream, types_are_missing=types_are_missing, fits=fits)
        key = [c.name for c in relation.columns if c.is_key] if key_in_stream else primary_key or ()
        previous = self._shapes.get(relation.oid.to_bytes(4))
        published = {c.name for c in relation.columns}
        self._shapes[relation.oid.to_bytes(4)] = TableShape(
            relation, key if published.issuperset(key) else (), self.types, previous.group_names() if previous is not None else ()
        )

    def last_key(self, relation: pgoutput.Relation) -> Sequence[str] | None:
        """Return a table's last known key, or None if it was never known or the columns have changed since."""
        shape = self._shapes.get(relation.oid.to_bytes(4))
        if shape is not None and [(c.name, c.type_oid) for c in shape.columns] == [(c.name, c.type_oid) for c in relation.columns]:
            return [shape.columns[at].name for at in shape.key_positions]
        table = self.tables.get((relation.schema, relation.name))
        return table.key if table is not None and _fits(table, relation) else None

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
            raise pgoutput.DecodeError("a change of a table that the stream has not described")
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
            transaction.acknowledge(index, delivery.queue.number)  # Keep the pair until the confirmed LSN passes it.
            return
        transaction.owed += 1
        delivery.owe(PendingMessage(change, transaction, delivery.queue.group_of(change), unfiltered))

    def _logical_message(self, event: pgoutput.LogicalMessage) -> None:
        if not event.transactional:
            return
        self._index += 1
        if event.prefix == WATERMARK and self._index > self._skip:
            self._on_watermark(event.content.decode(errors="replace"))  # Any client can write such a message.
        elif event.prefix == _ANNOTATE:
            if _is_json(event.content):
                # Kept as raw bytes: orjson parses numbers and nesting depths that it cannot serialize again.
                self._annotations = event.content
            else:
                self._annotations = None
                log.warning("a transaction's annotations are not valid JSON; they are ignored")
        elif event.prefix == _FORGET_ANNOTATIONS:
            self._annotations = None


def _is_json(content: bytes) -> bool:
    try:
        orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        if "number is infinity" not in exc.msg:  # 1e400 is valid JSON and valid jsonb, but out of orjson's range (double).
            return False
        try:
            json.loads(content, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _fits(table: Table, relation: pgoutput.Relation) -> bool:
    """Return whether the catalog has the same columns as the stream."""
    return [(c.name, c.type_oid) for c in table.columns] == [(c.name, c.type_oid) for c in relation.columns]
