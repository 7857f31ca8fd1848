"""Batched calls: calls that wait for the same lock run together, and each gets its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from userhooks.engine.api.call_batching import BatchedCalls


class Work:
    """Records the items of each batch and waits for permission to proceed; the item `bad` fails."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.may_go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: list[str]) -> Sequence[str | Exception]:
        self.turns.append(items)
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        return [KeyError(item) if item == "bad" else item.upper() for item in items]


async def begun(*calls: asyncio.Task[str]) -> None:
    """Let all tasks run until they wait."""
    for _ in range(5 + len(calls)):
        await asyncio.sleep(0)


def tasks(together: BatchedCalls[str], items: str) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(together(item)) for item in items.split()]


def test_calls_that_come_during_one_share_the_next_turn() -> None:
    async def scenario() -> None:
        work = Work()
        calls = tasks(BatchedCalls(asyncio.Lock(), work), "a b bad c")
        await begun(*calls)
        work.may_go_on.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert work.turns == [["a"], ["b", "bad", "c"]]
        assert outcomes[:2] == ["A", "B"]
        assert isinstance(outcomes[2], KeyError)
        assert outcomes[3] == "C"

    asyncio.run(scenario())


def test_whoever_holds_the_lock_otherwise_is_waited_for() -> None:
    async def scenario() -> None:
        work, lock = Work(), asyncio.Lock()
        work.may_go_on.set()
        async with lock:
            calls = tasks(BatchedCalls(lock, work), "a b c")
            await begun(*calls)
            assert work.turns == []
        assert await asyncio.gather(*calls) == ["A", "B", "C"]
        assert work.turns == [["a", "b", "c"]]

    asyncio.run(scenario())


def test_when_the_work_fails_every_call_of_that_turn_says_so_and_later_ones_are_tried() -> None:
    async def scenario() -> None:
        work, lock = Work(), asyncio.Lock()
        work.may_go_on.set()
        work.error = OSError("the disk is full")
        together = BatchedCalls(lock, work)
        async with lock:
            calls = tasks(together, "a b")
            await begun(*calls)
        assert [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)] == [OSError, OSError]
        work.error = None
        assert await together("c") == "C"

    asyncio.run(scenario())


def test_a_caller_that_goes_away_before_its_turn_asks_for_nothing_and_one_that_goes_during_it_leaves_the_others_to_another() -> None:
    async def scenario() -> None:
        work, lock = Work(), asyncio.Lock()
        together = BatchedCalls(lock, work)
        async with lock:
            first, gone, last = tasks(together, "a b c")
            await begun(first, gone, last)
            gone.cancel()
            await begun()
        await begun(first, last)
        assert work.turns == [["a", "c"]]
        first.cancel()
        work.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await last == "C"
        assert work.turns == [["a", "c"], ["c"]]

    asyncio.run(scenario())
