"""Waiting until a call returns an expected value. Waits with more specific errors are methods of the clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from userhooks.errors import DeliveriesMissing

T = TypeVar("T")

POLL = 0.1
"""Seconds between calls; short, so that a notebook's Stop button takes effect at once."""


def until(
    call: Callable[[], T],
    wanted: T,
    timeout: float = 20.0,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call a function until it returns `wanted`, and return that. Raises DeliveriesMissing with the last value after `timeout` seconds.

    until(lambda: len(stack.subscriptions.list()), 3)
    """
    deadline = clock() + timeout
    while (value := call()) != wanted:
        if clock() >= deadline:
            what = f"After {timeout:g} s the value is {value!r}, not {wanted!r}."
            raise DeliveriesMissing(what, "Is something slow, paused or down? Run userhooks doctor, or give it a longer timeout.")
        sleep(POLL)
    return value
