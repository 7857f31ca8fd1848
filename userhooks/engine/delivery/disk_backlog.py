"""The backlog on disk: collects what the next flush writes to the store, and reads pending messages back.

`state_store.py` has the SQL; `sink_delivery.py` and `pending_queue.py` decide which messages are on disk and in which order they are sent.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from userhooks.engine.change import Change
from userhooks.engine.clock import utc_now
from userhooks.engine.delivery.pending_message import BEING_STORED, NO_SOURCE, NOT_STORED, PendingMessage
from userhooks.engine.delivery.pending_queue import PendingQueue
from userhooks.engine.delivery.sink_delivery import SinkDelivery
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.pgoutput import DecodeError
from userhooks.engine.resources import Column, Discarded, Table
from userhooks.engine.state_store import Flush, Kept, StateStore
from userhooks.engine.table_shape import TableShape

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


@dataclass(slots=True)
class Batch:
    """The contents of one flush, and the queues and deliveries that its messages belong to."""

    flush: Flush
    queues: Iterable[PendingQueue]
    messages: list[tuple[PendingQueue, PendingMessage, int]]
    discarded: list[tuple[SinkDelivery, PendingMessage, str]]


class Backlog:
    """Moves messages to and from the store. `write` runs a method of the store on the store's thread.

    `on_gone` is called when an endpoint answers 410, `on_caught_up` when all pending messages of a sink are in memory again. Messages are
    read back only after `knows_types` is set, since filters and receivers would get different values without the database's types.
    """

    def __init__(
        self,
        store: StateStore,
        write: Callable[..., Awaitable[Any]],
        *,
        knows_types: asyncio.Event,
        on_gone: Callable[[SinkDelivery], None],
        on_caught_up: Callable[[SinkDelivery], None],
    ) -> None:
        self._store = store
        self._write = write
        self._knows_types = knows_types
        self.endpoint_is_gone = on_gone
        self.caught_up = on_caught_up
        self._next_row = store.next_row()
        self._shapes: dict[int, TableShape] = {}
        self._documents: dict[int, bytes] = {}
        self._shape_ids: dict[bytes, int] = {}
        self._known: dict[TableShape, int] = {}
        self._queues_to_flush: dict[PendingQueue, None] = {}
        self._done: list[int] = []
        self._attempts: dict[int, int] = {}
        self._discarded: list[tuple[SinkDelivery, PendingMessage, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def restore_shapes(self, types: TypeCatalog) -> None:
        """Restore the table shapes saved in the store."""
        for number, document in self._store.shapes().items():
            self._take_shape(number, document, _shape(document, types))

    def _take_shape(self, number: int, document: bytes, shape: TableShape) -> None:
        self._shapes[number] = shape
        self._documents[number] = document
        self._shape_ids[document] = number

    # --- called by the deliveries --------------------------------------------------------------------------------------

    def request_flush(self, queue: PendingQueue) -> None:
        """Include the queue in the next flush."""
        self._queues_to_flush[queue] = None

    def done(self, rows: Iterable[int]) -> None:
        """Delete rows during the next flush, because they were delivered or are no longer wanted."""
        self._done.extend(rows)

    def failed_again(self, row: int, attempts: int) -> None:
        """Save the number of attempts of a stored message during the next flush."""
        self._attempts[row] = attempts

    def discard(self, delivery: SinkDelivery, message: PendingMessage, error: str) -> None:
        """Move a message to the discarded messages during the next flush."""
        self._discarded.append((delivery, message, error))

    def load(self, rows: Sequence[int], room: int, queue: PendingQueue, take: Callable[[list[PendingMessage], list[int]], None]) -> None:
        """Read messages back, up to `room` bytes but at least one, and pass them to `take`, along with the row ids not read."""
        task = asyncio.create_task(self._load(rows, room, queue, take))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(
        self, rows: Sequence[int], room: int, queue: PendingQueue, take: Callable[[list[PendingMessage], list[int]], None]
    ) -> None:
        await self._knows_types.wait()
        while True:
            try:
                loaded: list[Kept]
                remaining: list[int]
                loaded, remaining = await self._write(self._store.read_backlog, rows, room)
                break
            except sqlite3.Error as exc:
                log.error("cannot read pending messages from the store; retrying: %s", exc)
                await asyncio.sleep(_AGAIN_SECONDS)
        messages = []
        for stored in loaded:
            try:
                change = self._change(stored)
                messages.append(PendingMessage(change, NO_SOURCE, queue.group_of(change), row=stored.id, attempts=stored.attempts))
            except DecodeError:
                log.exception("cannot decode message %d of sink number %d; it stays in the store", stored.id, queue.number)
        take(messages, remaining)

    def _change(self, stored: Kept) -> Change:
        return Change.of_payload(
            self._shapes[stored.shape],
            stored.payload,
            commit_lsn=stored.lsn,
            commit_idx=stored.idx,
            commit_us=stored.commit_us,
            annotations=stored.annotations,
            backfill_id=stored.backfill,
        )

    # --- flushes -------------------------------------------------------------------------------------------------------

    def collect(self, deliveries: Iterable[SinkDelivery], position: int) -> Batch:
        """Collect what the next flush writes, including all messages of `deliveries` that were committed up to `position`."""
        batch = Batch(Flush(), {**self._queues_to_flush, **dict.fromkeys(delivery.queue for delivery in deliveries)}, [], self._discarded)
        self._queues_to_flush = {}
        self._discarded = []
        for queue in batch.queues:
            for message in queue.to_store(position):
                if message.row == NOT_STORED:
                    self._keep(queue, message, batch)
        flush = batch.flush
        for delivery, message, error in batch.discarded:
            row = message.row if message.row > 0 else self._keep(delivery.queue, message, batch)
            flush.discarded.append((row, error, utc_now()))
        flush.done, self._done = self._done, []
        flush.attempts = [(count, row) for row, count in self._attempts.items()]
        self._attempts = {}
        return batch

    def _keep(self, queue: PendingQueue, message: PendingMessage, batch: Batch) -> int:
        change = message.change
        row = self._next_row
        self._next_row += 1
        message.row = BEING_STORED
        batch.messages.append((queue, message, row))
        batch.flush.kept.append(
            Kept(
                row,
                queue.number,
                self._shape_id(change.shape, batch.flush),
                change.commit_lsn,
                change.commit_idx,
                change.commit_us,
                message.attempts,
                change.payload,
                change.annotations,
                change.backfill_id,
            )
        )
        if change.backfill_id is None:
            batch.flush.acknowledged.setdefault(change.commit_lsn, []).append((change.commit_idx, queue.number))
        return row

    def _shape_id(self, shape: TableShape, flush: Flush) -> int:
        number = self._known.get(shape)
        if number is None:
            document = _document(shape)
            number = self._shape_ids.get(document)
            if number is None:
                number = max(self._shapes, default=0) + 1
                self._take_shape(number, document, shape)
            self._known[shape] = number
        flush.shapes[number] = self._documents[number]
        return number

    def is_written(self, batch: Batch) -> None:
        """Mark the messages of a committed flush as stored."""
        for (queue, message, row), kept in zip(batch.messages, batch.flush.kept, strict=True):
            queue.is_stored(message, row)
            if message.attempts > kept.attempts:  # it failed during the flush
                self.failed_again(row, message.attempts)
        for queue in batch.queues:
            queue.make_room()

    def is_not_written(self, batch: Batch) -> None:
        """Put everything from a failed flush into the next one."""
        for queue, message, _ in batch.messages:
            queue.is_not_stored(message)
        self._discarded = batch.discarded + self._discarded
        self._done = batch.flush.done + self._done
        self._attempts = {row: count for count, row in batch.flush.attempts} | self._attempts

    # --- discarded messages --------------------------------------------------------------------------------------------

    async def discarded(self, delivery: SinkDelivery, limit: int) -> list[Discarded]:
        """Return the sink's discarded messages, oldest first."""
        rows: list[tuple[Kept, str, str]] = await self._write(self._store.read_discarded, delivery.queue.number, limit)
        listed = []
        for kept, error, time in rows:
            change = self._change(kept)
            shape = change.shape
            values = [change.row[i] for i in shape.key_positions]
            key = ":".join(v.decode(errors="replace") if isinstance(v, bytes) else "" for v in values)
            listed.append(Discarded(kept.id, f"{shape.schema}.{shape.name}", key, change.action, kept.attempts, error, time))
        return listed

    async def redeliver(self, delivery: SinkDelivery, ids: Sequence[int] | None) -> int:
        """Put all discarded messages, or only those with the given ids, at the end of the sink's queue; return their number."""
        first = self._next_row
        self._next_row += delivery.discarded + 1
        rows: list[int] = await self._write(self._store.take_discarded, delivery.queue.number, ids, first)
        delivery.discarded -= len(rows)
        delivery.restore(rows)
        return len(rows)

    async def close(self) -> None:
        """Cancel all reads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _document(shape: TableShape) -> bytes:
    """Serialize a shape; `_shape` restores it."""
    columns = [[c.name, c.type_oid, c.type_mod] for c in shape.columns]
    key = [shape.columns[i].name for i in shape.key_positions]
    return orjson.dumps([shape.schema, shape.name, columns, key, shape.replica_identity, shape.group_names()])


def _shape(document: bytes, types: TypeCatalog) -> TableShape:
    schema, name, columns, key, *rest = orjson.loads(document)
    identity, group_names = rest or ("f", [])  # documents of earlier versions have neither
    return TableShape(Table(schema, name, tuple(Column(*c) for c in columns), tuple(key), identity), key, types, group_names)
