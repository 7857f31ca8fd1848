"""Run a panel's call in the kernel's main thread, the only thread that the notebook's Stop button interrupts.

A front end may deliver a click to another thread (a subshell of the kernel), and no signal reaches that thread. The
calls are defined by the panels.
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
"""Number of times that Stop has ended a cell or a panel's call. A click is dropped if the number changes while the click waits."""


def run_stoppable(call: Callable[[], None], stopped: Callable[[], None]) -> None:
    """Make the call in the main thread, and call `stopped` if Stop ends it. Return when the call is done.

    If this is called in another thread of a kernel, it returns at once, and the call is made when the main thread is free. Stop ends
    whatever runs in the main thread and drops every call that is waiting for that thread.
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
    # Between cells, the kernel ignores the signal. During a cell with `await`, the signal only cancels that cell.
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
    """Raise KeyboardInterrupt only within the call. Outside it, nothing would catch the exception, and the kernel would exit."""
    global _stops
    while frame is not None:
        if frame.f_code is _call.__code__:
            _stops += 1
            raise KeyboardInterrupt
        frame = frame.f_back


def _after_cell(result: Any) -> None:
    """Count a cell that Stop has ended. A cell with `await` is cancelled and may have no result."""
    global _stops
    if result is None or isinstance(result.error_in_exec, KeyboardInterrupt | asyncio.CancelledError):
        _stops += 1


def _shell() -> Any:
    """Return IPython's shell, or None outside a kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None
