"""Sends the messages of one sink: decides when to send a batch, and handles the outcome.

`pending_queue.py` keeps pending messages in order, `request_builder.py` builds requests, `circuit_breaker.py` detects receivers that are
down, `retry.py` computes waits, and `http_client.py` sends requests. Independent of where messages were read from.

This module is long because every outcome changes queue, breaker, and timers together.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol

from userhooks.engine.change import Change, grouping
from userhooks.engine.delivery.circuit_breaker import CircuitBreaker
from userhooks.engine.delivery.http_client import HttpClient, OriginKey
from userhooks.engine.delivery.latency_histogram import HistogramPool, Latencies
from userhooks.engine.delivery.pending_message import NO_SOURCE, MemoryBudget, PendingMessage
from userhooks.engine.delivery.pending_queue import PendingQueue, QueueDisk
from userhooks.engine.delivery.request_builder import BuiltRequest, CannotBuild, RequestBuilder
from userhooks.engine.delivery.retry import Again, Discard, Halve, RetrySchedule, after_failure
from userhooks.engine.delivery.sink_history import Histories, LoggedAttempt, SinkHistory
from userhooks.engine.resources import HttpEndpoint, SinkResource
from userhooks.engine.sink_health import FILTER_FAILED
from userhooks.engine.state_store import SinkCounts

IN_FLIGHT_PER_SINK = 50
FILL_SECONDS = 0.005
"""Seconds that an incomplete batch waits for more messages, as in Sequin 0.14.6."""
QUICK_SECONDS = 1.0
"""Seconds above which a response is slow.

After a slow or non-2xx response, a sink is on probation: it shares a limited number of connections with other such sinks.
"""
STALLED_SECONDS = 2.0
"""Seconds without a response after which a sink with requests in flight counts as behind."""
LONG_SECONDS = 5.0
"""Seconds that a message may wait in memory before it is moved to the store."""
IN_FLIGHT_BYTES = 16_000_000
"""Bytes in flight per sink above which nothing more is sent."""
SLOW_FROM_MESSAGES, SLOW_FROM_BYTES = 1000, 16_000_000
"""Pending messages, and bytes of ready messages, above which a sink's throughput is checked."""


class Disk(QueueDisk, Protocol):
    """The store for messages that are not kept in memory, and for discarded messages."""

    def failed_again(self, row: int, attempts: int) -> None:
        """Save the number of attempts of a stored message."""

    def discard(self, delivery: SinkDelivery, message: PendingMessage, error: str) -> None:
        """Store a message as discarded."""

    def caught_up(self, delivery: SinkDelivery) -> None:
        """Called when all pending messages of a sink are in memory again."""

    def endpoint_is_gone(self, delivery: SinkDelivery) -> None:
        """Called when a sink's endpoint answers 410."""


class Builder(Protocol):
    """Builds requests from the current settings. `form` has the settings that are neither the sink's nor the endpoint's."""

    def configure(self, sink: SinkResource, endpoint: HttpEndpoint, form: Any) -> bool:
        """Apply new settings; return whether the URL or the headers of requests change."""

    def build(self, messages: list[PendingMessage]) -> BuiltRequest:
        """Return a request for as many of the messages as possible, starting with the first. Raises CannotBuild."""


class Permit:
    """A permission to send that expires by itself at `until` (loop time), even if the process was suspended in the meantime."""

    __slots__ = ("until",)

    def __init__(self, until: float = math.inf) -> None:
        self.until = until


def _origin_of(endpoint: HttpEndpoint) -> OriginKey:
    return endpoint.scheme, endpoint.host.lower(), endpoint.port


class SinkDelivery:
    """Delivers the messages of one sink, whose id in the store is `number`. If `held`, nothing is sent until `release` is called.

    `builder` creates the object that builds the requests, and `form` is passed on to that object. If `permit` is given, nothing is sent
    after it expires. Attempts are recorded only if `histories` is given.

    The class is long because every outcome changes queue, breaker, and timers together.
    """

    __slots__ = (
        "_address",
        "_delivered_before",
        "_disk",
        "_fill_timer",
        "_histograms",
        "_histories",
        "_history",
        "_in_flight",
        "_in_flight_bytes",
        "_is_slow",
        "_latencies",
        "_life",
        "_loop",
        "_may_send",
        "_origin",
        "_permit",
        "_progressed",
        "_retry_timer",
        "_rng",
        "_schedule",
        "attempted",
        "breaker",
        "builder",
        "client",
        "counted_since",
        "delivered",
        "discarded",
        "failed",
        "is_held",
        "last_error",
        "on_probation",
        "queue",
        "repeated",
        "sink",
    )

    def __init__(
        self,
        sink: SinkResource,
        endpoint: HttpEndpoint,
        form: Any,
        number: int,
        *,
        client: HttpClient,
        budget: MemoryBudget,
        schedule: RetrySchedule,
        rng: random.Random,
        disk: Disk,
        latencies: HistogramPool,
        histories: Histories | None = None,
        held: bool = False,
        builder: Callable[[SinkResource, HttpEndpoint, Any], Builder] = RequestBuilder,
        permit: Permit | None = None,
    ) -> None:
        self.delivered = self.attempted = self.failed = self.discarded = self.repeated = 0
        self.counted_since: int | None = None
        """Unix time at which counting started, kept across restarts; None until the first message is counted"""
        self.last_error: str | None = None
        self.on_probation = True
        self.client = client
        self.queue = PendingQueue(number, self, disk, budget)
        self.breaker = CircuitBreaker(schedule)
        self.builder = builder(sink, endpoint, form)
        self._permit = permit or Permit()
        self._loop = client.loop
        self._schedule = schedule
        self._rng = rng
        self._disk = disk
        self._histograms = latencies
        self._latencies: Latencies | None = None
        self._histories = histories
        self._history: SinkHistory | None = None
        self._in_flight: set[Attempt] = set()
        self._in_flight_bytes = 0
        self._life = self._address = 0
        self.is_held = held
        self._fill_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._progressed = 0.0
        self._delivered_before = 0
        self._is_slow = False
        self._origin = _origin_of(endpoint)
        self.configure(sink, endpoint, form)

    # --- configuration -------------------------------------------------------------------------------------------------

    def configure(self, sink: SinkResource, endpoint: HttpEndpoint, form: Any) -> None:
        """Apply the current settings of the sink and its endpoint; messages in backoff are retried at once with the new settings."""
        queue = self.queue
        self.sink = sink
        self._may_send = sink.status == "active"
        queue.batch_size = sink.batch_size
        queue.group_of = grouping(sink)
        origin = _origin_of(endpoint)
        if origin != self._origin:
            self.client.origin(self._origin).withdraw(self)  # a turn at the old origin would send requests meant for the new one
            self._origin = origin
        self._address += self.builder.configure(sink, endpoint, form)
        self.breaker.reset()
        queue.is_due = queue.is_due or bool(queue.ready)  # after an increase of the batch size, do not wait for more messages
        self._hurry()
        if sink.status == "paused":
            queue.fall_behind()
        else:
            queue.catch_up()
        self.offer()

    def hold(self) -> None:
        """Keep all messages back until `release`."""
        self.is_held = True

    def release(self, position: int) -> None:
        """End the hold: drop messages committed before `position`, and send the others."""
        self.queue.forget_before(position)
        self.is_held = False
        self.offer()

    def drop(self) -> None:
        """Drop all pending messages of a deleted or disabled sink; requests in flight still run to completion."""
        self._life += 1
        self.queue.drop()

    def restore(self, rows: Iterable[int]) -> None:
        """Add stored messages by row id, at startup or to redeliver them."""
        self.queue.restore(rows)
        if len(self.queue.spill.rows):
            self._fall_behind()
            self.offer()

    def _fall_behind(self) -> None:
        if self.sink.status != "disabled":
            self.queue.fall_behind()

    # --- new messages --------------------------------------------------------------------------------------------------

    def owe(self, message: PendingMessage) -> None:
        """Add a message. Messages must be added in the order in which they must be delivered."""
        queue = self.queue
        if not queue.add(message):
            return
        if len(queue.ready) >= queue.batch_size or queue.is_due:
            self.offer()
        elif self._fill_timer is None:
            self._fill_timer = self._loop.call_later(FILL_SECONDS, self._filled_long_enough)

    def send_again(self, changes: Iterable[Change]) -> None:
        """Redeliver changes, if the sink's filter still accepts them. Changes that are not redelivered yet may be lost in a crash."""
        for change in changes:
            self.owe(PendingMessage(change, NO_SOURCE, self.queue.group_of(change), unfiltered=True))

    def _filled_long_enough(self) -> None:
        self._fill_timer = None
        self.queue.is_due = True
        self.offer()

    # --- for the queue -------------------------------------------------------------------------------------------------

    def on_way(self) -> Iterable[list[PendingMessage]]:
        """Return the messages of each attempt in flight."""
        return (attempt.messages for attempt in self._in_flight)

    def offer(self) -> None:
        """Ask the origin for a turn if there is a request to send."""
        if self.queue.spill.in_use:
            self.queue.refill()
        if self.has_more():
            self.client.origin(self._origin).offer(self)

    def may_refill(self) -> bool:
        """Return whether messages may be read back from disk now."""
        return not self.is_held and self.sink.status != "disabled" and not (self._is_probing and self.queue.ready)

    def may_catch_up(self) -> bool:
        """Return whether all pending messages may be in memory again."""
        return self.sink.status == "active" and not self._is_probing

    def caught_up(self) -> None:
        """Called when all pending messages are in memory again."""
        self._disk.caught_up(self)

    # --- sending -------------------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether the endpoint has answered 410 since `configure` was last called; nothing is sent until it is called again."""
        return self.sink.status == "active" and not self._may_send

    @property
    def _is_probing(self) -> bool:
        """Whether new messages are limited because retries or requests in flight will show when the receiver is back.

        A sink that has neither must send new messages to find out.
        """
        return self.breaker.is_down and bool(self.queue.retries or self._in_flight)

    def has_more(self) -> bool:
        """Return whether there is a request to send now."""
        in_flight, queue = len(self._in_flight), self.queue
        if in_flight >= IN_FLIGHT_PER_SINK or self._in_flight_bytes > IN_FLIGHT_BYTES or self.is_held or not self._may_send:
            return False
        retries, breaker = queue.retries, self.breaker
        if breaker.misses or retries:
            is_down = breaker.is_down
            if is_down and in_flight:
                return False
            if retries:
                now = self._loop.time()
                if retries.next_due <= now:
                    return True
                if (is_down or retries.is_full) and now < breaker.next_new:
                    return False
        waiting = len(queue.ready)
        return waiting >= queue.batch_size or (waiting > 0 and queue.is_due)

    def next_request(self) -> tuple[bytes, Attempt] | None:
        """Take the next batch, and return its request and attempt; None if there is nothing to send."""
        queue = self.queue
        while self.has_more():
            now = self._loop.time()
            if now >= self._permit.until:
                return None
            is_new = not (queue.retries and queue.retries.next_due <= now)
            messages = queue.take() if is_new else queue.retries.pop()
            if messages and messages[0].unfiltered:
                queue.retry_behind(messages[:1], messages[1:], now)
                messages = self._filtered(messages[0], is_new=is_new)
            if not messages:
                continue
            try:
                data, size, count = self.builder.build(messages)
            except CannotBuild as exc:
                queue.retry_behind(messages[:1], messages[1:], now)
                self._cannot_send(messages[0], str(exc), is_new=is_new)
                continue
            if count < len(messages):
                queue.retry_behind(messages[:count], messages[count:], now)
                del messages[count:]
            attempt = Attempt(self, messages, size, now, self._address, self._life, is_new)
            if is_new and queue.retries.is_full:
                self.breaker.next_new = math.inf  # no new message until this one has failed or succeeded
            if not self._in_flight:
                self._progressed = now
            self._in_flight.add(attempt)
            self._in_flight_bytes += size
            if self._latencies is None:
                self._latencies = self._histograms.of(self.sink.id)
                self._begin_history()
            self._latencies.internal.observe(time.time() * 1e6 - messages[0].change.commit_us)
            return data, attempt
        if queue.spill.in_use:
            queue.refill()
        return None

    def _filtered(self, message: PendingMessage, *, is_new: bool) -> list[PendingMessage]:
        """Apply the filter to a message. Return it if it passes; drop it if not, or fail it if the filter raises."""
        try:
            is_wanted = self.queue.filter(message.change)
        except Exception as exc:  # a filter may raise anything; only this message fails
            self._cannot_send(message, f"{FILTER_FAILED}{exc}", is_new=is_new)
            return []
        message.unfiltered = False
        if is_wanted:
            return [message]
        self.queue.release(message)
        self.queue.free([message])
        return []

    def _begin_history(self) -> None:
        if self._history is None and self._histories is not None:
            self._history = self._histories.of(self.sink.id)
            self._history.start(self.delivered, self.failed)

    def _cannot_send(self, message: PendingMessage, error: str, *, is_new: bool) -> None:
        self._begin_history()
        if self._history is not None:
            self._history.failed([message], self._loop.time(), 0.0, error)
        self._failed([message], error, None)
        if is_new:
            self._new_failed()

    # --- outcomes ------------------------------------------------------------------------------------------------------

    def answered(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        """Handle the outcome of an attempt; a 2xx status is a success."""
        messages, queue = attempt.messages, self.queue
        self._in_flight.discard(attempt)
        self._in_flight_bytes -= attempt.size
        now = self._progressed = self._loop.time()
        took = now - attempt.started
        self.attempted += len(messages)
        assert self._latencies is not None  # noqa: S101  # set when the request was sent
        if status is not None and 200 <= status < 300:
            self.on_probation = took > QUICK_SECONDS
            self._latencies.succeeded.observe(took * 1e6)
            self.delivered += len(messages)
            if self._history is not None:
                self._history.delivered(messages, now, took, status)
            self.last_error = None
            was_down = self.breaker.succeeded()
            queue.delivered(messages)
            if was_down:
                self._hurry()  # the receiver is back
        else:
            self._latencies.failed.observe(took * 1e6)
            if self._history is not None:
                self._history.failed(messages, now, took, error if status is None else status)
            reason = f"Unexpected status code: {status}" if status is not None else f"POST to webhook endpoint failed: {error}"
            if attempt.life != self._life:  # sent before the sink was disabled: no longer pending
                self.failed += len(messages)
                for message in messages:
                    queue.release(message)
                queue.free(messages)
            elif attempt.address != self._address:  # sent with other settings: says nothing about the current endpoint
                self._failed(messages, f"[http_endpoint]: {reason}", None)
            else:
                self._refused(attempt, status, f"[http_endpoint]: {reason}", retry_after)
        if queue.spill.in_use:
            queue.refill()
        if queue.ready or queue.retries:  # `next_request` checks whether they may be sent
            self.client.origin(self._origin).offer(self)

    def _refused(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        """Handle a failed attempt at the sink's current endpoint."""
        self.on_probation = True
        if attempt.is_new:
            self.breaker.misses += 1
            self._new_failed()
            if self.breaker.is_down:
                self._fall_behind()
        self._failed(attempt.messages, error, retry_after)
        if status == 410 and self._may_send:
            self._may_send = False
            self._disk.endpoint_is_gone(self)

    def may_repeat(self, attempt: Attempt) -> bool:
        """Return whether an attempt's request may be repeated unchanged, and count the repeat.

        It may not be repeated if the sink has changed since it was sent.
        """
        is_current = attempt.life == self._life and attempt.address == self._address and self._may_send
        if not is_current or any(message.unfiltered for message in attempt.messages):
            return False
        self.repeated += 1
        return True

    def _new_failed(self) -> None:
        self.breaker.new_failed(self._loop.time(), self._rng.random())
        self._set_retry_timer()

    def _failed(self, messages: list[PendingMessage], error: str, retry_after: float | None) -> None:
        self.failed += len(messages)
        self.last_error = error
        if len(messages) == 1:  # in a batch, another message may be at fault
            messages[0].attempts += 1
            if messages[0].row > 0:
                self._disk.failed_again(messages[0].row, messages[0].attempts)
        step = after_failure(
            self._schedule,
            size=len(messages),
            attempts=messages[0].attempts,
            max_attempts=self.sink.max_retry_count,
            retry_after=retry_after,
            rng=self._rng.random(),
        )
        queue = self.queue
        match step:
            case Again(wait):
                queue.retry(messages, self._loop.time() + wait)
            case Halve(wait):
                middle, due = len(messages) // 2, self._loop.time() + wait
                queue.retry_behind(messages[:middle], messages[middle:], due)
                queue.retry(messages[:middle], due)
            case Discard():
                self.discarded += 1
                queue.count -= 1
                self._disk.discard(self, messages[0], error)
                queue.free(messages)
        self._set_retry_timer()

    # --- timers --------------------------------------------------------------------------------------------------------

    def _hurry(self) -> None:
        """Make all messages in backoff due now."""
        self.queue.retries.hurry()

    def _set_retry_timer(self) -> None:
        """Set the timer to the earliest retry or the time for the next new message, whichever is first."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        times = [self.queue.retries.next_due] if self.queue.retries else []
        if self._loop.time() < self.breaker.next_new < math.inf:
            times.append(self.breaker.next_new)
        self._retry_timer = self._loop.call_at(min(times), self._retry_due) if times else None

    def _retry_due(self) -> None:
        """Ask for a turn, then set the timer to what is not due yet.

        The clock is read before asking, so that a retry that becomes due meanwhile is not missed.
        """
        self._retry_timer = None
        now = self._loop.time()
        self.offer()
        times = [due] if (due := self.queue.retries.next_after(now)) is not None else []
        if now < self.breaker.next_new < math.inf:
            times.append(self.breaker.next_new)
        if times:
            self._retry_timer = self._loop.call_at(min(times), self._retry_due)

    # --- monitoring ----------------------------------------------------------------------------------------------------

    def notice_slowness(self) -> None:
        """Detect a receiver that does not respond or is slower than the sink's traffic.

        This is called every second while messages are pending.
        """
        sent, self._delivered_before = self.delivered - self._delivered_before, self.delivered
        queue = self.queue
        if queue.spill.in_use:
            return
        is_stalled = bool(self._in_flight) and self._loop.time() - self._progressed > STALLED_SECONDS
        was_slow = self._is_slow
        self._is_slow = queue.count > SLOW_FROM_MESSAGES or sum(m.change.size for m in queue.ready) > SLOW_FROM_BYTES
        if is_stalled or (was_slow and self._is_slow and queue.count > LONG_SECONDS * sent):
            self._fall_behind()

    def sample(self, now: float) -> SinkCounts | None:
        """Add the messages counted since the last sample to the rates; return all counts, or None if they have not changed.

        `now` is in Unix time.
        """
        history = self._history
        if history is None or not history.sample(self._loop.time(), self.delivered, self.failed):
            return None
        self.counted_since = self.counted_since or int(now)
        return SinkCounts(self.queue.number, self.attempted, self.delivered, self.failed, self.counted_since)

    def rates(self) -> list[tuple[int, int]]:
        """Return the messages delivered and failed in each bar of the last minutes; an empty list without traffic since the start."""
        return [] if self._history is None else self._history.bars(self._loop.time(), self.delivered, self.failed)

    @property
    def is_active(self) -> bool:
        """Whether there was an attempt in the last minutes."""
        return self._history is not None and self._history.is_active(self._loop.time(), self.delivered, self.failed)

    def attempts(self) -> list[LoggedAttempt]:
        """Return the latest attempts, newest first, and keep more of them from now on."""
        if self._histories is not None:
            self._histories.opened(self.sink.id)
        elapsed = time.time() - self._loop.time()
        return [] if self._history is None else [each._replace(at=each.at + elapsed) for each in self._history.attempts()]

    def restore_counts(self, counts: SinkCounts) -> None:
        """Continue the counts of an earlier run."""
        self.attempted, self.delivered, self.failed, self.counted_since = counts[1:]
        self._delivered_before = self.delivered

    def oldest_age(self, now: float) -> float | None:
        """Return the age in seconds of the oldest message in memory at `now` (Unix time); None if there is none."""
        queue = self.queue
        firsts = [*(a.messages[0] for a in self._in_flight), *(batch[0] for batch in queue.retries), *islice(queue.ready, 1)]
        oldest = min((message.change.commit_us for message in firsts), default=None)
        return None if oldest is None else max(0.0, now - oldest / 1e6)

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self._in_flight)

    @property
    def retrying(self) -> int:
        """Number of messages in backoff."""
        return sum(len(batch) for batch in self.queue.retries)

    def close(self) -> None:
        """Stop the timers, and release the histograms and the history."""
        self._histograms.forget(self.sink.id)
        if self._histories is not None:
            self._histories.forget(self.sink.id)
        for timer in (self._fill_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()


class Attempt:
    """One request of a sink in flight since `started` (loop time), with a body of `size` bytes.

    `is_new` is false if the messages came from the retry queue. `address` and `life` are the values of two counters of the sink: changes of
    its URL or headers, and drops of all its pending messages. If either counter changes before the response, the response says nothing
    about the sink's current state.
    """

    __slots__ = ("_sink", "address", "is_new", "life", "messages", "size", "started")

    def __init__(
        self, sink: SinkDelivery, messages: list[PendingMessage], size: int, started: float, address: int, life: int, is_new: bool
    ) -> None:
        self._sink = sink
        self.messages = messages
        self.size = size
        self.started = started
        self.address = address
        self.life = life
        self.is_new = is_new

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        """Pass the outcome to the sink."""
        self._sink.answered(self, status, error, retry_after)

    def slow(self) -> None:
        """Put the sink on probation because the response takes long."""
        self._sink.on_probation = True

    def may_repeat(self) -> bool:
        """Return whether the request may be sent again within this attempt."""
        return self._sink.may_repeat(self)
