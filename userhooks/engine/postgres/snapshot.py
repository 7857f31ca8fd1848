"""What a Postgres snapshot sees. Pure.

`pg_current_snapshot()` prints `xmin:xmax:xip,…` with 64-bit transaction ids (Postgres documentation, 9.27.9); the replication stream names
transactions by their low 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_HALF = 1 << 31
_WHOLE = 1 << 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All transactions below `xmin` are seen, none from `xmax` on, and in between all but those `in_progress`."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read the text form, like `10:20:10,14,15`."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(x) for x in xip.split(",") if x))

    def unseen(self, xids: Iterable[int]) -> list[int]:
        """Return those committed transactions that are not visible; quick for many."""
        xmin = self.xmin % _WHOLE
        return [xid for xid in xids if not (xid - xmin) & _HALF and not self.sees(xid)]

    def sees(self, xid: int) -> bool:
        """Whether a committed transaction, named by the low 32 bits of its id, is visible."""
        full = self.xmax - (self.xmax - xid) % _WHOLE
        if self.xmax - full >= _HALF:
            full += _WHOLE
        if full >= self.xmax:
            return False
        return full < self.xmin or full not in self.in_progress
