"""A simulated environment for the engine: a clock that jumps, a wire without sockets, a disk that is slow or full on demand.

The event loop, the HTTP client, and the store are real; only time, transport, and the disk thread are simulated. Callers provide all
random choices, so that a seed reproduces a run.
"""

from __future__ import annotations

import asyncio
import selectors
import sqlite3
import ssl
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from userhooks.engine.delivery.http_client import ConnectError, Connection, HttpClient, Origin, OriginKey
from userhooks.engine.state_store import StateStore

MOST_ROUNDS = 5_000
"""Most consecutive iterations of the loop without waiting; more means a busy loop."""
ROUND_SECONDS = 1e-6
"""Seconds per iteration of the loop. With a clock that stood still, a timer could lie between two floats and never become due."""


class Stuck(AssertionError):
    """The loop waits although nothing can wake it, or it never waits."""


class Clock:
    """A clock that advances only when the event loop waits."""

    def __init__(self) -> None:
        self.now = 1000.0


class _Jump(selectors.SelectSelector):
    """A selector that jumps to the next timer instead of waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("the loop waits, but nothing can wake it")
        self._rounds = self._rounds + 1 if timeout <= ROUND_SECONDS else 0
        if self._rounds > MOST_ROUNDS:
            raise Stuck(f"busy loop: {MOST_ROUNDS} iterations without waiting")
        self._clock.now += max(0.0, timeout) + ROUND_SECONDS
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on a `Clock`. Several loops can use the same clock in turn, like successive runs of a program."""

    def __init__(self, clock: Clock) -> None:
        self._simulated = clock
        super().__init__(_Jump(clock))

    def time(self) -> float:
        return self._simulated.now


def run(clock: Clock, life: Coroutine[Any, Any, None]) -> None:
    """Run a program on a new loop, then cancel the tasks that it left running."""
    loop = SimulatedLoop(clock)
    try:
        loop.run_until_complete(life)
    finally:
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()


# --- the wire ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A receiver's response `after` a number of seconds (None: never); with `status` None, the receiver closes the connection."""

    after: float | None
    status: int | None = 200
    retry_after: int | None = None

    @property
    def bytes(self) -> bytes:
        header = "" if self.retry_after is None else f"retry-after: {self.retry_after}\r\n"
        return f"HTTP/1.1 {self.status} Whatever\r\n{header}content-length: 0\r\n\r\n".encode()


class Receivers(Protocol):
    """The receivers at the other end of the wire."""

    def connecting(self, key: OriginKey) -> tuple[float, str]:
        """Return the seconds that connecting takes, and its error (empty on success)."""

    def request(self, key: OriginKey, request: bytes) -> Answer:
        """Return the response to a request."""


class Transport:
    """A connection's transport without a socket."""

    def __init__(self, wire: Wire, key: OriginKey, connection: Connection) -> None:
        self._wire = wire
        self._key = key
        self._connection = connection
        self._open = True

    def write(self, request: bytes) -> None:
        """Pass a request to the receivers, and schedule the response."""
        answer = self._wire.receivers.request(self._key, request)
        if answer.after is not None:
            self._wire.loop.call_later(answer.after, self._answer, answer)

    def _answer(self, answer: Answer) -> None:
        if not self._open:
            return
        if answer.status is None:
            self._open = False
            self._connection.connection_lost(ConnectionResetError())
        else:
            self._connection.data_received(answer.bytes)

    def abort(self) -> None:
        """Close at once; the connection is notified in the loop's next iteration."""
        if self._open:
            self._open = False
            self._wire.loop.call_soon(self._connection.connection_lost, None)


class _Connection(Connection):
    """A connection with a deterministic hash, so that the order of a set does not depend on memory addresses."""

    __slots__ = ("_number",)

    def __init__(self, origin: Origin, number: int) -> None:
        super().__init__(origin)
        self._number = number

    def __hash__(self) -> int:
        return self._number


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Wire(HttpClient):
    """The HTTP client with simulated connections to `receivers`."""

    def __init__(self, receivers: Receivers, *, timeout: float, places: int) -> None:
        super().__init__(allow_private=True, timeout=timeout, tls=_NO_TLS, places=places)
        self.receivers = receivers
        self._made = 0

    async def connect(self, origin: Origin) -> Connection:
        seconds, error = self.receivers.connecting(origin.key)
        await asyncio.sleep(seconds)
        if error:
            raise ConnectError(error)
        self._made += 1
        connection = _Connection(origin, self._made)
        connection.connection_made(Transport(self, origin.key, connection))
        return connection


# --- the disk ------------------------------------------------------------------------------------------------------------


class MemoryStore(StateStore):
    """A store in memory that survives `close`, like a file on disk. Create it in a temporary folder."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))  # SQLite creates no database file for this name
        weakref.finalize(self, self._db.close)  # Python 3.13 and newer warn about unclosed connections

    def close(self) -> None:
        """Do nothing, so that the contents survive."""


class DiskThread:
    """A simulated store thread: runs one job at a time, each taking `seconds()`; `fails()` decides whether a job fails.

    As in a real thread, a job runs even if its caller was cancelled. `done` is called after each successful job.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        seconds: Callable[[], float],
        fails: Callable[[], bool],
        done: Callable[[Callable[..., Any], tuple[Any, ...]], None],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._fails = fails
        self._on_done = done
        self._jobs: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.dead = False

    async def write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Queue a method of the store, and return its result."""
        if kwargs:
            function = partial(function, **kwargs)
        if self.dead:
            raise asyncio.CancelledError
        future = self._loop.create_future()
        self._jobs.append((future, function, args))
        if len(self._jobs) == 1:
            self._loop.call_later(self._seconds(), self._work)
        return await future

    def _work(self) -> None:
        if self._jobs:
            self._do(*self._jobs[0])
            self._jobs.popleft()
        if self._jobs:
            self._loop.call_later(self._seconds(), self._work)

    def _do(self, future: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.dead:
            return
        if self._fails():
            if not future.done():
                future.set_exception(sqlite3.OperationalError("database or disk is full"))
            return
        try:
            result = function(*args)
        except sqlite3.Error as exc:
            future.set_exception(exc)
            return
        self._on_done(function, args)
        if not future.done() and not self.dead:
            future.set_result(result)

    def shutdown(self) -> None:
        """Run all queued jobs."""
        while self._jobs:
            self._do(*self._jobs.popleft())
