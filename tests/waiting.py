"""Waiting by polling until a deadline, which is the only way in which tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within: float = 10.0, every: float = 0.02, what: str = "") -> T:
    """Poll `check` until it returns a truthy value, and return that.

    Raises AssertionError with the last value after `within` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or check}; last value: {value!r}")
        time.sleep(every)
