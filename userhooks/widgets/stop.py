"""Where a panel's call runs: in the kernel's main thread, the only one that the notebook's Stop button interrupts.

A front end may deliver a click to another thread (a subshell of the kernel), which no signal reaches. What the call does is in the panels.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_stops = 0
"""How often Stop has ended a cell or a panel's call: a click that waited meanwhile is dropped."""


def run_stoppable(call: Callable[[], None], stopped: Callable[[], None]) -> None:
    """Make the call in the main thread, and call `stopped` when Stop ends it; returns when it has been made.

    In another thread of a kernel, returns at once: the call is made when the main thread is free. Stop ends what occupies the main thread
    and every call that waits for it.
    """
    shell = _shell()
    if threading.current_thread() is threading.main_thread():
        _run(call, stopped)
    elif shell is None:
        call()
    else:
        shell.events.register("post_run_cell", _after_cell)  # registered once, however often this is called
        shell.kernel.io_loop.add_callback(_take_turn, call, stopped, _stops)


def _take_turn(call: Callable[[], None], stopped: Callable[[], None], stops: int) -> None:
    if stops == _stops:
        _run(call, stopped)
    else:
        stopped()


def _run(call: Callable[[], None], stopped: Callable[[], None]) -> None:
    # Between cells the kernel ignores the signal, and during a cell with `await` it only ends the cell.
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            _call(call)
        finally:
            signal.signal(signal.SIGINT, before)
    except KeyboardInterrupt:
        stopped()


def _call(call: Callable[[], None]) -> None:
    call()


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt within the call only: outside of it nobody would catch it, and the kernel would end."""
    global _stops
    while frame is not None:
        if frame.f_code is _call.__code__:
            _stops += 1
            raise KeyboardInterrupt
        frame = frame.f_back


def _after_cell(result: Any) -> None:
    """Note that Stop ended a cell; one with `await` is cancelled and may have no result."""
    global _stops
    if result is None or isinstance(result.error_in_exec, KeyboardInterrupt | asyncio.CancelledError):
        _stops += 1


def _shell() -> Any:
    """IPython's shell in a kernel; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None
