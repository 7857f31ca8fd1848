"""What follows a failed attempt: try again, try again in halves, or give up. Pure; timers are in `sink_delivery.py`.

The schedule is Sequin's (sequin v0.14.6, lib/sequin/time.ex and consumers.ex): after failure k about 2^(k-1) s, from the tenth on 600 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

_HTTP_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""The three forms of RFC 9110, 5.6.7; all are in GMT."""


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Waits in seconds: `base` after the first failure, doubled after each further one; from failure `last` on, exactly `cap`.

    Each doubled wait is spread by a factor of 1 ± `spread`.
    """

    base: float = 1.0
    cap: float = 600.0
    last: int = 10
    spread: float = 0.15

    def wait(self, failures: int, rng: float) -> float:
        """Return the seconds to wait after `failures` (>= 1) failures in a row; `rng` in [0, 1) is the random part."""
        if failures >= self.last:
            return self.cap
        spread = 1 - self.spread + 2 * self.spread * rng
        return min(self.cap, self.base * 2.0 ** (max(failures, 1) - 1) * spread)


@dataclass(frozen=True, slots=True)
class Again:
    """Send the same messages again after `wait` seconds."""

    wait: float


@dataclass(frozen=True, slots=True)
class Halve:
    """Send the first and the second half of the batch on their own after `wait` seconds, so that only the offending message's group waits
    on."""

    wait: float


@dataclass(frozen=True, slots=True)
class Discard:
    """All attempts are used up."""


def after_failure(
    schedule: RetrySchedule, *, size: int, attempts: int, max_attempts: int | None, retry_after: float | None, rng: float
) -> Again | Halve | Discard:
    """Decide what follows the failed attempt number `attempts` of a batch of `size` messages.

    `max_attempts` counts attempts in total (Sequin's `max_retry_count`), None is for ever; those in a batch that failed are not counted,
    since they may be another message's fault. `retry_after` is what the receiver asked for in seconds; it can lengthen the wait up to the
    schedule's cap, never shorten it. A batch is split before any of it is given up, and its halves do not wait longer than a first failure
    would.
    """
    if size > 1:
        return Halve(_at_least(schedule.wait(1, rng), retry_after, schedule.cap))
    if max_attempts is not None and attempts >= max_attempts:
        return Discard()
    return Again(_at_least(schedule.wait(attempts, rng), retry_after, schedule.cap))


def retry_after_seconds(value: bytes, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for at the time `now` (Unix time); None when it is malformed.

    Both forms count: a number of seconds, and an HTTP date (RFC 9110, 10.2.3), which asks for nothing when it has passed.
    """
    value = value.strip(b" \t")
    if value.isdigit():
        return float(value)
    for form in _HTTP_DATES:
        try:
            at = datetime.strptime(value.decode(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return max(0.0, at.timestamp() - now)
    return None


def _at_least(wait: float, asked: float | None, cap: float) -> float:
    return wait if asked is None else max(wait, min(asked, cap))
