"""A ledger that goes on while things happen; how it judges is given to it, and `recording.py` tells it what committed."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from userhooks.ledger.recording import Recording
from userhooks.ledger.report import Ledger

if TYPE_CHECKING:
    import pandas as pd


class WalLedger:
    """Every change from now on, as the WAL has it, held against what the inboxes receive; made by `Lesson.ledger(wal=True)`.

        with lesson.ledger(wal=True) as ledger:
            lesson.generate(rate=100, seconds=5, mix={"insert": 8, "update": 1, "delete": 1})
        ledger.verdict()

    Each call gives what is owed and has not come the ledger's `wait` seconds more, then calls it lost. `close`, or the end of the `with`,
    looks for the last time and ends the recording; afterwards every call tells what was found then.
    """

    def __init__(self, recording: Recording, judge: Callable[[Recording], Ledger]) -> None:
        self._recording = recording
        self._judge = judge
        self._final: Ledger | None = None

    def look(self) -> Ledger:
        """Return the ledger as of now, or the final one once there is one."""
        return self._judge(self._recording) if self._final is None else self._final

    @property
    def ok(self) -> bool:
        """As `Ledger.ok`."""
        return self.look().ok

    def verdict(self) -> str:
        """As `Ledger.verdict`."""
        return self.look().verdict()

    def problems(self, limit: int = 10) -> list[str]:
        """As `Ledger.problems`."""
        return self.look().problems(limit)

    def frame(self) -> pd.DataFrame:
        """As `Ledger.frame`: a line for each change and sink."""
        return self.look().frame()

    def lost(self) -> pd.DataFrame:
        """As `Ledger.lost`."""
        return self.look().lost()

    def slowest(self, count: int = 10) -> pd.DataFrame:
        """As `Ledger.slowest`."""
        return self.look().slowest(count)

    def duplicated(self) -> pd.DataFrame:
        """As `Ledger.duplicated`."""
        return self.look().duplicated()

    def foreign(self) -> pd.DataFrame:
        """As `Ledger.foreign`."""
        return self.look().foreign()

    def close(self) -> None:
        """Look for the last time, and record no more."""
        try:
            self._final = self.look()
        finally:
            self._recording.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._recording.close()  # Stop was pressed, or a cell failed: nobody waits for a verdict

    def __repr__(self) -> str:
        return "WalLedger(recording)" if self._final is None else f"WalLedger({self._final.verdict()})"
