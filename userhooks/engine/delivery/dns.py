"""Host name lookups, each in its own thread. `http_client.py` checks which addresses may be connected to.

A name server that does not answer blocks a thread for half a minute, and users can enter many names. So each host has one lookup at a
time, which all callers share, and some threads are reserved for hosts whose last lookup succeeded quickly.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

AT_ONCE, UNPROVEN_AT_ONCE = 8, 24
"""Concurrent lookups of hosts whose last lookup succeeded quickly, and of all other hosts."""
QUICK_SECONDS = 1.0
"""Seconds within which a lookup counts as quick."""


class Lookups:
    """All lookups of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.Task[list[str]]] = {}
        self._proven: set[str] = set()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._unproven_places = asyncio.Semaphore(UNPROVEN_AT_ONCE)

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a host name or of a numeric address in any form; raises socket.gaierror and UnicodeError.

        A caller that times out does not cancel the lookup for the others.
        """
        with suppress(socket.gaierror):
            return _resolve(host, socket.AI_NUMERICHOST)
        task = self._running.get(host)
        if task is None:
            task = self._running[host] = self._loop.create_task(self._look_up(host))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # mark an exception as seen even if no caller is left
        return await asyncio.shield(task)

    async def _look_up(self, host: str) -> list[str]:
        try:
            async with self._places if host in self._proven else self._unproven_places:
                self._proven.discard(host)
                started = self._loop.time()
                addresses = await self._in_a_thread(host)
                if self._loop.time() - started < QUICK_SECONDS:
                    self._proven.add(host)
                return addresses
        finally:
            del self._running[host]

    def _in_a_thread(self, host: str) -> asyncio.Future[list[str]]:
        """Run a lookup in a daemon thread, which, unlike an executor's threads, does not keep the program from exiting."""
        outcome: asyncio.Future[list[str]] = self._loop.create_future()

        def finish(addresses: list[str] | None, error: Exception | None) -> None:
            if outcome.cancelled():
                return
            if error is not None:
                outcome.set_exception(error)
            elif addresses is not None:
                outcome.set_result(addresses)

        def work() -> None:
            addresses: list[str] | None = None
            error: Exception | None = None
            try:
                addresses = _resolve(host)
            except Exception as exc:  # passed on to the caller
                error = exc
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(finish, addresses, error)

        threading.Thread(target=work, name="lookup", daemon=True).start()
        return outcome

    def close(self) -> None:
        """Cancel all lookups."""
        for task in self._running.values():
            task.cancel()


def _resolve(host: str, flags: int = 0) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)]
