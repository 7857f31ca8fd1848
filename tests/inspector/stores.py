"""An inspector's request store for the duration of a test's work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from userhooks.inspector.request_store import RequestStore


def in_store(path: Path, work: Callable[[RequestStore], Awaitable[None]], **limits: Any) -> None:
    """Open the store, run `work`, and close the store."""

    async def run() -> None:
        store = RequestStore(path, **limits)
        await store.open()
        await work(store)
        await store.close()

    asyncio.run(run())
