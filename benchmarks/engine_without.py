"""The engine without some of its guarantees, only for `ladder.py`: the product has no switch for any of this.

    python -m benchmarks.engine_without durability order …

The names are the keys of `WITHOUT`. As with the engine, the configuration is read from stdin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from userhooks.engine import __main__ as program
from userhooks.engine.capture.confirmable_lsn import Progress, Transaction
from userhooks.engine.delivery import http_client, sink_delivery
from userhooks.engine.delivery.latency_histogram import Histogram
from userhooks.engine.state_store import StateStore


def _durability() -> None:
    """Neither write deliveries and pending messages to disk, nor keep track of them for that purpose."""

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
    """Let no message wait for an earlier one of its row, so that retries need no groups."""
    sink_delivery.grouping = lambda sink: lambda change: None


def _metrics() -> None:
    """Record no latencies; the plain counters are still updated."""
    original = Histogram.__init__

    def init(self: Any) -> None:
        original(self)
        self.observe = lambda value: None

    Histogram.__init__ = init


def _guard() -> None:
    """Allow every address; the engine checks it once per connection."""
    http_client.forbidden = lambda address, allow_private: False


WITHOUT: dict[str, Callable[[], None]] = {"durability": _durability, "order": _order, "metrics": _metrics, "guard": _guard}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        WITHOUT[name]()
    program.main()
