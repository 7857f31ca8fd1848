"""The recent messages of a sink: its latest attempts, grouped by message. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from userhooks.engine.delivery.sink_history import KEPT, LoggedAttempt
from userhooks.engine.message_format import SinkForm, render


@dataclass(frozen=True, slots=True)
class RecentMessage:
    """A message and its known attempts, newest first. `id` is its idempotency key.

    `attempts` counts all attempts of the message, including those that are no longer known.
    """

    id: str
    known: Sequence[LoggedAttempt]

    @property
    def last(self) -> LoggedAttempt:
        """The latest attempt."""
        return self.known[0]

    @property
    def attempts(self) -> int:
        """Number of attempts, including those that are no longer known."""
        return max(len(self.known), *(attempt.attempts for attempt in self.known))


def recent_messages(attempts: Iterable[LoggedAttempt]) -> list[RecentMessage]:
    """Group attempts, which are sorted newest first, by message; return at most `KEPT` messages, in the order of their last attempts."""
    of_message: dict[str, list[LoggedAttempt]] = {}
    for attempt in attempts:
        of_message.setdefault(attempt.outline.idempotency_key, []).append(attempt)
    return [RecentMessage(key, known) for key, known in list(of_message.items())[:KEPT]]


def body(message: RecentMessage, form: SinkForm, *, batch: bool) -> str | None:
    """Return a message as a request's body, as the sink's current settings render it; None if it was too large to be kept.

    Raises what a transform raises.
    """
    change = message.last.change
    if change is None:
        return None
    rendered = render(change, form)
    return (b'{"data":[%b]}' % rendered if batch else rendered).decode(errors="replace")
