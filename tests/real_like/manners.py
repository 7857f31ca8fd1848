"""How a real Sequin 0.14.6 behaves in time, in figures; nothing of the engine is here.

Measured on two cores. Waits are multiplied by `pace`, so that tests need not wait as long as a reader of a real server does: what a client
has to wait for stays the same, only how long differs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Manners:
    """The figures; seconds unless said otherwise."""

    pace: float = 1.0

    in_flight = 4
    """Requests under way for each sink."""
    user_agent = "req/0.5.15"
    never_set = (
        "sequin_messages_buffered",
        "sequin_messages_in_delivery",
        "sequin_messages_in_redelivery",
        "sequin_delivery_saturation_percent",
        "userhooks_",
    )
    """Series that the metrics page of a real server has no sample of, by the beginnings of their names."""
    healthy_sinks = 15
    """Sinks up to which a burst never makes replication restart again and again."""

    def unseen(self, functions: int) -> float:
        """After a sink's creation was answered, rows committed within this time do not reach it; longer when `functions` were applied just
        before, since sinks are loaded when replication has restarted for each.
        """
        return (0.05 + min(3.0, 0.25 * max(0, functions - 1))) * self.pace

    @property
    def read_again(self) -> float:
        """A restart of replication reads this much of the past again; sinks that are new then get those rows."""
        return 5.0 * self.pace

    @property
    def look(self) -> float:
        """From one look at due retries to the next; an arrival makes a sink look, too."""
        return 10.0 * self.pace

    @property
    def quick_retry(self) -> float:
        """From a failed request to the second one of the same attempt."""
        return 0.5 * self.pace

    @property
    def health_metric(self) -> float:
        """From one refreshing of `sequin_entity_health` to the next."""
        return 60.0 * self.pace

    @property
    def backfill_counts(self) -> float:
        """From the last row of a backfill to its completion."""
        return 1.0 * self.pace

    def backfill_starts(self, rng: random.Random) -> float:
        """From the creation of a backfill to its first page."""
        return rng.uniform(3.0, 18.0) * self.pace

    def restart(self, sinks: int) -> float:
        """How long nobody is sent anything after a change to any sink."""
        return (0.5 + 0.03 * sinks) * self.pace

    def call(self, busy: bool) -> float:
        """How long the API takes for one call."""
        return (0.5 if busy else 0.01) * self.pace

    def row(self, sinks: int) -> float:
        """How long one row takes to be read and filtered: 792, 574 and 238 rows a second with 1, 10 and 30 filtered sinks."""
        return (0.0012 + 0.00002 * sinks + 0.0000027 * sinks**2) * self.pace

    def overwhelmed(self, sinks: int, burst: int) -> bool:
        """Whether replication restarts for ever: 60 sinks did at 2,049 rows in one go, 18 at 12,000; 10 sinks took 20,000."""
        return sinks > self.healthy_sinks and sinks * burst > 120_000

    def fits(self, sinks: int) -> bool:
        """Whether an overwhelmed server recovers once it has no more sinks than this."""
        return sinks <= self.healthy_sinks
