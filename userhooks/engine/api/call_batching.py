"""Calls that wait for the same lock are carried out together by the first of them that gets it. What they do is the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchedCalls(Generic[T]):
    """`work` gets everything that has been asked for while the lock was held, and returns an outcome for each: a result, or what to raise.

    So a hundred calls at once share one wait for the disk. When `work` itself raises, every call that it was for raises that.

        remove = BatchedCalls(lock, remove_all)
        await remove("one")
    """

    def __init__(self, lock: asyncio.Lock, work: Callable[[list[str]], Awaitable[Sequence[T | Exception]]]) -> None:
        self._lock = lock
        self._work = work
        self._waiting: dict[asyncio.Future[T | Exception], str] = {}

    async def __call__(self, item: str) -> T:
        mine: asyncio.Future[T | Exception] = asyncio.get_running_loop().create_future()
        self._waiting[mine] = item
        try:
            async with self._lock:
                if not mine.done():
                    await self._take_turn(mine, item)
        finally:
            self._waiting.pop(mine, None)  # a caller that went away asks for nothing
        outcome = mine.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _take_turn(self, mine: asyncio.Future[T | Exception], item: str) -> None:
        taken = self._waiting | {mine: item}  # mine may have been in a turn that was cancelled
        self._waiting = {}
        outcomes: Sequence[T | Exception]
        try:
            outcomes = await self._work(list(taken.values()))
        except Exception as error:
            outcomes = [error] * len(taken)
        for future, outcome in zip(taken, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)
