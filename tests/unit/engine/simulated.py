"""A world without waiting for the engine's heart: a clock that jumps, a wire without sockets, a disk that is slow or full on command.

The event loop, the HTTP client and the store are the real ones; only time, bytes in transit and the thread of the disk are played.
What is random in them is drawn by whoever holds the scripts, so that a seed gives the same run again.
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
"""Rounds of the loop in a row that may be due at once; more is a busy loop"""
ROUND_SECONDS = 1e-6
"""What each round of the loop takes: a clock that stood still while something is done would leave it between two floats for ever."""


class Stuck(AssertionError):
    """The loop waits and nothing is left that could wake it, or it never waits."""


class Clock:
    """Seconds that pass only when nobody has anything to do."""

    def __init__(self) -> None:
        self.now = 1000.0


class _Jump(selectors.SelectSelector):
    """Waits for nothing: the time until the next timer is over at once."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing will ever happen again")
        self._rounds = self._rounds + 1 if timeout <= ROUND_SECONDS else 0
        if self._rounds > MOST_ROUNDS:
            raise Stuck(f"busy: {MOST_ROUNDS} rounds of the loop without any time passing")
        self._clock.now += max(0.0, timeout) + ROUND_SECONDS
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on a `Clock`. Several may follow one another on the same clock, as lives of a program do."""

    def __init__(self, clock: Clock) -> None:
        self._simulated = clock
        super().__init__(_Jump(clock))

    def time(self) -> float:
        return self._simulated.now


def run(clock: Clock, life: Coroutine[Any, Any, None]) -> None:
    """Run a program on a loop of its own; what it leaves behind ends with it."""
    loop = SimulatedLoop(clock)
    try:
        loop.run_until_complete(life)
    finally:
        while left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left))
        loop.close()


# --- the wire ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a receiver does `after` so many seconds: answers, or with `status` None hangs up; `after` None is never."""

    after: float | None
    status: int | None = 200
    retry_after: int | None = None

    @property
    def bytes(self) -> bytes:
        asked = "" if self.retry_after is None else f"retry-after: {self.retry_after}\r\n"
        return f"HTTP/1.1 {self.status} Whatever\r\n{asked}content-length: 0\r\n\r\n".encode()


class Receivers(Protocol):
    """All that is behind the wire."""

    def connecting(self, key: OriginKey) -> tuple[float, str]:
        """Return how long it takes to connect, and why it fails then (empty: it does not)."""

    def request(self, key: OriginKey, request: bytes) -> Answer:
        """Take a request."""


class Transport:
    """One connection without a socket."""

    def __init__(self, wire: Wire, key: OriginKey, connection: Connection) -> None:
        self._wire = wire
        self._key = key
        self._connection = connection
        self._open = True

    def write(self, request: bytes) -> None:
        """Hand a request over, and see to its answer."""
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
        """Close at once; the connection hears of it in the loop's next round."""
        if self._open:
            self._open = False
            self._wire.loop.call_soon(self._connection.connection_lost, None)


class _Connection(Connection):
    """The order in which a set has connections must not hang on where they are in memory."""

    __slots__ = ("_number",)

    def __init__(self, origin: Origin, number: int) -> None:
        super().__init__(origin)
        self._number = number

    def __hash__(self) -> int:
        return self._number


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Wire(HttpClient):
    """The HTTP client with connections that lead to `receivers`."""

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
    """A store on which a kill has no effect: `close` leaves it as a disk would be left. Make it in a temporary folder."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))  # SQLite keeps nothing of this name on disk
        weakref.finalize(self, self._db.close)  # Python 3.13 and newer warn of a connection that was not closed

    def close(self) -> None:
        """Keep what is kept."""


class DiskThread:
    """The one thread that uses the store: jobs one after the other, each `seconds()` long; `fails` says whether one does.

    As with a thread, a job that nobody waits for any more is done all the same. `done` is told of each.
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
        self._told = done
        self._jobs: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.dead = False

    async def write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a method of the store when it is its turn."""
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
        self._told(function, args)
        if not future.done() and not self.dead:
            future.set_result(result)

    def shutdown(self) -> None:
        """Finish all jobs."""
        while self._jobs:
            self._do(*self._jobs.popleft())
