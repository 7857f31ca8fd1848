"""Percentiles by nearest rank, as the ledger's verdict and the measurements give them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """Return the least value of an ascending, non-empty sequence that `percent` % of the values do not exceed."""
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]
