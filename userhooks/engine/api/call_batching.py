"""Batching of calls that wait for the same lock: the first call to acquire it does the work of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchedCalls(Generic[T]):
    """A function whose concurrent calls are batched, so that a hundred of them wait for the disk only once.

    `work` receives the items of all calls that arrived while the lock was taken. It returns an outcome for each: a result, or an exception
    to raise. If `work` itself raises, each call in the batch raises that exception.

        remove = BatchedCalls(lock, remove_all)
        await remove("one")
    """

    def __init__(self, lock: asyncio.Lock, work: Callable[[list[str]], Awaitable[Sequence[T | Exception]]]) -> None:
        self._lock = lock
        self._work = work
        self._waiting: dict[asyncio.Future[T | Exception], str] = {}

    async def __call__(self, item: str) -> T:
        future: asyncio.Future[T | Exception] = asyncio.get_running_loop().create_future()
        self._waiting[future] = item
        try:
            async with self._lock:
                if not future.done():
                    await self._run_batch(future, item)
        finally:
            self._waiting.pop(future, None)  # a cancelled call must not be part of the next batch
        outcome = future.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _run_batch(self, future: asyncio.Future[T | Exception], item: str) -> None:
        batch = self._waiting | {future: item}  # a batch that was cancelled may have removed this call from `_waiting`
        self._waiting = {}
        outcomes: Sequence[T | Exception]
        try:
            outcomes = await self._work(list(batch.values()))
        except Exception as error:
            outcomes = [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.done():
                waiting.set_result(outcome)
