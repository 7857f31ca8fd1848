"""The parts of a stack as a program's page shows them: whether each one answers, asked over the network.

The supervisor tells a program where the other parts are. A program that runs alone knows only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

PROBE_SECONDS = 1.0
"""Seconds a part may take to answer before it counts as down."""

KEPT_SECONDS = 1.0
"""Seconds for which the states are reused, so that many open pages cost no more than one."""

_SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
"""A message that Postgres answers with one byte before any login, and does not log."""

AnswerState = Literal["running", "down"]


@dataclass(frozen=True, slots=True)
class PartAddress:
    """Where a part answers: `http://…` is asked for `/health`, `postgres://…` for encryption, and `https://…` must accept a connection."""

    name: str
    url: str


class StackParts:
    """The parts of a stack and their states, which are asked for at most once per KEPT_SECONDS."""

    def __init__(self, parts: Iterable[PartAddress]) -> None:
        self._parts = list(parts)
        self._states: dict[str, AnswerState] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def states(self) -> dict[str, AnswerState]:
        """Return the state of each part by its name."""
        async with self._asking:
            if time.monotonic() - self._asked_at > KEPT_SECONDS:
                answers = await asyncio.gather(*(_answers(part.url) for part in self._parts))
                self._states = {part.name: "running" if answer else "down" for part, answer in zip(self._parts, answers, strict=True)}
                self._asked_at = time.monotonic()
        return self._states


async def _answers(url: str) -> bool:
    address = urlsplit(url)
    port = address.port or {"https": 443, "postgres": 5432}.get(address.scheme, 80)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(address.hostname, port)
            try:
                if address.scheme == "postgres":
                    writer.write(_SSL_REQUEST)
                    return await reader.read(1) in (b"S", b"N")
                if address.scheme == "http":
                    writer.write(f"GET /health HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
                    return (await reader.readline()).split(b" ")[1:2] == [b"200"]
                return True
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (TimeoutError, OSError):
        return False
