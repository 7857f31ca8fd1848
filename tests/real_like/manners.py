"""Timing of a real Sequin 0.14.6 in figures; nothing here depends on the engine.

Measured on two cores. Waits are multiplied by `pace`, so that tests do not take as long as a real server: a client waits for the same
events, only for a shorter time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Manners:
    """Timing figures, in seconds unless stated otherwise."""

    pace: float = 1.0

    in_flight = 4
    """Requests in flight per sink."""
    user_agent = "req/0.5.15"
    never_set = (
        "sequin_messages_buffered",
        "sequin_messages_in_delivery",
        "sequin_messages_in_redelivery",
        "sequin_delivery_saturation_percent",
        "userhooks_",
    )
    """Prefixes of the metrics for which a real server's page has no samples."""
    healthy_sinks = 15
    """Number of sinks up to which no burst makes replication restart forever."""

    def unseen(self, functions: int) -> float:
        """Return how long rows do not reach a new sink, from the response to its creation.

        It is longer after `functions` were applied, since replication restarts for each of them before it loads new sinks.
        """
        return (0.05 + min(3.0, 0.25 * max(0, functions - 1))) * self.pace

    @property
    def read_again(self) -> float:
        """Return how much of the past is read again after a restart of replication; new sinks get those rows."""
        return 5.0 * self.pace

    @property
    def retry_poll(self) -> float:
        """Return the interval between polls for due retries; an arriving message also triggers one."""
        return 10.0 * self.pace

    @property
    def quick_retry(self) -> float:
        """Return the wait between a failed request and the second one of the same attempt."""
        return 0.5 * self.pace

    @property
    def health_metric(self) -> float:
        """Return the interval between updates of `sequin_entity_health`."""
        return 60.0 * self.pace

    @property
    def backfill_counts(self) -> float:
        """Return the time from the last row of a backfill to its completion."""
        return 1.0 * self.pace

    def backfill_starts(self, rng: random.Random) -> float:
        """Return the time from the creation of a backfill to its first page."""
        return rng.uniform(3.0, 18.0) * self.pace

    def restart(self, sinks: int) -> float:
        """Return how long nothing is sent after a change to any sink."""
        return (0.5 + 0.03 * sinks) * self.pace

    def call(self, busy: bool) -> float:
        """Return the time the API takes for a call."""
        return (0.5 if busy else 0.01) * self.pace

    def row(self, sinks: int) -> float:
        """Return the time to read and filter a row: 792, 574, and 238 rows per second with 1, 10, and 30 filtered sinks."""
        return (0.0012 + 0.00002 * sinks + 0.0000027 * sinks**2) * self.pace

    def overwhelmed(self, sinks: int, burst: int) -> bool:
        """Whether replication restarts forever: it did with 60 sinks at a burst of 2,049 rows and 18 at 12,000, but not 10 at 20,000."""
        return sinks > self.healthy_sinks and sinks * burst > 120_000

    def fits(self, sinks: int) -> bool:
        """Whether an overwhelmed server recovers with this number of sinks."""
        return sinks <= self.healthy_sinks
