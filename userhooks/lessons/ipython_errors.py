"""What a notebook shows when a cell uses a name that no cell has made yet, or one of our calls is stopped: two lines, as for our errors."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any

_MISSING = "If a cell above makes it, run that first: Run, Run All Above Selected Cell. If not, is it spelt right?"
_STOPPED = ["KeyboardInterrupt: Stopped.", "Run the cell again, or the lesson from its first cell: that makes it new."]


def explain_in_two_lines() -> None:
    """Let IPython show a NameError of a cell, and Stop within this package, in two lines; does nothing outside of IPython."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((NameError, KeyboardInterrupt), _show)


def _show(shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None) -> None:
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    lines: list[str] = []
    if isinstance(error, NameError) and frames[-1].f_globals is shell.user_ns:  # not a name within a library
        lines = [f"NameError: {error}", _MISSING]
    elif isinstance(error, KeyboardInterrupt) and any(str(frame.f_globals.get("__name__")).startswith("userhooks.") for frame in frames):
        lines = _STOPPED
    if lines:
        error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]  # IPython asks the error how it is to be shown
    shell.showtraceback((kind, error, trace))
