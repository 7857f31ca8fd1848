"""A ledger that follows the WAL while changes are committed.

`recording.py` records the changes, and a function that the caller provides judges them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from userhooks.ledger.recording import Recording
from userhooks.ledger.report import Ledger
from userhooks.shared.html_table import html_table

if TYPE_CHECKING:
    import pandas as pd


class WalLedger:
    """A comparison of every change recorded from the WAL with what the inboxes receive; created by `Lesson.ledger(wal=True)`.

        with lesson.ledger(wal=True) as ledger:
            lesson.generate(rate=100, seconds=5, mix={"insert": 8, "update": 1, "delete": 1})
        ledger.verdict()

    Each method that returns a result waits up to the ledger's `wait` seconds for expected messages, then counts those that have not arrived
    as lost. `close`, or the end of the `with` block, compares one last time and stops the recording. From then on, every method returns
    that final result. If the block ends with an exception, or the lesson is closed first, there is no result, and every method raises
    UserhooksError.
    """

    def __init__(self, recording: Recording, judge: Callable[[Recording], Ledger]) -> None:
        self._recording = recording
        self._judge = judge
        self._final: Ledger | None = None

    def result(self) -> Ledger:
        """Return the ledger as of now, or the final one after `close`."""
        if self._final is not None:
            return self._final
        self._recording.require_open()
        return self._judge(self._recording)

    @property
    def ok(self) -> bool:
        """Whether `Ledger.ok` is true as of now."""
        return self.result().ok

    def verdict(self) -> str:
        """Return the line of `Ledger.verdict` as of now."""
        return self.result().verdict()

    def problems(self, limit: int = 10) -> list[str]:
        """Return the lines of `Ledger.problems` as of now."""
        return self.result().problems(limit)

    def frame(self) -> pd.DataFrame:
        """Return every entry as a DataFrame, one row per change and sink; see `Ledger.frame`."""
        return self.result().frame()

    def lost(self) -> pd.DataFrame:
        """Return the lost entries as a DataFrame; see `Ledger.lost`."""
        return self.result().lost()

    def slowest(self, count: int = 10) -> pd.DataFrame:
        """Return the `count` entries with the highest latency as a DataFrame; see `Ledger.slowest`."""
        return self.result().slowest(count)

    def duplicated(self) -> pd.DataFrame:
        """Return the repeated deliveries as a DataFrame; see `Ledger.duplicated`."""
        return self.result().duplicated()

    def foreign(self) -> pd.DataFrame:
        """Return the messages that reached another user's inbox as a DataFrame; see `Ledger.foreign`."""
        return self.result().foreign()

    def close(self) -> None:
        """Compare one last time, and stop the recording."""
        try:
            self._final = self.result()
        finally:
            self._recording.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._recording.close()  # Stop was pressed, or a cell failed, so nobody needs a verdict.

    def __repr__(self) -> str:
        return f"WalLedger({self._state if self._final is None else self._final.verdict()})"

    def _repr_html_(self) -> str:
        # A result may have to wait for messages, but displaying an object must not wait. So there is no result while recording.
        return html_table("Ledger", {"verdict": self._state}) if self._final is None else self._final._repr_html_()

    @property
    def _state(self) -> str:
        return "no result; the recording has ended" if self._recording.closed else "still recording; verdict() returns the result so far"
