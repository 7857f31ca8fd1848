"""The pending messages of one sink that are not in flight, in order: new, in backoff, waiting for their group, or only on disk.

From oldest to newest, messages are in `retries` (in backoff), `groups` (waiting for an earlier message of their group), `ready`, and
`spill` (on disk, or added after the messages on disk). The spill is in use while the sink is behind: paused, down, stalled, or slower than
its traffic. Only a window of messages then stays in memory; the rest is read back from disk as the window empties. `sink_delivery.py`
decides when a sink is behind.

This module is long because keeping order, grouping, and spilling to disk all work on the same containers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

from userhooks.engine.delivery.groups import OccupiedGroups, groups_of
from userhooks.engine.delivery.pending_message import BEING_STORED, NOT_STORED, SETTLED, MemoryBudget, MessageSource, PendingMessage
from userhooks.engine.delivery.retry_queue import RetryQueue
from userhooks.engine.delivery.spill import Spill

WAITING_PER_GROUP = 100
"""Maximum number of messages of a group that wait in memory."""
LARGE_BYTES = 4_000
"""Size in bytes above which a stored message that waits for its group is not kept in memory."""


class QueueDisk(Protocol):
    """The store for messages that are not kept in memory."""

    def request_flush(self, queue: PendingQueue) -> None:
        """Include the queue in the next flush."""

    def done(self, rows: Iterable[int]) -> None:
        """Mark rows as delivered or no longer wanted."""

    def load(self, rows: list[int], room: int, queue: PendingQueue, take: Callable[[list[PendingMessage], list[int]], None]) -> None:
        """Read messages back, up to `room` bytes but at least one, and pass them to `take`, along with the row ids not read."""


class Owner(Protocol):
    """The delivery that takes messages from the queue and sends them."""

    @property
    def is_held(self) -> bool:
        """Whether nothing may be sent yet."""

    def on_way(self) -> Iterable[list[PendingMessage]]:
        """Return the batches in flight."""

    def offer(self) -> None:
        """Called when the queue may have messages to send."""

    def may_refill(self) -> bool:
        """Return whether messages may be read back from disk now."""

    def may_catch_up(self) -> bool:
        """Return whether all pending messages may be in memory again."""

    def caught_up(self) -> None:
        """Called when all pending messages are in memory again."""


class PendingQueue:
    """The pending messages of one sink, whose id in the store is `number`.

    `filter` and `group_of` are the sink's current filter and grouping. If `is_due`, ready messages are sent without waiting for a full
    batch.

    The class is long because keeping order, grouping, and spilling to disk all work on the same containers.
    """

    __slots__ = (
        "_disk",
        "_flush_requested",
        "_has_large",
        "_life",
        "_owner",
        "batch_size",
        "budget",
        "count",
        "filter",
        "group_of",
        "groups",
        "is_due",
        "number",
        "ready",
        "retries",
        "spill",
    )

    def __init__(self, number: int, owner: Owner, disk: QueueDisk, budget: MemoryBudget) -> None:
        self.number = number
        self.count = 0
        """number of pending messages, including those in flight"""
        self.batch_size = 1
        self.is_due = False
        self.filter: Callable[[Any], bool] = lambda _: True
        self.group_of: Callable[[Any], object] = lambda _: None
        self.budget = budget
        self.ready: deque[PendingMessage] = deque()
        self.groups = OccupiedGroups()
        self.retries = RetryQueue()
        self.spill = Spill(budget)
        self._disk = disk
        self._owner = owner
        self._life = 0
        self._has_large = False
        self._flush_requested = False

    # --- in and out ----------------------------------------------------------------------------------------------------

    def add(self, message: PendingMessage) -> bool:
        """Add a message, in the order in which messages must be delivered. Return False if it is not ready because the sink is behind."""
        self.count += 1
        self.budget.add(1, message.change.size)
        if self.spill.in_use:
            self.spill.fresh.append(message)
            self.request_flush()
            return False
        self.ready.append(message)
        return True

    def take(self) -> list[PendingMessage]:
        """Remove and return the next batch of new messages; an unfiltered message is a batch by itself."""
        ready, groups, size = self.ready, self.groups, self.batch_size
        batch: list[PendingMessage] = []
        occupied: set[object] = set()
        while ready and len(batch) < size:
            message = ready[0]
            if message.unfiltered and batch:
                break
            ready.popleft()
            if message.group is not None and not groups.occupy(message.group, occupied):
                waiting = groups.queue(message.group)
                on_disk = message.row > 0 and (len(waiting) >= self._most_per_group or message.change.size > LARGE_BYTES)
                waiting.append(message.row if on_disk else message)
                if self.retries:
                    self.request_flush()
                continue
            batch.append(message)
            if message.unfiltered:
                break
        if not ready:
            self.is_due = False
        return batch

    def retry(self, batch: list[PendingMessage], due: float) -> None:
        """Put a batch into backoff until `due`."""
        self.retries.push(batch, due)
        self.request_flush()

    def retry_behind(self, first: list[PendingMessage], second: list[PendingMessage], due: float) -> None:
        """Put `second` into backoff; its messages that share a group with `first` wait for `first` instead."""
        apart = self.groups.put_behind(first, second)
        if apart:
            self.retry(apart, due)

    def delivered(self, batch: list[PendingMessage]) -> None:
        """Remove a delivered batch, and acknowledge its messages."""
        unsaved = len(batch)
        self.count -= unsaved
        size = 0
        for message in batch:
            if message.row > 0:
                self._disk.done((message.row,))
                unsaved -= 1
            else:
                if message.row == BEING_STORED:
                    message.row = SETTLED
                message.source.acknowledge(message.change.commit_idx, self.number)
                size += message.change.size
        self.budget.add(-unsaved, -size)
        self.free(batch)

    def release(self, message: PendingMessage) -> None:
        """Remove a message that is no longer wanted."""
        self.count -= 1
        if message.row > 0:
            self._disk.done((message.row,))
            return
        message.row = SETTLED if message.row == BEING_STORED else message.row
        message.source.release()
        self.budget.add(-1, -message.change.size)

    def free(self, batch: list[PendingMessage]) -> None:
        """Free a batch's groups; the messages waiting for these groups are sent next."""
        for group in self.groups.free(batch):
            self._let_go(group)

    def _let_go(self, group: object) -> None:
        """Free one group of a queue of waiting messages. When all its groups are free, its messages are sent next, those on disk last."""
        waiting = self.groups[group]
        assert waiting is not None  # noqa: S101  # `free` returns only groups with a queue
        waiting.held -= 1
        if waiting.held:
            return
        if len(waiting) <= WAITING_PER_GROUP and not any(True for _ in waiting.rows()):
            for member in waiting.groups:
                del self.groups[member]
            self.ready.extendleft(message for message in reversed(waiting) if isinstance(message, PendingMessage))
            self.is_due = True
            return
        batch: list[PendingMessage] = []
        while waiting and isinstance(waiting[0], PendingMessage) and len(batch) < self.batch_size:
            first = waiting[0]
            assert isinstance(first, PendingMessage)  # noqa: S101
            if batch and (first.unfiltered or batch[0].unfiltered):
                break
            batch.append(first)
            waiting.popleft()
        if batch:
            waiting.held = len(groups_of(batch))
            self.retry(batch, 0.0)
            return
        waiting.held = 1
        rows: list[int] = []
        while waiting and isinstance(waiting[0], int) and len(rows) < WAITING_PER_GROUP:
            row = waiting.popleft()
            assert isinstance(row, int)  # noqa: S101
            rows.append(row)
        life = self._life

        def loaded(messages: list[PendingMessage], left: list[int]) -> None:
            if life != self._life:
                self._forget_rows(messages, left)
                return
            waiting = self.groups[group]  # its queue may have been merged with others since
            assert waiting is not None  # noqa: S101
            waiting.extendleft(reversed(left))
            members = set(waiting.groups)
            for message in messages:
                groups = groups_of([message])
                if not groups or not groups <= members:  # the sink's grouping has changed; waiting messages keep their order
                    message.group = group
            waiting.extendleft(reversed([message for message in messages if self._is_wanted(message)]))
            self._let_go(group)
            self._owner.offer()

        self._disk.load(rows, self.budget.window_bytes // 2, self, loaded)

    # --- changes of the sink -------------------------------------------------------------------------------------------

    def filter_again(self) -> None:
        """Require all pending messages to pass a changed filter; messages on disk are filtered when they are read back."""
        for message in chain(chain.from_iterable(self._owner.on_way()), self.in_memory()):
            message.unfiltered = True

    def forget_before(self, position: int) -> None:
        """Drop the messages committed before a position. Rows of a backfill have no position and stay."""
        self._release_where(lambda message: (at := message.position) is not None and at < position, (self.ready, self.spill.fresh))

    def withdraw(self, is_of: Callable[[MessageSource], bool]) -> None:
        """Drop the messages in memory whose source is no longer wanted, such as a cancelled backfill.

        Messages in flight and in backoff stay.
        """
        self._release_where(lambda message: is_of(message.source), (self.ready, self.spill.fresh, *self.groups.queues()))

    def _release_where(self, is_unwanted: Callable[[PendingMessage], bool], queues: Iterable[deque[Any]]) -> None:
        for queue in queues:
            for message in [m for m in queue if isinstance(m, PendingMessage) and is_unwanted(m)]:
                queue.remove(message)
                self.release(message)

    def drop(self) -> None:
        """Drop all pending messages except those in flight."""
        self._life += 1
        self.spill.is_loading = False
        for message in list(self.in_memory()):
            self.release(message)
        on_disk = [row for waiting in self.groups.queues() for row in waiting.rows()]
        on_disk += self.spill.rows.take(len(self.spill.rows))
        self._disk.done(on_disk)
        on_way = list(chain.from_iterable(self._owner.on_way()))
        self.count = len(on_way)
        self.ready.clear()
        self.spill.fresh.clear()
        self.retries.clear()
        occupied = groups_of(on_way)
        for group in list(self.groups):
            if group in occupied:
                self.groups[group] = None
            else:
                del self.groups[group]
        self.spill.use(False)

    def in_memory(self) -> Iterator[PendingMessage]:
        """Yield all pending messages in memory that are not in flight, in order within each group."""
        for batch in self.retries:
            yield from batch
        for waiting in self.groups.queues():
            yield from waiting.messages()
        yield from self.ready
        yield from self.spill.fresh

    # --- to disk -------------------------------------------------------------------------------------------------------

    def request_flush(self) -> None:
        """Include the queue in the next flush, unless it is included already."""
        if not self._flush_requested:
            self._flush_requested = True
            self._disk.request_flush(self)

    def to_store(self, position: int) -> Iterator[PendingMessage]:
        """Yield the messages that should be stored, in order within each group.

        While the spill is in use, the first call yields all messages in memory or in flight, and later calls only those added since then.
        Otherwise, it yields the messages in backoff and those that must stay in order with them. If `position` is not 0, it also yields all
        messages committed at or before it.
        """
        self._flush_requested = False
        if self.spill.in_use and self.spill.is_swept:
            yield from self.spill.fresh
        elif self.spill.in_use:
            self.spill.is_swept = True
            yield from chain(chain.from_iterable(self._owner.on_way()), self.in_memory())
        else:
            yield from self._in_backoff()
            if position:
                for message in chain(chain.from_iterable(self._owner.on_way()), self.in_memory()):
                    if (at := message.position) is not None and at <= position:
                        yield message

    def _in_backoff(self) -> Iterator[PendingMessage]:
        retrying = [message for batch in self.retries for message in batch]
        yield from retrying
        queues = self.groups.queues_of(retrying)
        shared = {group for waiting in queues if len(waiting.groups) > 1 for group in waiting.groups}
        if shared:  # after a restart, a message of several groups must still follow all of them
            for batch in self._owner.on_way():
                if groups_of(batch) & shared:  # the whole batch, since its messages may share more groups with each other
                    yield from batch
        for waiting in queues:
            yield from waiting.messages()

    def is_stored(self, message: PendingMessage, row: int) -> None:
        """Record that a message is stored, so that its source need not keep it."""
        if message.row == SETTLED:
            self._disk.done([row])
            return
        message.row = row
        message.source.release()
        self.budget.add(-1, -message.change.size)
        self._has_large = self._has_large or message.change.size > LARGE_BYTES

    def is_not_stored(self, message: PendingMessage) -> None:
        """Record that storing a message failed."""
        self.spill.is_swept = False
        self.request_flush()
        if message.row != SETTLED:
            message.row = NOT_STORED

    def make_room(self) -> None:
        """After a flush, keep a window of stored messages in memory, and only the row ids of the rest."""
        most = self._most_per_group
        for waiting in self.groups.values():
            if waiting and (self._has_large or len(waiting) > most):
                for i in range(len(waiting) - 1, -1, -1):
                    message = waiting[i]
                    if isinstance(message, int):
                        break
                    if message.row > 0 and (i >= most or message.change.size > LARGE_BYTES):
                        waiting[i] = message.row
        self._has_large = False
        if not self.spill.in_use or self._owner.is_held:  # `forget_before` finds only messages in memory
            return
        if self.spill.is_loading:
            self.spill.let_fresh_follow(self.ready)
        else:
            surplus = self.spill.surplus(self.ready)
            self.spill.rows.put_back(surplus)
            if surplus or not self.catch_up():
                self.spill.let_fresh_follow(self.ready)
        self._owner.offer()

    @property
    def _most_per_group(self) -> int:
        """Maximum number of messages per group that wait in memory, which decreases with the number of groups."""
        return max(1, min(WAITING_PER_GROUP, self.budget.window // max(1, len(self.groups))))

    # --- from disk -----------------------------------------------------------------------------------------------------

    def restore(self, rows: Iterable[int]) -> None:
        """Add stored messages by row id, at startup or to redeliver them."""
        before = len(self.spill.rows)
        self.spill.rows.extend(rows)
        self.count += len(self.spill.rows) - before

    def fall_behind(self) -> None:
        """Start using the spill: messages are stored, and only a window stays in memory."""
        if not self.spill.in_use:
            self.spill.use(True)
            self.spill.is_swept = False
            self.request_flush()

    def catch_up(self) -> bool:
        """Stop using the spill if all pending messages are in memory; return whether it is now unused."""
        spill = self.spill
        if not spill.in_use:
            return True
        if len(spill.rows) or spill.is_loading or not self._owner.may_catch_up() or len(self.ready) > self.budget.window:
            return False
        spill.use(False)
        self.ready.extend(spill.fresh)
        spill.fresh.clear()
        self.is_due = True
        self._owner.caught_up()
        return True

    def refill(self) -> None:
        """Read the next messages back from disk, or stop using the spill if there are none."""
        spill = self.spill
        if not len(spill.rows):
            self.catch_up()
            return
        if spill.is_loading or not self._owner.may_refill():
            return
        rows = spill.next_rows(self.ready)
        if not rows:
            return
        life = self._life

        def loaded(messages: list[PendingMessage], left: list[int]) -> None:
            if life != self._life:
                self._forget_rows(messages, left)
                return
            spill.loaded(messages, left)
            self.ready.extend(message for message in messages if self._is_wanted(message))
            self.is_due = True
            self.catch_up()
            self._owner.offer()

        self._disk.load(rows, self.budget.window_bytes // 2, self, loaded)

    def _forget_rows(self, messages: list[PendingMessage], left: list[int]) -> None:
        """Delete rows that were read back but are no longer pending."""
        self._disk.done([message.row for message in messages])
        self._disk.done(left)

    def _is_wanted(self, message: PendingMessage) -> bool:
        try:
            is_wanted = self.filter(message.change)
        except Exception:  # the message is filtered again when it is sent, and then fails visibly
            message.unfiltered = True
            return True
        if not is_wanted:
            self.release(message)
        return is_wanted
