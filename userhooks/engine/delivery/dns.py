"""Names of hosts to addresses, in threads of their own. Which addresses may be connected to is judged in `http_client.py`.

A name server that does not answer takes a thread for half a minute, and users type many names. So a host has one lookup at a time, which
everybody who asks meanwhile shares; and hosts whose last lookup went well have threads that no other host can take.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

AT_ONCE, UNPROVEN_AT_ONCE = 8, 24
"""Lookups of hosts whose last one went well, and of all others"""
QUICK_SECONDS = 1.0
"""A lookup that took longer did not go well."""


class Lookups:
    """All lookups of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.Task[list[str]]] = {}
        self._proven: set[str] = set()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._unproven_places = asyncio.Semaphore(UNPROVEN_AT_ONCE)

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a name, or of a number in any of its forms; raises socket.gaierror and UnicodeError.

        Who waits no longer (a timeout) leaves the lookup to the others.
        """
        with suppress(socket.gaierror):
            return _resolve(host, socket.AI_NUMERICHOST)
        task = self._running.get(host)
        if task is None:
            task = self._running[host] = self._loop.create_task(self._look_up(host))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits any more
        return await asyncio.shield(task)

    async def _look_up(self, host: str) -> list[str]:
        try:
            async with self._places if host in self._proven else self._unproven_places:
                self._proven.discard(host)
                begun = self._loop.time()
                found = await self._in_a_thread(host)
                if self._loop.time() - begun < QUICK_SECONDS:
                    self._proven.add(host)
                return found
        finally:
            del self._running[host]

    def _in_a_thread(self, host: str) -> asyncio.Future[list[str]]:
        """A thread that does not keep the program from ending, as those of an executor would."""
        outcome: asyncio.Future[list[str]] = self._loop.create_future()

        def tell(found: list[str] | None, error: Exception | None) -> None:
            if outcome.cancelled():
                return
            if error is not None:
                outcome.set_exception(error)
            elif found is not None:
                outcome.set_result(found)

        def work() -> None:
            found: list[str] | None = None
            error: Exception | None = None
            try:
                found = _resolve(host)
            except Exception as exc:  # whatever it is belongs to who has asked
                error = exc
            with suppress(RuntimeError):  # the loop is closed by now
                self._loop.call_soon_threadsafe(tell, found, error)

        threading.Thread(target=work, name="lookup", daemon=True).start()
        return outcome

    def close(self) -> None:
        """Wait for no lookup any more."""
        for task in self._running.values():
            task.cancel()


def _resolve(host: str, flags: int = 0) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)]
