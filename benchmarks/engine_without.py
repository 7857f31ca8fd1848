"""The engine without some of its guarantees, for the ladder alone: the product has no switch for any of this.

    python -m benchmarks.engine_without durability order …

Names are those of `WITHOUT`; the configuration comes on stdin as for the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from userhooks.engine import __main__ as program
from userhooks.engine.capture.confirmed_lsn import Progress, Transaction
from userhooks.engine.delivery import http_client, sink_delivery
from userhooks.engine.delivery.latency_histogram import Histogram
from userhooks.engine.state_store import StateStore


def _durability() -> None:
    """Nothing that is delivered or owed is written to disk, nor noted for it."""

    def flush(self: Any, confirmed_lsn: int, batch: Any) -> None:
        pass

    def acknowledge(self: Transaction, index: int, sink_number: int) -> None:
        self.owed -= 1

    def unsettled(self: Progress) -> Any:
        return iter(())

    StateStore.flush = flush
    Transaction.acknowledge = acknowledge
    Progress.unsettled = unsettled


def _order() -> None:
    """No message waits for an earlier one of its row, so a retry needs no book of groups."""
    sink_delivery.grouping = lambda sink: lambda change: None


def _metrics() -> None:
    """No latency is observed; the plain counters stay."""
    made = Histogram.__init__

    def init(self: Any) -> None:
        made(self)
        self.observe = lambda value: None

    Histogram.__init__ = init


def _guard() -> None:
    """No address is judged; it is asked once for each connection."""
    http_client.forbidden = lambda address, allow_private: False


WITHOUT: dict[str, Callable[[], None]] = {"durability": _durability, "order": _order, "metrics": _metrics, "guard": _guard}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        WITHOUT[name]()
    program.main()
