"""Two-line error messages in notebooks: for a name that no cell has defined yet, and for a call to this package that was stopped."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any

_MISSING = "If a cell above defines it, run that cell first: Run, Run All Above Selected Cell. Otherwise, check the spelling."
_STOPPED = ["KeyboardInterrupt: Stopped.", "Run the cell again, or run the lesson from its first cell to start over."]


def explain_in_two_lines() -> None:
    """Make IPython show a cell's NameError, and a Stop inside this package, as two lines. Does nothing outside of IPython."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((NameError, KeyboardInterrupt), _show)


def _show(shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None) -> None:
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    lines: list[str] = []
    if isinstance(error, NameError) and frames[-1].f_globals is shell.user_ns:  # not a name inside a library
        lines = [f"NameError: {error}", _MISSING]
    elif isinstance(error, KeyboardInterrupt) and any(str(frame.f_globals.get("__name__")).startswith("userhooks.") for frame in frames):
        lines = _STOPPED
    if lines:
        error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]  # IPython calls this method to render the error
    shell.showtraceback((kind, error, trace))
