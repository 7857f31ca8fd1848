"""The messages that each sink still owes: their order, batches, attempts and retries. Sockets are in `http_client.py`, waits in `retry.py`,
what waits on disk in `disk_backlog.py`.

One `SinkDelivery` per sink. A message's group (by default its row) has at most one batch on its way; later messages of the group wait for
it, also while it is in backoff, so order per group is kept under failure, and other groups pass by.

Where a sink's messages are, in the order of their commits: on their way or in backoff, `_busy` (behind one of those, in its group),
`_ready`, `_tail` (only on disk), `_fresh` (just come, not on disk yet). The last two are in use while the sink is `behind`: paused, down,
stalled, or slower than its traffic. Then memory keeps a window, and the rest is read back as the window empties.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import random
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Protocol

from userhooks.engine.delivery.http_client import HttpClient, OriginKey
from userhooks.engine.delivery.latency_histogram import HistogramPool, Latencies
from userhooks.engine.delivery.pending_message import (
    BEING_STORED,
    LEAST_WINDOW,
    NOT_STORED,
    SETTLED,
    MemoryBudget,
    MessageSource,
    PendingMessage,
    Rows,
)
from userhooks.engine.delivery.request_head import RequestHead, request_head
from userhooks.engine.delivery.retry import Again, Discard, Halve, RetrySchedule, after_failure
from userhooks.engine.functions import FunctionRaised
from userhooks.engine.message_format import Change, Groups, Routed, SinkForm, render
from userhooks.engine.resources import HttpEndpoint, SinkResource

log = logging.getLogger(__name__)

IN_FLIGHT_PER_SINK = 50
LINGER_SECONDS = 0.005
"""How long a batch that is not full waits for more (sequin v0.14.6: 5 ms)."""
_NO_BODY = (b"null", b"false")
"""JSON that a transform's sink with `batch: false` sends as an empty body, as Sequin does"""
QUICK_SECONDS = 1.0
"""A sink whose last answer took longer, or was no 2xx, shares the connections for suspects."""
STALLED_SECONDS = 2.0
"""A sink whose receiver has answered nothing for this long is behind."""
LONG_SECONDS = 5.0
"""What would wait longer than this in memory goes to the store."""
DOWN_AFTER = 5
"""New messages that failed in a row after which a sink is down: one request at a time, most of them for what has failed before, until
one succeeds."""
ROOM = 1000
"""Batches in backoff at which a sink has no room for more."""
ROOM_BYTES = 16_000_000
"""The same in bytes; and bytes on their way at which nothing is sent."""
NEW_SECONDS = 60.0
"""The longest time after which a sink that is down, or has no room, tries something new: perhaps only what it has tried is refused."""
CROWD = 1000
"""Messages owed from which on a sink is asked whether its receiver keeps up."""
BLOCKED_WINDOW = 100
"""Messages of one blocked group that are kept in memory at most."""
PARKED_BYTES = 4_000
"""Bytes of a change above which memory does not keep it behind a blocked one of its group."""


class Disk(Protocol):
    """Where messages wait that memory does not keep."""

    def attend(self, delivery: SinkDelivery) -> None:
        """Ask the sink with the next flush what it wants stored."""

    def done(self, rows: Iterable[int]) -> None:
        """These rows are delivered or not wanted any more."""

    def failed_again(self, row: int, attempts: int) -> None:
        """A stored message has failed so many times by now."""

    def discard(self, delivery: SinkDelivery, message: PendingMessage, error: str) -> None:
        """Keep a message that is given up."""

    def load(self, rows: Sequence[int], room: int, delivery: SinkDelivery, take: Callable[[list[PendingMessage], list[int]], None]) -> None:
        """Read messages back, at least one and no more than `room` bytes, and hand them to `take` with the rows that are left."""

    def caught_up(self, delivery: SinkDelivery) -> None:
        """The sink is not behind any more."""

    def endpoint_is_gone(self, delivery: SinkDelivery) -> None:
        """The endpoint has answered 410."""


class Blocked(deque[PendingMessage | int]):
    """What waits until nothing of its `groups` is on its way or in backoff, in order; the stored messages as row ids. An update of a key
    joins the groups of both keys. `held` counts the groups of which something is on its way or in backoff.
    """

    __slots__ = ("groups", "held")

    def __init__(self, groups: Iterable[object], held: int) -> None:
        super().__init__()
        self.groups = list(groups)
        self.held = held

    def absorb(self, other: Blocked) -> None:
        """Take over what waits in another one."""
        self.extend(other)
        self.groups += other.groups
        self.held += other.held


def _groups(messages: Iterable[PendingMessage]) -> set[object]:
    """Return the groups that the messages belong to."""
    found: set[object] = set()
    for message in messages:
        group = message.group
        if type(group) is Groups:
            found.update(group)
        elif group is not None:
            found.add(group)
    return found


class SinkDelivery:
    """All that one sink owes. `number` names it in the store; `held` keeps back everything until `release`."""

    __slots__ = (
        "_active",
        "_address",
        "_attended",
        "_batch_size",
        "_busy",
        "_client",
        "_crowded",
        "_delivered_before",
        "_disk",
        "_endpoint",
        "_epoch",
        "_flying",
        "_flying_bytes",
        "_fresh",
        "_has_large",
        "_head",
        "_held",
        "_latencies",
        "_latency",
        "_linger",
        "_lingered",
        "_load",
        "_loaded",
        "_loading",
        "_loop",
        "_luck",
        "_misses",
        "_next_new",
        "_origin",
        "_progressed",
        "_ready",
        "_refused",
        "_retries",
        "_retry_bytes",
        "_retry_count",
        "_routed",
        "_schedule",
        "_swept",
        "_tail",
        "_wake",
        "attempted",
        "behind",
        "delivered",
        "discarded",
        "failed",
        "form",
        "judge",
        "last_error",
        "number",
        "pending",
        "repeated",
        "sink",
        "suspect",
    )

    def __init__(
        self,
        sink: SinkResource,
        endpoint: HttpEndpoint,
        form: SinkForm,
        number: int,
        *,
        client: HttpClient,
        load: MemoryBudget,
        schedule: RetrySchedule,
        luck: random.Random,
        disk: Disk,
        latencies: HistogramPool,
        held: bool = False,
    ) -> None:
        self.number = number
        self.judge: Callable[[Change], bool] = lambda _: True
        self.delivered = self.attempted = self.failed = self.discarded = self.repeated = 0
        self.last_error: str | None = None
        self.pending = 0
        self.behind = False
        self.suspect = True
        self._client = client
        self._loop = client.loop
        self._load = load
        self._schedule = schedule
        self._luck = luck
        self._disk = disk
        self._latencies = latencies
        self._latency: Latencies | None = None
        self._ready: deque[PendingMessage] = deque()
        self._busy: dict[object, Blocked | None] = {}
        self._retries: list[tuple[float, int, list[PendingMessage]]] = []
        self._retry_count = 0
        self._retry_bytes = 0
        self._flying: set[Attempt] = set()
        self._flying_bytes = 0
        self._tail = Rows()
        self._fresh: deque[PendingMessage] = deque()
        self._loading = False
        self._loaded = LEAST_WINDOW
        self._has_large = False
        self._swept = False
        self._attended = False
        self._epoch = 0
        self._misses = 0
        self._refused = 0
        self._next_new = 0.0
        self._held = held
        self._linger: asyncio.TimerHandle | None = None
        self._lingered = False
        self._wake: asyncio.TimerHandle | None = None
        self._progressed = 0.0
        self._delivered_before = 0
        self._crowded = False
        self._head = RequestHead(b"", b"", gzip=False)
        self._endpoint = endpoint
        self._routed: Routed | None = None
        """the route of the batch that is being sent"""
        self._address = 0
        self._origin: OriginKey = (endpoint.scheme, endpoint.host, endpoint.port)
        self.configure(sink, endpoint, form)

    # --- what the sink is ----------------------------------------------------------------------------------------------

    def configure(self, sink: SinkResource, endpoint: HttpEndpoint, form: SinkForm) -> None:
        """Take over the sink's and the endpoint's present settings; what waits for a retry goes out at once under them."""
        self.sink = sink
        self._active = sink.status == "active"
        self._batch_size = sink.batch_size
        self.form = form
        origin = (endpoint.scheme, endpoint.host, endpoint.port)
        if origin != self._origin:
            self._client.origin(self._origin).withdraw(self)  # a turn there would send what is for the new one
            self._origin = origin
        head = request_head(endpoint, Routed(path=sink.path or ""))
        if head != self._head:
            self._head = head
            self._address += 1
        self._endpoint = endpoint
        self._misses = self._refused = 0
        self._next_new = 0.0
        self._lingered = self._lingered or bool(self._ready)  # a larger batch must not wait for more
        self._hurry()
        if sink.status == "paused":
            self._fall_behind()
        else:
            self._catch_up()
        self._offer()

    def rejudge(self) -> None:
        """The filter has changed: ask it again about everything that waits; what is on disk is judged when it comes back."""
        for message in chain(chain.from_iterable(attempt.messages for attempt in self._flying), self._in_memory()):
            message.unjudged = True

    def hold(self) -> None:
        """Keep back everything until `release`."""
        self._held = True

    def release(self, start_lsn: int) -> None:
        """End the hold: the sink owes what committed at or after `start_lsn`, and nothing of before."""
        for queue in (self._ready, self._fresh):
            for message in [m for m in queue if m.change.backfill_id is None and m.change.commit_lsn < start_lsn]:
                queue.remove(message)
                self._forgive(message)
        self._held = False
        self._offer()

    def drop(self) -> None:
        """Owe nothing any more: the sink is deleted or disabled. What is on its way still comes to its end."""
        self._epoch += 1
        self._loading = False
        flying = _groups(m for attempt in self._flying for m in attempt.messages)
        for message in list(self._in_memory()):
            self._forgive(message)
        on_disk = [row for waiting in self._blocked() for row in waiting if isinstance(row, int)]
        on_disk += self._tail.take(len(self._tail))
        self._disk.done(on_disk)
        self.pending = sum(len(attempt.messages) for attempt in self._flying)
        self._ready.clear()
        self._fresh.clear()
        self._retries.clear()
        self._retry_bytes = 0
        self._busy = {group: None for group in self._busy if group in flying}
        self._set_behind(False)

    def withdraw(self, mine: Callable[[MessageSource], bool]) -> None:
        """Take back what waits in memory and was read from something that is no longer wanted (a cancelled backfill)."""
        queues: list[deque[Any]] = [self._ready, self._fresh, *self._blocked()]
        for queue in queues:
            for message in [m for m in queue if isinstance(m, PendingMessage) and mine(m.owed)]:
                queue.remove(message)
                self._forgive(message)

    def _in_memory(self) -> Iterator[PendingMessage]:
        """All that waits and is in memory, each group in its order."""
        for _, _, batch in self._retries:
            yield from batch
        for waiting in self._blocked():
            yield from (m for m in waiting if isinstance(m, PendingMessage))
        yield from self._ready
        yield from self._fresh

    def _blocked(self) -> Iterable[Blocked]:
        """Each queue of blocked messages once: several groups may share one."""
        return {id(waiting): waiting for waiting in self._busy.values() if waiting is not None}.values()

    # --- what comes in -------------------------------------------------------------------------------------------------

    def owe(self, message: PendingMessage) -> None:
        """Take a message; messages come in the order in which they are to be delivered."""
        self.pending += 1
        self._load.add(1, message.change.size)
        if self.behind:
            self._fresh.append(message)
            self.attend()
            return
        self._ready.append(message)
        if len(self._ready) < self._batch_size and not self._lingered:
            if self._linger is None:
                self._linger = self._loop.call_later(LINGER_SECONDS, self._lingered_enough)
        else:
            self._offer()

    def _lingered_enough(self) -> None:
        self._linger = None
        self._lingered = True
        self._offer()

    # --- what waits on disk --------------------------------------------------------------------------------------------

    def restore(self, rows: Iterable[int]) -> None:
        """Take over what the store has kept for this sink: at a start, or messages that are to be sent again."""
        before = len(self._tail)
        self._tail.extend(rows)
        self.pending += len(self._tail) - before
        if len(self._tail):
            self._fall_behind()
            self._offer()

    def attend(self) -> None:
        """There may be something to store at the next flush."""
        if not self._attended:
            self._attended = True
            self._disk.attend(self)

    def to_store(self, old: int) -> Iterator[PendingMessage]:
        """Yield what memory should not keep alone, each group in its order: all that a sink which is behind owes; else what is in backoff
        or behind that, and what committed up to the LSN `old`.
        """
        self._attended = False
        if self.behind and self._swept:
            yield from self._fresh
        elif self.behind:
            self._swept = True
            yield from chain.from_iterable(attempt.messages for attempt in self._flying)
            yield from self._in_memory()
        else:
            retrying = [message for _, _, batch in self._retries for message in batch]
            yield from retrying
            blocked = {id(one): one for group in _groups(retrying) if (one := self._busy.get(group))}.values()
            shared = {group for one in blocked if len(one.groups) > 1 for group in one.groups}
            if shared:  # what waits for several groups comes back behind all of them
                for attempt in self._flying:
                    if _groups(attempt.messages) & shared:
                        yield from attempt.messages
            for one in blocked:
                yield from (m for m in one if isinstance(m, PendingMessage))
            if old:
                for message in chain(chain.from_iterable(a.messages for a in self._flying), self._in_memory()):
                    if message.change.backfill_id is None and message.change.commit_lsn <= old:
                        yield message

    def is_stored(self, message: PendingMessage, row: int) -> None:
        """The store has the message: the slot, or the page it was read from, need not keep it."""
        if message.row == SETTLED:
            self._disk.done([row])
            return
        message.row = row
        message.owed.forgive()
        self._load.add(-1, -message.change.size)
        self._has_large = self._has_large or message.change.size > PARKED_BYTES

    def is_not_stored(self, message: PendingMessage) -> None:
        """The store could not take it."""
        self._swept = False
        self.attend()
        if message.row != SETTLED:
            message.row = NOT_STORED

    def make_room(self) -> None:
        """A flush is over: keep a window of what is stored in memory, and only the row ids of the rest."""
        most = self._blocked_window
        for waiting in self._busy.values():
            if waiting and (self._has_large or len(waiting) > most):
                for i in range(len(waiting) - 1, -1, -1):
                    message = waiting[i]
                    if isinstance(message, int):
                        break
                    if message.row > 0 and (i >= most or message.change.size > PARKED_BYTES):
                        waiting[i] = message.row
        self._has_large = False
        if not self.behind or self._held:  # `release` looks at what is in memory
            return
        if not self._loading:
            surplus = self._surplus()
            self._tail.put_back(surplus)
            if surplus or not self._catch_up():
                self._move_fresh()
        else:
            self._move_fresh()
        self._offer()

    def _surplus(self) -> list[int]:
        """Take out of memory what is stored and beyond the window."""
        ready, most, room = self._ready, self._load.window, self._load.window_bytes
        kept = 0
        for message in islice(ready, most):
            room -= message.change.size
            if room < 0:
                break
            kept += 1
        rows: list[int] = []
        while len(ready) > max(kept, 1) and ready[-1].row > 0:
            rows.append(ready.pop().row)
        rows.reverse()
        return rows

    def _move_fresh(self) -> None:
        if self._ready and self._ready[-1].row <= 0 and not len(self._tail):
            return  # the store is full
        while self._fresh and self._fresh[0].row > 0:
            self._tail.extend((self._fresh.popleft().row,))

    def _fall_behind(self) -> None:
        if not self.behind and self.sink.status != "disabled":
            self._set_behind(True)
            self._swept = False
            self.attend()

    def _set_behind(self, behind: bool) -> None:
        self._load.behind += behind - self.behind
        self.behind = behind

    def _catch_up(self) -> bool:
        """Leave the store aside again once memory has all that is owed."""
        if not self.behind:
            return True
        if len(self._tail) or self._loading or self._is_probing or self.sink.status != "active" or len(self._ready) > self._load.window:
            return False
        self._set_behind(False)
        self._ready.extend(self._fresh)
        self._fresh.clear()
        self._lingered = True
        self._disk.caught_up(self)
        return True

    def _refill(self) -> None:
        """Read back what is next on disk; when nothing is there any more, the sink has caught up."""
        if not len(self._tail):
            self._catch_up()
            return
        if self._loading or self._held or self.sink.status == "disabled":
            return
        if self._is_probing and self._ready:
            return
        half = max(1, self._load.window // 2)
        if len(self._ready) > min(half, self._loaded):
            return
        epoch = self._epoch
        self._loading = True

        def loaded(messages: list[PendingMessage], left: list[int]) -> None:
            if epoch != self._epoch:
                self._disk.done([m.row for m in messages])
                self._disk.done(left)
                return
            self._loading = False
            self._loaded = len(messages) // 2 if left else half
            self._tail.put_back(left)
            self._ready.extend(m for m in messages if self._wanted_still(m))
            self._lingered = True
            self._catch_up()
            self._offer()

        self._disk.load(self._tail.take(half), self._load.window_bytes // 2, self, loaded)

    def _wanted_still(self, message: PendingMessage) -> bool:
        try:
            wanted = self.judge(message.change)
        except Exception:  # it fails visibly when its turn comes
            message.unjudged = True
            return True
        if not wanted:
            self._forgive(message)
        return wanted

    # --- what goes out -------------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether the endpoint has answered 410 since `configure`, so that nothing is sent until the next one."""
        return self.sink.status == "active" and not self._active

    @property
    def down(self) -> bool:
        """Whether the receiver has refused everything new of late. What has failed before may fail again for its own fault."""
        return self._misses >= DOWN_AFTER

    @property
    def _is_probing(self) -> bool:
        """Whether it tries little that is new: what it has tried will tell. One that has given up all it tried has to try more."""
        return self.down and bool(self._retries or self._flying)

    @property
    def _blocked_window(self) -> int:
        """Messages of one blocked group that are kept in memory: the more groups, the fewer."""
        return max(1, min(BLOCKED_WINDOW, self._load.window // max(1, len(self._busy))))

    @property
    def _has_room(self) -> bool:
        return len(self._retries) < ROOM and self._retry_bytes <= ROOM_BYTES

    def _offer(self) -> None:
        if self.behind:
            self._refill()
        if self.has_more():
            self._client.origin(self._origin).offer(self)

    def has_more(self) -> bool:
        """Whether a request could be made now."""
        in_flight = len(self._flying)
        if in_flight >= IN_FLIGHT_PER_SINK or self._flying_bytes > ROOM_BYTES or self._held or not self._active:
            return False
        if self._misses or self._retries:
            down = self._misses >= DOWN_AFTER
            if down and in_flight:
                return False
            if self._retries:
                now = self._loop.time()
                if self._retries[0][0] <= now:
                    return True
                if (down or not self._has_room) and now < self._next_new:
                    return False
        waiting = len(self._ready)
        return waiting >= self._batch_size or (waiting > 0 and self._lingered)

    def next_request(self) -> tuple[bytes, Attempt] | None:
        """Take the next batch and return it as the bytes of a request."""
        while self.has_more():
            failed = self.failed
            messages, is_new = self._take()
            if messages and messages[0].unjudged:
                self._wait_behind(messages[:1], messages[1:], 0.0)
                messages = self._judged(messages[0])
            body = self._body(messages) if messages else None
            if body is None:
                if is_new and self.failed > failed:
                    self._new_failed()
                continue
            head = self._head
            if self._routed is not None or not body:
                routed = self._routed or Routed(path=self.sink.path or "")
                head = request_head(self._endpoint, routed, has_body=bool(body))
            before, after, compressed = head
            if compressed:
                body = zlib.compress(body, 1, wbits=31)  # the quickest level, since the other sinks wait meanwhile; 31 is gzip's format
            attempt = Attempt(self, messages, len(body), self._loop.time(), self._address, self._epoch, is_new)
            if is_new and self._retries and not self._has_room:
                self._next_new = math.inf  # one at a time
            if not self._flying:
                self._progressed = attempt.started
            self._flying.add(attempt)
            self._flying_bytes += attempt.size
            if self._latency is None:
                self._latency = self._latencies.of(self.sink.id)
            self._latency.internal.observe(time.time() * 1e6 - messages[0].change.commit_us)
            return b"%b%d%b%b" % (before, len(body), after, body), attempt
        if self.behind:
            self._refill()
        return None

    def _take(self) -> tuple[list[PendingMessage], bool]:
        """Return the next batch, and whether it is new: not one that has failed before."""
        if self._retries and self._retries[0][0] <= self._loop.time():
            batch = heapq.heappop(self._retries)[2]
            self._retry_bytes -= sum(m.change.size for m in batch)
            return batch, False
        ready, busy, size = self._ready, self._busy, self._batch_size
        taken: list[PendingMessage] = []
        groups: set[object] = set()
        """of what is taken"""
        while ready and len(taken) < size:
            message = ready[0]
            if message.unjudged and taken:
                break
            ready.popleft()
            group = message.group
            if group is not None:
                if type(group) is Groups:
                    is_free = all(one not in busy or one in groups for one in group)
                    if is_free:
                        busy.update(dict.fromkeys([one for one in group if one not in groups]))
                        groups.update(group)
                    else:
                        groups.difference_update(group)  # later messages of these wait behind this one
                elif group not in busy:
                    is_free = True
                    busy[group] = None
                    groups.add(group)
                else:
                    is_free = group in groups
                if not is_free:
                    waiting = self._behind(group)
                    on_disk = message.row > 0 and (len(waiting) >= self._blocked_window or message.change.size > PARKED_BYTES)
                    waiting.append(message.row if on_disk else message)
                    if self._retries:
                        self.attend()
                    continue
            taken.append(message)
            if message.unjudged:
                break
        if not ready:
            self._lingered = False
        return taken, True

    def _judged(self, message: PendingMessage) -> list[PendingMessage]:
        """Ask the filter about a message: send it, drop it, or count a failed attempt when the filter raises."""
        try:
            wanted = self.judge(message.change)
        except Exception as exc:  # a filter may raise anything; the message then fails, visibly, and nothing else does
            self._failed([message], f"[filter]: {exc}", None)
            return []
        message.unjudged = False
        if wanted:
            return [message]
        self._forgive(message)
        self._free_groups([message])
        return []

    def _body(self, messages: list[PendingMessage]) -> bytes | None:
        """Return the body. A message that cannot be routed or rendered fails; those before it go out now, and the rest next.

        A message that is routed differently from the first one begins the next batch.
        """
        form = self.form
        self._routed = None
        if form.transform is None and form.route is None:
            try:
                if len(messages) == 1:
                    body = render(messages[0].change, form)
                    return b'{"data":[%b]}' % body if self.sink.batch else body
                return b'{"data":[%b]}' % b",".join([render(m.change, form) for m in messages])
            except Exception as exc:  # a value that has no JSON: find the message below, one by one
                log.debug("a batch of sink %s cannot be rendered as a whole: %s", self.sink.name, exc)
        parts: list[bytes] = []
        for message in messages:
            at, what = len(parts), "routing"
            failure: Exception | None = None
            try:
                routed = None if form.route is None else form.route(message.change)
                what = "transform"
                part = render(message.change, form)
            except Exception as exc:
                failure = exc
                what = what if isinstance(exc, FunctionRaised) else "message"
            if failure is not None and not at:
                self._wait_behind([message], messages[1:], 0.0)
                self._failed([message], f"[{what}]: {failure}", None)
                return None
            if failure is not None or (at and routed != self._routed):
                rest = messages[at:]
                del messages[at:]
                self._wait_behind(messages, rest, 0.0)
                break
            self._routed = routed
            parts.append(part)
        if not self.sink.batch:
            return b"" if parts[0] in _NO_BODY else parts[0]
        return b'{"data":[%b]}' % b",".join(parts)

    # --- what came of it -----------------------------------------------------------------------------------------------

    def answered(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        """An attempt came to its end; 2xx is success."""
        messages = attempt.messages
        self._flying.discard(attempt)
        self._flying_bytes -= attempt.size
        now = self._progressed = self._loop.time()
        took = now - attempt.started
        self.attempted += len(messages)
        assert self._latency is not None  # noqa: S101  # it was sent
        if status is not None and 200 <= status < 300:
            self.suspect = took > QUICK_SECONDS
            self._latency.succeeded.observe(took * 1e6)
            self._succeeded(messages)
        else:
            self._latency.failed.observe(took * 1e6)
            reason = f"Unexpected status code: {status}" if status is not None else f"POST to webhook endpoint failed: {error}"
            if attempt.epoch != self._epoch:  # of an earlier life of the sink: not owed any more
                self.failed += len(messages)
                for message in messages:
                    self._forgive(message)
                self._free_groups(messages)
            elif attempt.address != self._address:  # says nothing of the endpoint as it is now
                self._failed(messages, f"[http_endpoint]: {reason}", None)
            else:
                self.suspect = True
                if attempt.is_new:
                    self._misses += 1
                    self._new_failed()
                    if self.down:
                        self._fall_behind()
                self._failed(messages, f"[http_endpoint]: {reason}", retry_after)
                if status == 410 and self._active:
                    self._active = False
                    self._disk.endpoint_is_gone(self)
        if self.behind:
            self._refill()
        if self._ready or self._retries:  # whether one of them may go is asked when the turn comes
            self._client.origin(self._origin).offer(self)

    def again(self, attempt: Attempt) -> bool:
        """Return whether an attempt's request may be sent again as it is, and count that: not if the sink has changed since."""
        is_current = attempt.epoch == self._epoch and attempt.address == self._address and self._active
        if not is_current or any(message.unjudged for message in attempt.messages):
            return False
        self.repeated += 1
        return True

    def _succeeded(self, messages: list[PendingMessage]) -> None:
        count = unsaved = len(messages)
        self.delivered += count
        self.pending -= count
        self.last_error = None
        was_down, self._misses = self._misses >= DOWN_AFTER, 0
        self._refused, self._next_new = 0, 0.0
        size = 0
        for message in messages:
            row, change = message.row, message.change
            if row > 0:
                self._disk.done((row,))
                unsaved -= 1
            else:
                if row == BEING_STORED:
                    message.row = SETTLED
                message.owed.settle(change.commit_idx, self.number)
                size += change.size
        self._load.add(-unsaved, -size)
        self._free_groups(messages)
        if was_down:
            self._hurry()  # the receiver is back

    def _new_failed(self) -> None:
        """The more new messages have failed in a row, the later the next one goes out while the sink is down or has no room."""
        self._refused += 1
        wait = self._schedule.wait(max(1, self._refused - DOWN_AFTER + 1), self._luck.random())
        self._next_new = self._loop.time() + min(NEW_SECONDS, wait)
        self._wake_up()

    def _failed(self, messages: list[PendingMessage], error: str, retry_after: float | None) -> None:
        self.failed += len(messages)
        self.last_error = error
        if len(messages) == 1:  # what fails in a batch may be another's fault: it is not counted
            messages[0].attempts += 1
            if messages[0].row > 0:
                self._disk.failed_again(messages[0].row, messages[0].attempts)
        step = after_failure(
            self._schedule,
            size=len(messages),
            attempts=messages[0].attempts,
            max_attempts=self.sink.max_retry_count,
            retry_after=retry_after,
            luck=self._luck.random(),
        )
        match step:
            case Again(wait):
                self._retry(messages, wait)
            case Halve(wait):
                middle = len(messages) // 2
                self._wait_behind(messages[:middle], messages[middle:], wait)
                self._retry(messages[:middle], wait)
            case Discard():
                self.discarded += 1
                self.pending -= 1
                self._disk.discard(self, messages[0], error)
                self._free_groups(messages)

    def _retry(self, messages: list[PendingMessage], wait: float) -> None:
        self._retry_count += 1
        self._retry_bytes += sum(m.change.size for m in messages)
        heapq.heappush(self._retries, (self._loop.time() + wait, self._retry_count, messages))
        self.attend()
        self._wake_up()

    def _wait_behind(self, first: list[PendingMessage], second: list[PendingMessage], wait: float) -> None:
        """Retry `second`, but what shares a group with `first` waits for that, so that the group keeps its order."""
        before = _groups(first)
        held = before | _groups(second)
        behind: list[PendingMessage] = []
        apart: list[PendingMessage] = []
        for message in second:
            groups = _groups([message])
            if groups & before:
                before |= groups
                behind.append(message)
            else:
                apart.append(message)
        for message in reversed(behind):
            self._behind(message.group).appendleft(message)
        for group in held - _groups(first) - _groups(apart):
            waiting = self._busy[group]
            assert waiting is not None  # noqa: S101  # a message of the group is in there
            waiting.held -= 1
        if apart:
            self._retry(apart, wait)

    def _behind(self, group: object) -> Blocked:
        """Return the queue in which a message of the group waits; all groups of a message are one queue from then on."""
        busy = self._busy
        blocked: Blocked | None = None
        for one in group if type(group) is Groups else (group,):
            waiting = busy[one] if one in busy else Blocked([one], 0)
            if waiting is None:
                waiting = Blocked([one], 1)
            if blocked is None:
                blocked = waiting
            elif waiting is not blocked:
                blocked.absorb(waiting)
            for member in waiting.groups:
                busy[member] = blocked
        assert blocked is not None  # noqa: S101  # a message that has to wait has a group
        return blocked

    def _hurry(self) -> None:
        """Everything in backoff is due now."""
        self._retries = [(0.0, n, batch) for _, n, batch in self._retries]
        heapq.heapify(self._retries)

    def _wake_up(self) -> None:
        """Set the one timer to the earliest retry, or to when something new may be tried."""
        if self._wake is not None:
            self._wake.cancel()
        times = [self._retries[0][0]] if self._retries else []
        if self._loop.time() < self._next_new < math.inf:
            times.append(self._next_new)
        self._wake = self._loop.call_at(min(times), self._woken) if times else None

    def _woken(self) -> None:
        """Offer what is due by now; the timer is set again for what is not, judged by the same reading of the clock."""
        self._wake = None
        now = self._loop.time()
        self._offer()
        later = min((due for due, _, _ in self._retries if due > now), default=math.inf)
        later = min(later, self._next_new if self._next_new > now else math.inf)
        if later < math.inf:
            self._wake = self._loop.call_at(later, self._woken)

    def _free_groups(self, messages: list[PendingMessage]) -> None:
        """Free each group of a batch once: freed twice, two batches of it would be on their way."""
        busy = self._busy
        blocked: set[object] = set()
        for message in messages:
            group = message.group
            for one in group if type(group) is Groups else (group,):
                waiting = busy.pop(one, None)
                if waiting is not None:
                    busy[one] = waiting
                    blocked.add(one)
        for group in blocked:
            self._let_go(group)

    def _let_go(self, group: object) -> None:
        """One group of a queue is free; when none is held any more, what waits goes first, and what of it is on disk is read back."""
        waiting = self._busy[group]
        assert waiting is not None  # noqa: S101  # something waits
        waiting.held -= 1
        if waiting.held:
            return
        if len(waiting) <= BLOCKED_WINDOW and not any(isinstance(m, int) for m in waiting):
            for one in waiting.groups:
                del self._busy[one]
            self._ready.extendleft(m for m in reversed(waiting) if isinstance(m, PendingMessage))
            self._lingered = True
            return
        batch: list[PendingMessage] = []
        while waiting and isinstance(waiting[0], PendingMessage) and len(batch) < self._batch_size:
            first = waiting.popleft()
            assert isinstance(first, PendingMessage)  # noqa: S101
            if batch and (first.unjudged or batch[0].unjudged):
                waiting.appendleft(first)
                break
            batch.append(first)
        if batch:
            waiting.held = len(_groups(batch))
            self._retry(batch, 0.0)
            return
        waiting.held = 1
        rows: list[int] = []
        while waiting and isinstance(waiting[0], int) and len(rows) < BLOCKED_WINDOW:
            row = waiting.popleft()
            assert isinstance(row, int)  # noqa: S101
            rows.append(row)
        epoch = self._epoch

        def loaded(messages: list[PendingMessage], left: list[int]) -> None:
            if epoch != self._epoch:
                self._disk.done([m.row for m in messages])
                self._disk.done(left)
                return
            waiting = self._busy[group]  # it may share a queue with other groups by now
            assert waiting is not None  # noqa: S101
            waiting.extendleft(reversed(left))
            members = set(waiting.groups)
            for message in messages:
                groups = _groups([message])
                if not groups or not groups <= members:  # the sink groups otherwise by now; what has waited keeps its order
                    message.group = group
            waiting.extendleft(reversed([m for m in messages if self._wanted_still(m)]))
            self._let_go(group)
            self._offer()

        self._disk.load(rows, self._load.window_bytes // 2, self, loaded)

    # --- counting ------------------------------------------------------------------------------------------------------

    def _forgive(self, message: PendingMessage) -> None:
        self.pending -= 1
        if message.row > 0:
            self._disk.done((message.row,))
            return
        message.row = SETTLED if message.row == BEING_STORED else message.row
        message.owed.forgive()
        self._load.add(-1, -message.change.size)

    def look(self) -> None:
        """Called once a second while anything is owed: notice a receiver that does not answer, or is slower than its traffic."""
        sent, self._delivered_before = self.delivered - self._delivered_before, self.delivered
        if self.behind:
            return
        stalled = bool(self._flying) and self._loop.time() - self._progressed > STALLED_SECONDS
        was_crowded = self._crowded
        self._crowded = self.pending > CROWD or sum(m.change.size for m in self._ready) > ROOM_BYTES
        if stalled or (was_crowded and self._crowded and self.pending > LONG_SECONDS * sent):
            self._fall_behind()

    def oldest_age(self, now: float) -> float | None:
        """Return for how many seconds the oldest message in memory has been owed, by the time of day `now`; None without one."""
        first = chain((a.messages[0] for a in self._flying), (b[0] for _, _, b in self._retries), islice(self._ready, 1))
        oldest = min((m.change.commit_us for m in first), default=None)
        return None if oldest is None else max(0.0, now - oldest / 1e6)

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return len(self._flying)

    @property
    def retrying(self) -> int:
        """Messages that wait for another attempt."""
        return sum(len(batch) for _, _, batch in self._retries)

    def close(self) -> None:
        """Stop the timers."""
        for timer in (self._linger, self._wake):
            if timer is not None:
                timer.cancel()


class Attempt:
    """One request of one sink on its way, its body of `size` bytes, since `started` (the loop's time).

    `is_new`: nothing of it has failed before. `address` numbers the URL and headers with which, `epoch` the sink's life in which it was
    sent: when these are others by the time of the answer, that says nothing of the sink as it is then.
    """

    __slots__ = ("_sink", "address", "epoch", "is_new", "messages", "size", "started")

    def __init__(
        self, sink: SinkDelivery, messages: list[PendingMessage], size: int, started: float, address: int, epoch: int, is_new: bool
    ) -> None:
        self._sink = sink
        self.messages = messages
        self.size = size
        self.started = started
        self.address = address
        self.epoch = epoch
        self.is_new = is_new

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        """Pass the outcome on to the sink."""
        self._sink.answered(self, status, error, retry_after)

    def slow(self) -> None:
        """No answer for a while."""
        self._sink.suspect = True

    def again(self) -> bool:
        """Return whether the request may be sent again within this attempt."""
        return self._sink.again(self)
