"""Messages that wait on disk: what goes to the store with the next flush, and what comes back from there.

The SQL is in `state_store.py`; which messages wait on disk, and in which order they go out, is decided in `sink_delivery.py`.
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
from userhooks.engine.delivery.pending_message import BEING_STORED, NOT_STORED, PendingMessage
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
    """What one flush writes, and whose messages they are."""

    flush: Flush
    asked: Iterable[PendingQueue]
    messages: list[tuple[PendingQueue, PendingMessage, int]]
    given_up: list[tuple[SinkDelivery, PendingMessage, str]]


class _Nobody:
    """What a message is owed to when it was read back: the store keeps it, and nothing else has to know."""

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Nothing to note."""

    def release(self) -> None:
        """Nothing to note."""


_NOBODY = _Nobody()


class Backlog:
    """The way to and from the store. `write` runs a method of the store on its thread; `on_gone` is told of endpoints that answer 410.

    Nothing is read back until `knows_types` is set: without the database's types a filter would judge, and a receiver get, other values.
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
        self._asked: dict[PendingQueue, None] = {}
        self._done: list[int] = []
        self._attempts: dict[int, int] = {}
        self._given_up: list[tuple[SinkDelivery, PendingMessage, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def restore_shapes(self, types: TypeCatalog) -> None:
        """Take over the shapes that the store has kept."""
        for number, document in self._store.shapes().items():
            self._take_shape(number, document, _shape(document, types))

    def _take_shape(self, number: int, document: bytes, shape: TableShape) -> None:
        self._shapes[number] = shape
        self._documents[number] = document
        self._shape_ids[document] = number

    # --- what the deliveries say ---------------------------------------------------------------------------------------

    def request_flush(self, queue: PendingQueue) -> None:
        """Ask the queue with the next flush what it wants stored."""
        self._asked[queue] = None

    def done(self, rows: Iterable[int]) -> None:
        """These rows are delivered or not wanted any more."""
        self._done.extend(rows)

    def failed_again(self, row: int, attempts: int) -> None:
        """A stored message has failed so many times by now."""
        self._attempts[row] = attempts

    def discard(self, delivery: SinkDelivery, message: PendingMessage, error: str) -> None:
        """Keep a message that is given up."""
        self._given_up.append((delivery, message, error))

    def load(self, rows: Sequence[int], room: int, queue: PendingQueue, take: Callable[[list[PendingMessage], list[int]], None]) -> None:
        """Read messages back, at least one and no more than `room` bytes, and hand them to `take` with the rows that are left."""
        task = asyncio.create_task(self._load(rows, room, queue, take))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(
        self, rows: Sequence[int], room: int, queue: PendingQueue, take: Callable[[list[PendingMessage], list[int]], None]
    ) -> None:
        await self._knows_types.wait()
        while True:
            try:
                kept: list[Kept]
                left: list[int]
                kept, left = await self._write(self._store.read_backlog, rows, room)
                break
            except sqlite3.Error as exc:
                log.error("messages that wait cannot be read back from the store: %s", exc)
                await asyncio.sleep(_AGAIN_SECONDS)
        messages = []
        for one in kept:
            try:
                change = self._change(one)
                messages.append(PendingMessage(change, _NOBODY, queue.group_of(change), row=one.id, attempts=one.attempts))
            except DecodeError:
                log.exception("message %d of sink number %d cannot be read back; it stays in the store", one.id, queue.number)
        take(messages, left)

    def _change(self, one: Kept) -> Change:
        return Change.of_payload(
            self._shapes[one.shape],
            one.payload,
            commit_lsn=one.lsn,
            commit_idx=one.idx,
            commit_us=one.commit_us,
            annotations=one.annotations,
            backfill_id=one.backfill,
        )

    # --- flushes -------------------------------------------------------------------------------------------------------

    def collect(self, owing: Iterable[SinkDelivery], position: int) -> Batch:
        """Gather what the next flush writes; `position` is that up to which all of `owing` shall have nothing in memory alone."""
        batch = Batch(Flush(), {**self._asked, **dict.fromkeys(delivery.queue for delivery in owing)}, [], self._given_up)
        self._asked = {}
        self._given_up = []
        for queue in batch.asked:
            for message in queue.to_store(position):
                if message.row == NOT_STORED:
                    self._keep(queue, message, batch)
        flush = batch.flush
        for delivery, message, error in batch.given_up:
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
        """The flush is committed."""
        for (queue, message, row), kept in zip(batch.messages, batch.flush.kept, strict=True):
            queue.is_stored(message, row)
            if message.attempts > kept.attempts:  # it has failed meanwhile
                self.failed_again(row, message.attempts)
        for queue in batch.asked:
            queue.make_room()

    def is_not_written(self, batch: Batch) -> None:
        """The flush has failed as a whole: all of it is for the next one."""
        for queue, message, _ in batch.messages:
            queue.is_not_stored(message)
        self._given_up = batch.given_up + self._given_up
        self._done = batch.flush.done + self._done
        self._attempts = {row: count for count, row in batch.flush.attempts} | self._attempts

    # --- what was given up ---------------------------------------------------------------------------------------------

    async def discarded(self, delivery: SinkDelivery, limit: int) -> list[Discarded]:
        """Return the sink's messages that were given up, oldest first."""
        found: list[tuple[Kept, str, str]] = await self._write(self._store.read_discarded, delivery.queue.number, limit)
        listed = []
        for kept, error, at in found:
            change = self._change(kept)
            shape = change.shape
            values = [change.row[i] for i in shape.key_positions]
            key = ":".join(v.decode(errors="replace") if isinstance(v, bytes) else "" for v in values)
            listed.append(Discarded(kept.id, f"{shape.schema}.{shape.name}", key, change.action, kept.attempts, error, at))
        return listed

    async def redeliver(self, delivery: SinkDelivery, ids: Sequence[int] | None) -> int:
        """Put messages that were given up, all or those named, at the end of what the sink owes; returns how many."""
        first = self._next_row
        self._next_row += delivery.discarded + 1
        rows: list[int] = await self._write(self._store.take_discarded, delivery.queue.number, ids, first)
        delivery.discarded -= len(rows)
        delivery.restore(rows)
        return len(rows)

    async def close(self) -> None:
        """Stop reading back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _document(shape: TableShape) -> bytes:
    """Write down what `_shape` needs to make the shape again."""
    columns = [[c.name, c.type_oid, c.type_mod] for c in shape.columns]
    key = [shape.columns[i].name for i in shape.key_positions]
    return orjson.dumps([shape.schema, shape.name, columns, key, shape.replica_identity, shape.group_names()])


def _shape(document: bytes, types: TypeCatalog) -> TableShape:
    schema, name, columns, key, *more = orjson.loads(document)
    identity, group_names = more or ("f", [])  # documents of earlier versions have neither
    return TableShape(Table(schema, name, tuple(Column(*c) for c in columns), tuple(key), identity), key, types, group_names)
