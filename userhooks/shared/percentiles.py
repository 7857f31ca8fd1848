"""Percentiles by nearest rank, for the ledger's verdict and the measurements. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value such that at least `percent`% of an ascending, non-empty sequence are at or below it."""
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]
