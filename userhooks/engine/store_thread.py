"""The single thread that writes to the engine's store, which is in `state_store.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class StoreThread:
    """Runs the store's methods one at a time, outside the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def write(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a method of the store and return its result; raises what the method raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def shutdown(self) -> None:
        """Wait for pending calls, then end the thread."""
        self._executor.shutdown()
