"""The parts of the stack with their state, for the bar at the top of the console's pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from userhooks.engine.console.html import StackPart

_CONNECT_SECONDS = 0.5
_KNOWN_SECONDS = 2.0
"""Seconds for which a part's state is remembered, since every open page asks once a second."""


class StackParts:
    """The parts beside the engine: `pages` maps the names of HTTP servers to their URLs."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages
        self._known: list[StackPart] = []
        self._known_until = 0.0
        self._lock = asyncio.Lock()

    async def states(self, database_problem: str | None) -> list[StackPart]:
        """Return Postgres, the engine, and every server, which runs if it accepts a connection."""
        async with self._lock:
            if time.monotonic() > self._known_until:
                running = await asyncio.gather(*(_accepts(url) for url in self._pages.values()))
                self._known = [
                    StackPart(name, is_running, "running" if is_running else "down", url)
                    for (name, url), is_running in zip(self._pages.items(), running, strict=True)
                ]
                self._known_until = time.monotonic() + _KNOWN_SECONDS
        postgres = StackPart("Postgres", database_problem is None, "connected" if database_problem is None else "problem")
        return [postgres, StackPart("Engine", True, "running"), *self._known]


async def _accepts(url: str) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
