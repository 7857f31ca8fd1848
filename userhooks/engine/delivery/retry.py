"""Retry decisions: whether to retry, split, or discard a failed batch, and how long to wait. Pure; timers are in `sink_delivery.py`.

The schedule is Sequin's (sequin v0.14.6, lib/sequin/time.ex and consumers.ex): about 2^(k-1) s after failure k, and 600 s after the
tenth and all later failures.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

_HTTP_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""The three date formats of RFC 9110, 5.6.7, all in GMT."""


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """The backoff schedule in seconds: `base` after the first failure, doubled after each further one, and `cap` from failure `last` on.

    Waits before that are multiplied by a random factor of 1 ± `spread`.
    """

    base: float = 1.0
    cap: float = 600.0
    last: int = 10
    spread: float = 0.15

    def wait(self, failures: int, rng: float) -> float:
        """Return the seconds to wait after `failures` (>= 1) failures in a row; `rng` is a random number in [0, 1)."""
        if failures >= self.last:
            return self.cap
        spread = 1 - self.spread + 2 * self.spread * rng
        return min(self.cap, self.base * 2.0 ** (max(failures, 1) - 1) * spread)


@dataclass(frozen=True, slots=True)
class Again:
    """Retry the same messages after `wait` seconds."""

    wait: float


@dataclass(frozen=True, slots=True)
class Halve:
    """Retry each half of the batch separately after `wait` seconds, to isolate the message that fails."""

    wait: float


@dataclass(frozen=True, slots=True)
class Discard:
    """Discard the message, since it has no attempts left."""


def after_failure(
    schedule: RetrySchedule, *, size: int, attempts: int, max_attempts: int | None, retry_after: float | None, rng: float
) -> Again | Halve | Discard:
    """Decide what to do after a failed attempt to deliver a batch of `size` messages.

    `attempts` is the number of attempts so far, and `max_attempts` the maximum (Sequin's `max_retry_count`; None means no limit). Failed
    attempts in a batch do not count, since another message may be at fault. `retry_after` is the wait in seconds that the receiver asked
    for; it can lengthen the wait up to the schedule's cap, but never shorten it. A batch of several messages is always split, never
    discarded, and its halves wait as after a first failure.
    """
    if size > 1:
        return Halve(_at_least(schedule.wait(1, rng), retry_after, schedule.cap))
    if max_attempts is not None and attempts >= max_attempts:
        return Discard()
    return Again(_at_least(schedule.wait(attempts, rng), retry_after, schedule.cap))


def retry_after_seconds(value: bytes, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for at time `now` (Unix time); None if it is malformed.

    The header is a number of seconds or an HTTP date (RFC 9110, 10.2.3). A date in the past gives 0.
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


def _at_least(wait: float, requested: float | None, cap: float) -> float:
    return wait if requested is None else max(wait, min(requested, cap))
