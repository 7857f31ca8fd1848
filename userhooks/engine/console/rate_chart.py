"""The chart of a sink's rates in the last few minutes, as the numbers and the SVG paths that the templates show. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from userhooks.engine.delivery.sink_history import BAR_SECONDS, BARS

MINUTES = BARS * BAR_SECONDS // 60
HEIGHT = 100
"""Height of the chart in its own units; its width is the number of bars times ten."""
WIDTH = 10 * BARS
_LEAST = 3
"""Minimum height of a bar that is not empty."""


@dataclass(frozen=True, slots=True)
class RateChart:
    """The paths of the bars of delivered messages and, on top of them, of failed ones; `now` and `peak` are messages per second."""

    delivered_path: str
    failed_path: str
    delivered: int
    failed: int
    now: float
    peak: float


def rate_chart(bars: Sequence[tuple[int, int]]) -> RateChart:
    """Return the chart of (delivered, failed) pairs, oldest first; the last pair is still being counted. No pairs give an empty chart."""
    highest = max((delivered + failed for delivered, failed in bars), default=0)
    if not highest:
        return RateChart("", "", 0, 0, 0.0, 0.0)
    good, bad = [], []
    for at, (delivered, failed) in enumerate(bars):
        green, red = _height(delivered, highest), _height(failed, highest)
        left = 10 * at + 1
        if green:
            good.append(f"M{left} {HEIGHT}v{-green}h8v{green}z")
        if red:
            bad.append(f"M{left} {HEIGHT - green}v{-red}h8v{red}z")
    latest = max(delivered for delivered, _ in bars[-2:])
    return RateChart(
        "".join(good),
        "".join(bad),
        sum(delivered for delivered, _ in bars),
        sum(failed for _, failed in bars),
        latest / BAR_SECONDS,
        highest / BAR_SECONDS,
    )


def _height(count: int, highest: int) -> int:
    return max(_LEAST, round((HEIGHT - 2 * _LEAST) * count / highest)) if count else 0
