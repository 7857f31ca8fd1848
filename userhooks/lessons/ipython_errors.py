"""Error messages in notebooks that say which cells to run, for errors whose cause is not in the cell."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from userhooks.errors import ConfigurationError, DatabaseUnavailable, InvalidInput, NotRunning, SequinUnreachable, UserhooksError

_MISSING = "If a cell above defines it, run that cell first: Run, Run All Above Selected Cell. Otherwise, check the spelling."
_STOPPED = ["KeyboardInterrupt: Stopped.", "Run the cell again, or run the lesson from its first cell to start over."]
_OUT_OF_ORDER = "If a cell above was skipped or run twice, choose Run, Run All Above Selected Cell, then run this one."
_NOT_BY_ORDER = (ConfigurationError, DatabaseUnavailable, InvalidInput, NotRunning, SequinUnreachable)
"""Errors that are never caused by the order in which cells ran."""


class LessonCells:
    """Records the cells that ran since a lesson started, and explains an error in one of them.

    Three kinds of error are shown as two lines: a NameError, a Stop inside this package, and every error after the lesson has ended. If
    cells ran out of order, other errors end with a sentence that says so.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._worked = Counter[str]()
        self._cell = ""
        self._problem: Callable[[], tuple[str, str] | None] = lambda: None
        shell.events.register("pre_run_cell", self._begin)
        shell.events.register("post_run_cell", self._end)
        shell.set_custom_exc((Exception, KeyboardInterrupt), self._show)

    def start(self, problem: Callable[[], tuple[str, str] | None]) -> None:
        """Start counting for a lesson. `problem` returns what ended it and what to do, or None."""
        self._worked.clear()
        self._problem = problem

    def _begin(self, info: Any) -> None:
        self._cell = str(info.raw_cell).strip()

    def _end(self, result: Any) -> None:
        if result.success and self._cell:
            self._worked[self._cell] += 1

    def _show(
        self, shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None
    ) -> None:
        lines = self._stopped_or_missing(error, trace)
        if not lines and isinstance(error, Exception):
            lines = self._ended(error) or self._out_of_order(error)
        if lines:
            error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]  # IPython calls this method to render the error
        shell.showtraceback((kind, error, trace))

    def _stopped_or_missing(self, error: BaseException, trace: TracebackType) -> list[str]:
        frames = [frame for frame, _ in traceback.walk_tb(trace)]
        if isinstance(error, NameError) and frames[-1].f_globals is self._shell.user_ns:  # not a name inside a library
            return [f"NameError: {error}", _MISSING]
        if isinstance(error, KeyboardInterrupt) and any(str(frame.f_globals.get("__name__")).startswith("userhooks.") for frame in frames):
            return _STOPPED
        return []

    def _ended(self, error: Exception) -> list[str]:
        ended = self._problem()
        if ended is None:
            return []
        what, remedy = ended
        message = error.what if isinstance(error, UserhooksError) else str(error).partition("\n")[0]
        return [f"{type(error).__name__}: {message}", remedy if message == what else f"{what} {remedy}"]

    def _out_of_order(self, error: Exception) -> list[str]:
        """Return the lines of one of this package's errors, or add a line to another error's traceback.

        Cells ran out of order if this cell worked before, if another one worked twice, or if only the lesson's first cell has run.
        """
        in_order = self._cell not in self._worked and len(self._worked) != 1 and max(self._worked.values(), default=0) <= 1
        if in_order or isinstance(error, _NOT_BY_ORDER):
            return []
        if isinstance(error, UserhooksError):
            return [f"{type(error).__name__}: {error.what}", f"{error.remedy} {_OUT_OF_ORDER}".lstrip()]
        error.add_note(_OUT_OF_ORDER)
        return []


_cells: LessonCells | None = None


def explain_errors(problem: Callable[[], tuple[str, str] | None]) -> None:
    """Explain the errors of a notebook's cells from now on; see `LessonCells`. Does nothing outside of IPython."""
    global _cells
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    _cells = _cells or LessonCells(shell)
    _cells.start(problem)
