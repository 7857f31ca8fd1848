"""Sends what one sink owes: which batch when, what follows from its outcome, and when the receiver is spared.

Which messages wait, in which order, is in `pending_queue.py`; how a request is made in `request_builder.py`; whether a receiver is down in
`circuit_breaker.py`; waits in `retry.py`; sockets in `http_client.py`. Nothing here knows where messages were read from.

It is long because every outcome changes queue, breaker and timers together.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from userhooks.engine.change import grouping
from userhooks.engine.delivery.circuit_breaker import CircuitBreaker
from userhooks.engine.delivery.http_client import HttpClient, OriginKey
from userhooks.engine.delivery.latency_histogram import HistogramPool, Latencies
from userhooks.engine.delivery.pending_message import MemoryBudget, PendingMessage
from userhooks.engine.delivery.pending_queue import PendingQueue, QueueDisk
from userhooks.engine.delivery.request_builder import CannotBuild, RequestBuilder
from userhooks.engine.delivery.retry import Again, Discard, Halve, RetrySchedule, after_failure
from userhooks.engine.message_format import SinkForm
from userhooks.engine.resources import HttpEndpoint, SinkResource
from userhooks.engine.sink_health import FILTER_FAILED

IN_FLIGHT_PER_SINK = 50
FILL_SECONDS = 0.005
"""How long a batch that is not full waits for more (sequin v0.14.6: 5 ms)."""
QUICK_SECONDS = 1.0
"""A sink whose last answer took longer, or was no 2xx, is on probation: it shares a part of the connections with others like it."""
STALLED_SECONDS = 2.0
"""A sink whose receiver has answered nothing for this long is behind."""
LONG_SECONDS = 5.0
"""What would wait longer than this in memory goes to the store."""
IN_FLIGHT_BYTES = 16_000_000
"""Bytes on their way at which nothing more is sent"""
SLOW_FROM_MESSAGES, SLOW_FROM_BYTES = 1000, 16_000_000
"""What is owed, and what of it is ready, from which on a sink is asked whether its receiver keeps up"""


class Disk(QueueDisk, Protocol):
    """Where messages wait that memory does not keep, and where those are kept that were given up."""

    def failed_again(self, row: int, attempts: int) -> None:
        """A stored message has failed so many times by now."""

    def discard(self, delivery: SinkDelivery, message: PendingMessage, error: str) -> None:
        """Keep a message that is given up."""

    def caught_up(self, delivery: SinkDelivery) -> None:
        """The sink is not behind any more."""

    def endpoint_is_gone(self, delivery: SinkDelivery) -> None:
        """The endpoint has answered 410."""


def _origin_of(endpoint: HttpEndpoint) -> OriginKey:
    return endpoint.scheme, endpoint.host.lower(), endpoint.port


class SinkDelivery:
    """One sink's way out. `number` names it in the store; `held` keeps back everything until `release`.

    It is long because every outcome changes queue, breaker and timers together.
    """

    __slots__ = (
        "_address",
        "_delivered_before",
        "_disk",
        "_fill_timer",
        "_histograms",
        "_in_flight",
        "_in_flight_bytes",
        "_is_slow",
        "_latencies",
        "_life",
        "_loop",
        "_may_send",
        "_origin",
        "_progressed",
        "_retry_timer",
        "_rng",
        "_schedule",
        "attempted",
        "breaker",
        "builder",
        "client",
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
        form: SinkForm,
        number: int,
        *,
        client: HttpClient,
        budget: MemoryBudget,
        schedule: RetrySchedule,
        rng: random.Random,
        disk: Disk,
        latencies: HistogramPool,
        held: bool = False,
    ) -> None:
        self.delivered = self.attempted = self.failed = self.discarded = self.repeated = 0
        self.last_error: str | None = None
        self.on_probation = True
        self.client = client
        self.queue = PendingQueue(number, self, disk, budget)
        self.breaker = CircuitBreaker(schedule)
        self.builder = RequestBuilder(sink, endpoint, form)
        self._loop = client.loop
        self._schedule = schedule
        self._rng = rng
        self._disk = disk
        self._histograms = latencies
        self._latencies: Latencies | None = None
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

    # --- what the sink is ----------------------------------------------------------------------------------------------

    def configure(self, sink: SinkResource, endpoint: HttpEndpoint, form: SinkForm) -> None:
        """Take over the sink's and the endpoint's present settings; what waits for a retry goes out at once under them."""
        queue = self.queue
        self.sink = sink
        self._may_send = sink.status == "active"
        queue.batch_size = sink.batch_size
        queue.group_of = grouping(sink)
        origin = _origin_of(endpoint)
        if origin != self._origin:
            self.client.origin(self._origin).withdraw(self)  # a turn there would send what is for the new one
            self._origin = origin
        self._address += self.builder.configure(sink, endpoint, form)
        self.breaker.reset()
        queue.is_due = queue.is_due or bool(queue.ready)  # a larger batch must not wait for more
        self._hurry()
        if sink.status == "paused":
            queue.fall_behind()
        else:
            queue.catch_up()
        self.offer()

    def hold(self) -> None:
        """Keep back everything until `release`."""
        self.is_held = True

    def release(self, position: int) -> None:
        """End the hold: the sink owes what was committed at or after `position` in the source, and nothing of before."""
        self.queue.forget_before(position)
        self.is_held = False
        self.offer()

    def drop(self) -> None:
        """Drop all pending messages of a deleted or disabled sink; requests in flight still run to completion."""
        self._life += 1
        self.queue.drop()

    def restore(self, rows: Iterable[int]) -> None:
        """Take over what the store has kept for this sink: at a start, or messages that are to be sent again."""
        self.queue.restore(rows)
        if len(self.queue.spill.rows):
            self._fall_behind()
            self.offer()

    def _fall_behind(self) -> None:
        if self.sink.status != "disabled":
            self.queue.fall_behind()

    # --- what comes in -------------------------------------------------------------------------------------------------

    def owe(self, message: PendingMessage) -> None:
        """Take a message; messages come in the order in which they are to be delivered."""
        queue = self.queue
        if not queue.add(message):
            return
        if len(queue.ready) >= queue.batch_size or queue.is_due:
            self.offer()
        elif self._fill_timer is None:
            self._fill_timer = self._loop.call_later(FILL_SECONDS, self._filled_long_enough)

    def _filled_long_enough(self) -> None:
        self._fill_timer = None
        self.queue.is_due = True
        self.offer()

    # --- for the queue -------------------------------------------------------------------------------------------------

    def on_way(self) -> Iterable[list[PendingMessage]]:
        """Return the messages of each attempt under way."""
        return (attempt.messages for attempt in self._in_flight)

    def offer(self) -> None:
        """Ask for a turn, if there is something to send."""
        if self.queue.spill.in_use:
            self.queue.refill()
        if self.has_more():
            self.client.origin(self._origin).offer(self)

    def may_refill(self) -> bool:
        """Return whether more may be read back from disk now."""
        return not self.is_held and self.sink.status != "disabled" and not (self._is_probing and self.queue.ready)

    def may_catch_up(self) -> bool:
        """Return whether memory may hold all that is owed again."""
        return self.sink.status == "active" and not self._is_probing

    def caught_up(self) -> None:
        """Memory holds all that is owed again."""
        self._disk.caught_up(self)

    # --- what goes out -------------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether the endpoint has answered 410 since `configure`, so that nothing is sent until the next one."""
        return self.sink.status == "active" and not self._may_send

    @property
    def _is_probing(self) -> bool:
        """Whether few new messages are sent, because pending attempts will show if the receiver is back.

        A sink that has given up on all its attempts has to try more.
        """
        return self.breaker.is_down and bool(self.queue.retries or self._in_flight)

    def has_more(self) -> bool:
        """Return whether a request could be made now."""
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
        """Take the next batch and return it as the bytes of a request."""
        queue = self.queue
        while self.has_more():
            now = self._loop.time()
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
                self.breaker.next_new = math.inf  # one at a time
            if not self._in_flight:
                self._progressed = now
            self._in_flight.add(attempt)
            self._in_flight_bytes += size
            if self._latencies is None:
                self._latencies = self._histograms.of(self.sink.id)
            self._latencies.internal.observe(time.time() * 1e6 - messages[0].change.commit_us)
            return data, attempt
        if queue.spill.in_use:
            queue.refill()
        return None

    def _filtered(self, message: PendingMessage, *, is_new: bool) -> list[PendingMessage]:
        """Ask the filter about a message: send it, drop it, or count a failed attempt when the filter raises."""
        try:
            is_wanted = self.queue.filter(message.change)
        except Exception as exc:  # a filter may raise anything; the message then fails, visibly, and nothing else does
            self._cannot_send(message, f"{FILTER_FAILED}{exc}", is_new=is_new)
            return []
        message.unfiltered = False
        if is_wanted:
            return [message]
        self.queue.release(message)
        self.queue.free([message])
        return []

    def _cannot_send(self, message: PendingMessage, error: str, *, is_new: bool) -> None:
        self._failed([message], error, None)
        if is_new:
            self._new_failed()

    # --- what came of it -----------------------------------------------------------------------------------------------

    def answered(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        """An attempt came to its end; 2xx is success."""
        messages, queue = attempt.messages, self.queue
        self._in_flight.discard(attempt)
        self._in_flight_bytes -= attempt.size
        now = self._progressed = self._loop.time()
        took = now - attempt.started
        self.attempted += len(messages)
        assert self._latencies is not None  # noqa: S101  # it was sent
        if status is not None and 200 <= status < 300:
            self.on_probation = took > QUICK_SECONDS
            self._latencies.succeeded.observe(took * 1e6)
            self.delivered += len(messages)
            self.last_error = None
            was_down = self.breaker.succeeded()
            queue.delivered(messages)
            if was_down:
                self._hurry()  # the receiver is back
        else:
            self._latencies.failed.observe(took * 1e6)
            reason = f"Unexpected status code: {status}" if status is not None else f"POST to webhook endpoint failed: {error}"
            if attempt.life != self._life:  # of an earlier life of the sink: not owed any more
                self.failed += len(messages)
                for message in messages:
                    queue.release(message)
                queue.free(messages)
            elif attempt.address != self._address:  # says nothing of the endpoint as it is now
                self._failed(messages, f"[http_endpoint]: {reason}", None)
            else:
                self._refused(attempt, status, f"[http_endpoint]: {reason}", retry_after)
        if queue.spill.in_use:
            queue.refill()
        if queue.ready or queue.retries:  # whether one of them may go is asked when the turn comes
            self.client.origin(self._origin).offer(self)

    def _refused(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        """Handle an attempt that the receiver currently named in the sink's settings did not accept."""
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
        """Return whether an attempt's request may be sent again as it is, and count that: not if the sink has changed since."""
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
        """Everything in backoff is due now."""
        self.queue.retries.hurry()

    def _set_retry_timer(self) -> None:
        """Set the timer to the earliest retry or to when a new message may be tried, whichever comes first."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        times = [self.queue.retries.next_due] if self.queue.retries else []
        if self._loop.time() < self.breaker.next_new < math.inf:
            times.append(self.breaker.next_new)
        self._retry_timer = self._loop.call_at(min(times), self._retry_due) if times else None

    def _retry_due(self) -> None:
        """Ask for a turn for what is due by now; set the timer again for what is not, by the same reading of the clock."""
        self._retry_timer = None
        now = self._loop.time()
        self.offer()
        times = [due] if (due := self.queue.retries.next_after(now)) is not None else []
        if now < self.breaker.next_new < math.inf:
            times.append(self.breaker.next_new)
        if times:
            self._retry_timer = self._loop.call_at(min(times), self._retry_due)

    # --- what can be seen ----------------------------------------------------------------------------------------------

    def notice_slowness(self) -> None:
        """Called once a second while anything is owed: notice a receiver that does not answer, or is slower than its traffic."""
        sent, self._delivered_before = self.delivered - self._delivered_before, self.delivered
        queue = self.queue
        if queue.spill.in_use:
            return
        is_stalled = bool(self._in_flight) and self._loop.time() - self._progressed > STALLED_SECONDS
        was_slow = self._is_slow
        self._is_slow = queue.count > SLOW_FROM_MESSAGES or sum(m.change.size for m in queue.ready) > SLOW_FROM_BYTES
        if is_stalled or (was_slow and self._is_slow and queue.count > LONG_SECONDS * sent):
            self._fall_behind()

    def oldest_age(self, now: float) -> float | None:
        """Return for how many seconds the oldest message in memory has been owed, by the time of day `now`; None without one."""
        queue = self.queue
        firsts = [*(a.messages[0] for a in self._in_flight), *(batch[0] for batch in queue.retries), *islice(queue.ready, 1)]
        oldest = min((message.change.commit_us for message in firsts), default=None)
        return None if oldest is None else max(0.0, now - oldest / 1e6)

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return len(self._in_flight)

    @property
    def retrying(self) -> int:
        """Messages that wait for another attempt."""
        return sum(len(batch) for batch in self.queue.retries)

    def close(self) -> None:
        """Stop the timers, and give the histograms back."""
        self._histograms.forget(self.sink.id)
        for timer in (self._fill_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()


class Attempt:
    """One request of one sink on its way, its body of `size` bytes, since `started` (the loop's time).

    `is_new`: nothing of it has failed before. `address` numbers the URL and headers with which, `life` the sink's life in which it was
    sent: when these are others by the time of the answer, that says nothing of the sink as it is then.
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
        """Pass the outcome on to the sink."""
        self._sink.answered(self, status, error, retry_after)

    def slow(self) -> None:
        """No answer for a while."""
        self._sink.on_probation = True

    def may_repeat(self) -> bool:
        """Return whether the request may be sent again within this attempt."""
        return self._sink.may_repeat(self)
