"""Plots of measurements (`ledger_plots.py`) and explanatory diagrams (`diagrams.py`), in one look (`figure_style.py`)."""

from userhooks.plots import diagrams
from userhooks.plots.ledger_plots import (
    answer_times,
    arrivals,
    backlog,
    by_user,
    cost_per_change,
    delivery_rate,
    latency_distribution,
    latency_over_time,
    retries,
    watched,
)

__all__ = [
    "answer_times",
    "arrivals",
    "backlog",
    "by_user",
    "cost_per_change",
    "delivery_rate",
    "diagrams",
    "latency_distribution",
    "latency_over_time",
    "retries",
    "watched",
]
