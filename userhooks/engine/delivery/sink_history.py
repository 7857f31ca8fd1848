"""What the console shows of a sink's past: its latest attempts, and its rates of the last minutes. Pure: the caller measures the time.

Deliveries append to it, and housekeeping samples the counters for the rates. A sink without traffic has no history.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from userhooks.engine.change import Change, ChangeAction
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.message_format import METADATA
from userhooks.engine.postgres.pgoutput import DecodeError

KEPT, KEPT_BRIEFLY = 50, 5
"""Number of delivered messages that a sink keeps, and the same number of failed attempts; a long and a short history."""
LONG_HISTORIES = 200
"""Number of sinks with a long history from their first message on. Others keep less, since 10,000 busy sinks would need 250 MB."""
OPENED = 100
"""Number of other sinks with a long history: those whose pages were opened last."""
KEPT_BYTES = 8_000
"""Size in bytes above which only the outline of a change is kept, so that its message has no body to show and cannot be redelivered."""
BARS, BAR_SECONDS = 60, 5
"""Number of bars in the chart of a sink's rates, and the seconds that each covers."""

_Parts: TypeAlias = tuple[Any, ...]


class Outline(NamedTuple):
    """What identifies a change: its table, primary key as text, action, commit time in microseconds since 1970, and size in bytes."""

    idempotency_key: str
    table: str
    key: str
    action: ChangeAction
    commit_us: int
    size: int

    @classmethod
    def of(cls, change: Change) -> Outline:
        """Return the outline of a change; the key of a malformed row is empty."""
        shape = change.shape
        try:
            key = ":".join(METADATA["record_pks"](change))
        except DecodeError:
            key = ""
        return cls(METADATA["idempotency_key"](change), f"{shape.schema}.{shape.name}", key, change.action, change.commit_us, change.size)


class LoggedAttempt(NamedTuple):
    """One message in one attempt.

    `at` is the time of the outcome: loop time in a `SinkHistory`, Unix time from `SinkDelivery.attempts`. `took` are the seconds since the
    request was sent, `answer` is an HTTP status or an error, and `together` counts the messages in the request. `attempts` counts the
    attempts of this message until then, without failed attempts of a batch.
    """

    at: float
    took: float
    answer: int | str
    together: int
    attempts: int
    outline: Outline
    change: Change | None

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver accepted the message."""
        return isinstance(self.answer, int) and 200 <= self.answer < 300


class SinkHistory:
    """The history of one sink.

    It keeps the parts of changes, because a change also holds decoded rows and rendered JSON, which take three times the memory.
    """

    __slots__ = ("_bars", "_delivered", "_failed", "_newest_bar", "_sampled")

    def __init__(self, size: int) -> None:
        self._delivered: deque[_Parts] = deque(maxlen=size)
        self._failed: deque[_Parts] = deque(maxlen=size)
        self._bars: array[int] | None = None
        self._newest_bar = 0
        self._sampled = (0, 0)

    def resize(self, size: int) -> None:
        """Keep up to `size` messages and failed attempts from now on."""
        if size != self._delivered.maxlen:
            self._delivered = deque(self._delivered, size)
            self._failed = deque(self._failed, size)

    # --- attempts ------------------------------------------------------------------------------------------------------

    def delivered(self, messages: Sequence[PendingMessage], at: float, took: float, status: int) -> None:
        """Record a request that was accepted."""
        self._record(self._delivered, messages, at, took, status)

    def failed(self, messages: Sequence[PendingMessage], at: float, took: float, answer: int | str) -> None:
        """Record a failed request, or a message that could not be sent."""
        self._record(self._failed, messages, at, took, answer)

    def _record(self, records: deque[_Parts], messages: Sequence[PendingMessage], at: float, took: float, answer: int | str) -> None:
        together = len(messages)
        for message in messages if together <= KEPT_BRIEFLY else messages[-(records.maxlen or 0) :]:
            change = message.change
            if change.size > KEPT_BYTES:
                records.append((at, took, answer, together, message.attempts, Outline.of(change)))
            elif change.backfill_id is not None:
                records.append((at, took, answer, together, message.attempts, change))
            else:
                records.append(
                    (
                        at,
                        took,
                        answer,
                        together,
                        message.attempts,
                        change.shape,
                        change._event,
                        change.commit_lsn,
                        change.commit_idx,
                        change.commit_us,
                        change.annotations,
                    )
                )

    def attempts(self) -> list[LoggedAttempt]:
        """Return the recorded attempts, newest first."""
        found = []
        for at, took, answer, together, before, *parts in (*self._delivered, *self._failed):
            change = parts[0] if len(parts) == 1 else Change(*parts)
            outline, kept = (change, None) if isinstance(change, Outline) else (Outline.of(change), change)
            found.append(LoggedAttempt(at, took, answer, together, before + 1, outline, kept))
        found.reverse()  # attempts with the same time are sorted by the order in which they were recorded
        found.sort(key=lambda attempt: -attempt.at)
        return found

    # --- rates ---------------------------------------------------------------------------------------------------------

    def start(self, delivered: int, failed: int) -> None:
        """Set the counters from which rates are counted: those of earlier runs."""
        self._sampled = (delivered, failed)

    def sample(self, now: float, delivered: int, failed: int) -> bool:
        """Add what was counted since the last sample to the bar of this time; return whether anything was."""
        if (delivered, failed) == self._sampled:
            return False
        bars = self._bars
        if bars is None:
            bars = self._bars = array("L", bytes(array("L").itemsize * 2 * BARS))
        bar = int(now // BAR_SECONDS)
        for expired in range(max(self._newest_bar + 1, bar - BARS + 1), bar + 1):
            bars[2 * (expired % BARS)] = bars[2 * (expired % BARS) + 1] = 0
        self._newest_bar = bar
        bars[2 * (bar % BARS)] += delivered - self._sampled[0]
        bars[2 * (bar % BARS) + 1] += failed - self._sampled[1]
        self._sampled = (delivered, failed)
        return True

    def bars(self, now: float, delivered: int, failed: int) -> list[tuple[int, int]]:
        """Return the messages delivered and failed in each of the last bars, oldest first, including those since the last sample.

        The last bar is not over yet.
        """
        last = int(now // BAR_SECONDS)
        bars, found = self._bars, []
        for bar in range(last - BARS + 1, last + 1):
            known = bars is not None and self._newest_bar - BARS < bar <= self._newest_bar
            at = 2 * (bar % BARS)
            found.append((bars[at], bars[at + 1]) if bars is not None and known else (0, 0))
        found[-1] = (found[-1][0] + delivered - self._sampled[0], found[-1][1] + failed - self._sampled[1])
        return found

    def is_active(self, now: float, delivered: int, failed: int) -> bool:
        """Return whether there was an attempt within the time of the bars."""
        return (delivered, failed) != self._sampled or (self._bars is not None and int(now // BAR_SECONDS) - self._newest_bar < BARS)


class Histories:
    """The histories of all sinks with traffic, by sink id."""

    def __init__(self) -> None:
        self._all: dict[str, SinkHistory] = {}
        self._opened: dict[str, None] = {}

    def of(self, sink_id: str) -> SinkHistory:
        """Return a sink's history, the same one until `forget`. Call at its first message, so that idle sinks use no memory."""
        history = self._all.get(sink_id)
        if history is None:
            size = KEPT if len(self._all) < LONG_HISTORIES or sink_id in self._opened else KEPT_BRIEFLY
            history = self._all[sink_id] = SinkHistory(size)
        return history

    def opened(self, sink_id: str) -> None:
        """Keep a long history of a sink from now on, because somebody is looking at it."""
        self._opened.pop(sink_id, None)
        self._opened[sink_id] = None
        if (history := self._all.get(sink_id)) is not None:
            history.resize(KEPT)
        if len(self._opened) > OPENED:
            oldest = next(iter(self._opened))
            del self._opened[oldest]
            if (history := self._all.get(oldest)) is not None and len(self._all) > LONG_HISTORIES:
                history.resize(KEPT_BRIEFLY)

    def forget(self, sink_id: str) -> None:
        """Drop the history of a deleted sink."""
        self._all.pop(sink_id, None)
        self._opened.pop(sink_id, None)
