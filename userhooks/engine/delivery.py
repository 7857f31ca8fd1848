"""The messages that each sink still owes: their order, batches, attempts and retries. Sockets are in `http.py`, waits in `retry.py`.

One `SinkDelivery` per sink. A message's group (by default its row) has at most one batch on its way; later messages of the group wait for
it, also while it is in backoff, so order per group is kept under failure, and other groups pass by.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import quote

from userhooks.engine.http import HttpClient, OriginKey
from userhooks.engine.rendering import Change, SinkForm, render
from userhooks.engine.resources import HttpEndpoint, Sink
from userhooks.engine.retry import Again, Discard, Halve, Schedule, after_failure

log = logging.getLogger(__name__)

IN_FLIGHT_PER_SINK = 50
LINGER_SECONDS = 0.005
"""How long a batch that is not full waits for more (sequin v0.14.6: 5 ms)."""
STALLED_SECONDS = 2.0
"""A sink whose receiver has answered nothing for this long no longer slows down the reading of the slot."""
USER_AGENT = "userhooks/0.1"


class Owed(Protocol):
    """What a message was read from: a transaction of the slot, or a page of a backfill."""

    def settle(self, index: int, sink_number: int) -> None:
        """The message is delivered."""

    def forgive(self) -> None:
        """The message is no longer owed."""


class Message:
    """One change that one sink owes its receiver. `unjudged`: the filter has to be asked (again) before it may be sent."""

    __slots__ = ("attempts", "change", "group", "owed", "unjudged")

    def __init__(self, change: Change, owed: Owed, group: object, unjudged: bool = False) -> None:
        self.change = change
        self.owed = owed
        self.group = group
        self.attempts = 0
        self.unjudged = unjudged


class Load:
    """How many messages wait for receivers that keep up; the reading of the slot stops while there are too many."""

    def __init__(self, high: int, low: int, changed: Callable[[], None]) -> None:
        self.high = high
        self.low = low
        self.waiting = 0
        self._changed = changed

    def add(self, count: int) -> None:
        """Count messages in, or out with a negative number."""
        before, self.waiting = self.waiting, self.waiting + count
        if (before <= self.high) != (self.waiting <= self.high) or (before <= self.low) != (self.waiting <= self.low):
            self._changed()


class SinkDelivery:
    """All that one sink owes. `number` names it in the store; `held` keeps back everything until `release`."""

    def __init__(
        self,
        sink: Sink,
        endpoint: HttpEndpoint,
        form: SinkForm,
        number: int,
        *,
        client: HttpClient,
        load: Load,
        schedule: Schedule,
        luck: random.Random,
        held: bool = False,
    ) -> None:
        self.number = number
        self.judge: Callable[[Change], bool] = lambda _: True
        self.delivered = self.attempted = self.failed = self.discarded = 0
        self.last_error: str | None = None
        self.pending = 0
        self._client = client
        self._loop = client.loop
        self._load = load
        self._schedule = schedule
        self._luck = luck
        self._ready: deque[Message] = deque()
        self._busy: dict[object, deque[Message] | None] = {}
        self._retries: list[tuple[float, int, list[Message]]] = []
        self._retry_count = 0
        self._in_flight = 0
        self._lagging = False
        self._held = held
        self._linger: asyncio.TimerHandle | None = None
        self._lingered = False
        self._wake: asyncio.TimerHandle | None = None
        self._progressed = 0.0
        self.configure(sink, endpoint, form)

    # --- what the sink is ----------------------------------------------------------------------------------------------

    def configure(self, sink: Sink, endpoint: HttpEndpoint, form: SinkForm) -> None:
        """Take over the sink's and the endpoint's present settings; what waits for a retry goes out at once under them."""
        self.sink = sink
        self.form = form
        self._origin: OriginKey = (endpoint.scheme, endpoint.host, endpoint.port)
        self._head, self._tail = request_head(endpoint, sink.path)
        self._retries = [(0.0, n, batch) for _, n, batch in self._retries]
        heapq.heapify(self._retries)
        self._lag()
        self._offer()

    def rejudge(self) -> None:
        """The filter has changed: ask it again about everything that waits."""
        for message in self._waiting():
            message.unjudged = True

    def hold(self) -> None:
        """Keep back everything until `release`."""
        self._held = True

    def release(self, start_lsn: int) -> None:
        """End the hold: the sink owes what committed at or after `start_lsn`, and nothing of before."""
        for message in [m for m in self._ready if m.change.commit_lsn < start_lsn]:
            self._ready.remove(message)
            self._forgive(message)
        self._held = False
        self._lag()
        self._offer()

    def drop(self) -> None:
        """Owe nothing any more: the sink is deleted or disabled. What is on its way still comes to its end."""
        for message in list(self._waiting()):
            self._forgive(message)
        for _, _, batch in self._retries:
            for message in batch:
                self._busy.pop(message.group, None)
        self._ready.clear()
        self._busy = dict.fromkeys(self._busy)  # what is on its way
        self._retries.clear()

    def withdraw(self, mine: Callable[[Owed], bool]) -> None:
        """Take back what waits and was read from something that is no longer wanted (a cancelled backfill)."""
        for queue in (self._ready, *self._busy.values()):
            for message in [m for m in queue or () if mine(m.owed)]:
                if queue is not None:
                    queue.remove(message)
                self._forgive(message)

    def _waiting(self) -> Iterable[Message]:
        yield from self._ready
        for waiting in self._busy.values():
            yield from waiting or ()
        for _, _, batch in self._retries:
            yield from batch

    # --- what comes in -------------------------------------------------------------------------------------------------

    def owe(self, message: Message) -> None:
        """Take a message; messages come in the order in which they are to be delivered."""
        self._ready.append(message)
        self.pending += 1
        if not self._lagging:
            self._load.add(1)
        if self.sink.batch_size > 1 and len(self._ready) < self.sink.batch_size:
            if self._linger is None and not self._lingered:
                self._linger = self._loop.call_later(LINGER_SECONDS, self._lingered_enough)
        else:
            self._offer()

    def _lingered_enough(self) -> None:
        self._linger = None
        self._lingered = True
        self._offer()

    # --- what goes out -------------------------------------------------------------------------------------------------

    def _offer(self) -> None:
        if self.has_more():
            self._client.origin(self._origin).offer(self)

    def has_more(self) -> bool:
        """Whether a request could be made now."""
        if self._held or self.sink.status != "active" or self._in_flight >= IN_FLIGHT_PER_SINK:
            return False
        if self._retries and self._retries[0][0] <= self._loop.time():
            return True
        waiting = len(self._ready)
        return waiting >= self.sink.batch_size or (waiting > 0 and self._lingered)

    def next_request(self) -> tuple[bytes, Attempt] | None:
        """Take the next batch and return it as the bytes of a request."""
        while self.has_more():
            messages = self._take()
            if messages and messages[0].unjudged:
                messages = self._judged(messages[0])
            if messages:
                if not self._in_flight:
                    self._progressed = self._loop.time()
                self._in_flight += 1
                return self._request(messages), Attempt(self, messages)
        return None

    def _take(self) -> list[Message]:
        if self._retries and self._retries[0][0] <= self._loop.time():
            return heapq.heappop(self._retries)[2]
        ready, busy, size = self._ready, self._busy, self.sink.batch_size
        taken: list[Message] = []
        groups: set[object] = set()
        while ready and len(taken) < size:
            message = ready[0]
            if message.unjudged and taken:
                break
            ready.popleft()
            group = message.group
            if group is not None and group not in groups:
                if group in busy:
                    waiting = busy[group]
                    if waiting is None:
                        waiting = busy[group] = deque()
                    waiting.append(message)
                    continue
                busy[group] = None
                groups.add(group)
            taken.append(message)
            if message.unjudged:
                break
        if not ready:
            self._lingered = False
        return taken

    def _judged(self, message: Message) -> list[Message]:
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
        self._free_group(message.group)
        return []

    def _request(self, messages: list[Message]) -> bytes:
        form = self.form
        if not self.sink.batch:
            body = render(messages[0].change, form)
        elif len(messages) == 1:
            body = b'{"data":[' + render(messages[0].change, form) + b"]}"
        else:
            body = b'{"data":[' + b",".join([render(m.change, form) for m in messages]) + b"]}"
        return b"%b%d%b%b" % (self._head, len(body), self._tail, body)

    # --- what came of it -----------------------------------------------------------------------------------------------

    def answered(self, messages: list[Message], status: int | None, error: str, retry_after: float | None) -> None:
        """An attempt came to its end; 2xx is success."""
        self._in_flight -= 1
        self._progressed = self._loop.time()
        self.attempted += len(messages)
        if status is not None and 200 <= status < 300:
            self._succeeded(messages)
        else:
            reason = f"Unexpected status code: {status}" if status is not None else f"POST to webhook endpoint failed: {error}"
            self._failed(messages, f"[http_endpoint]: {reason}", retry_after)
        if self._lagging:
            self._lag()
        self._offer()

    def _succeeded(self, messages: list[Message]) -> None:
        self.delivered += len(messages)
        self.last_error = None
        for message in messages:
            message.owed.settle(message.change.commit_idx, self.number)
            self._gone()
            self._free_group(message.group)

    def _failed(self, messages: list[Message], error: str, retry_after: float | None) -> None:
        self.failed += len(messages)
        self.last_error = error
        if self.sink.status == "disabled":
            for message in messages:
                self._forgive(message)
                self._free_group(message.group)
            return
        for message in messages:
            message.attempts += 1
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
                self._halve(messages, wait)
            case Discard():
                self.discarded += 1
                log.warning("sink %s: a message is discarded after %d attempts; %s", self.sink.name, messages[0].attempts, error)
                self._forgive(messages[0])
                self._free_group(messages[0].group)
        self._lag()

    def _retry(self, messages: list[Message], wait: float) -> None:
        self._retry_count += 1
        heapq.heappush(self._retries, (self._loop.time() + wait, self._retry_count, messages))
        self._wake_up()

    def _halve(self, messages: list[Message], wait: float) -> None:
        """Retry in halves; what shares a group with the first half waits for it, so that the group keeps its order."""
        middle = len(messages) // 2
        first, second = messages[:middle], messages[middle:]
        groups = {m.group for m in first if m.group is not None}
        for message in reversed([m for m in second if m.group in groups]):
            waiting = self._busy[message.group]
            if waiting is None:
                waiting = self._busy[message.group] = deque()
            waiting.appendleft(message)
        second = [m for m in second if m.group not in groups]
        self._retry(first, wait)
        if second:
            self._retry(second, wait)

    def _wake_up(self) -> None:
        """Set the one timer to the earliest retry."""
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._loop.call_at(self._retries[0][0], self._woken) if self._retries else None

    def _woken(self) -> None:
        """Offer what is due by now; the timer is set again for what is not, judged by the same reading of the clock."""
        self._wake = None
        now = self._loop.time()
        self._offer()
        later = min((due for due, _, _ in self._retries if due > now), default=None)
        if later is not None:
            self._wake = self._loop.call_at(later, self._woken)

    def _free_group(self, group: object) -> None:
        """The group's batch is done: what waited for it goes first."""
        if group is not None:
            waiting = self._busy.pop(group, None)
            if waiting:
                self._ready.extendleft(reversed(waiting))
                self._lingered = True

    # --- counting ------------------------------------------------------------------------------------------------------

    def _gone(self) -> None:
        self.pending -= 1
        if not self._lagging:
            self._load.add(-1)

    def _forgive(self, message: Message) -> None:
        message.owed.forgive()
        self._gone()

    def _lag(self) -> None:
        """Note whether this sink keeps up; one that does not must not stop the slot for the others."""
        stalled = self._in_flight > 0 and self._loop.time() - self._progressed > STALLED_SECONDS
        lagging = self._held or self.sink.status != "active" or bool(self._retries) or stalled
        if lagging != self._lagging:
            self._load.add(-self.pending if lagging else self.pending)
            self._lagging = lagging

    def look(self) -> None:
        """Called now and then: notice a receiver that does not answer."""
        if self._in_flight and not self._lagging:
            self._lag()

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
    """One request of one sink on its way."""

    __slots__ = ("_messages", "_sink")

    def __init__(self, sink: SinkDelivery, messages: list[Message]) -> None:
        self._sink = sink
        self._messages = messages

    def answered(self, status: int | None, error: str, retry_after: float | None) -> None:
        """Pass the outcome on to the sink."""
        self._sink.answered(self._messages, status, error, retry_after)


def request_head(endpoint: HttpEndpoint, sink_path: str | None) -> tuple[bytes, bytes]:
    """Return what stands before and after the content length in a request to this endpoint.

    The order is Sequin's (recorded): content-length, host, all others by name, in lower case. The sink's path is joined to the endpoint's
    URL as text, also behind a query string.
    """
    target = endpoint.path or ""
    if endpoint.query:
        target += "?" + endpoint.query
    if sink_path:
        target = target.removesuffix("/") + sink_path
    if not target.startswith("/"):
        target = "/" + target
    default_port = 443 if endpoint.scheme == "https" else 80
    host = endpoint.host if endpoint.port == default_port else f"{endpoint.host}:{endpoint.port}"
    headers = {
        "accept": "application/json",
        "accept-encoding": "gzip",
        "content-type": "application/json",
        "user-agent": USER_AGENT,
    }
    for name, value in (*endpoint.headers.items(), *endpoint.encrypted_headers.items()):
        if name.lower() not in ("content-length", "host", "transfer-encoding", "connection"):
            headers[name.lower()] = str(value)
    lines = "".join(f"{_one_line(name)}: {_one_line(value)}\r\n" for name, value in sorted(headers.items()))
    head = f"POST {quote(target, safe=_URL_CHARACTERS)} HTTP/1.1\r\ncontent-length: "
    return head.encode(), f"\r\nhost: {host}\r\n{lines}\r\n".encode()


_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~-._"


def _one_line(text: str) -> str:
    """A header must not begin another one."""
    return text.replace("\r", " ").replace("\n", " ")
