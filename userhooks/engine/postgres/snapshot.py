"""Visibility of transactions in a Postgres snapshot. No I/O.

`pg_current_snapshot()` returns `xmin:xmax:xip,…` with 64-bit transaction ids (Postgres documentation, section 9.27.9). The replication
stream identifies transactions by the low 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_HALF = 1 << 31
_WHOLE = 1 << 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot: transactions below `xmin` are visible, `xmax` and above are not, and in between all are visible except `in_progress`."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Parse the text form, such as `10:20:10,14,15`."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(x) for x in xip.split(",") if x))

    def unseen(self, xids: Iterable[int]) -> list[int]:
        """Return the committed transactions among `xids` that are not visible; fast for long inputs."""
        xmin = self.xmin % _WHOLE
        return [xid for xid in xids if not (xid - xmin) & _HALF and not self.sees(xid)]

    def sees(self, xid: int) -> bool:
        """Return whether a committed transaction is visible; `xid` is the low 32 bits of its id."""
        full = self.xmax - (self.xmax - xid) % _WHOLE
        if self.xmax - full >= _HALF:
            full += _WHOLE
        if full >= self.xmax:
            return False
        return full < self.xmin or full not in self.in_progress
