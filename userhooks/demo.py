"""The demo that `userhooks demo` runs between starting and stopping the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userhooks.ledger import Ledger
from userhooks.lessons.lesson import USERS, Lesson

if TYPE_CHECKING:
    from userhooks.stack.stack import Stack

_WAIT_SECONDS = 60.0
_SLOWEST_SEQUIN = 500
"""Messages per second that even a busy Sequin server delivers. A large run waits longer accordingly."""


def run(stack: Stack, rate: float = 100, seconds: float = 10) -> bool:
    """Subscribe three users to inboxes, generate rows, wait, backfill each user, wait, and print the ledger's verdict.

    Return whether every expected message arrived once, in order, and at the right user only. If not, the affected rows are printed, and the
    users, subscriptions, rows, and inboxes stay until the next demo; otherwise they are removed.
    """
    lesson = stack.lesson("demo")
    verdict: Ledger | None = None
    try:
        verdict = _run(lesson, rate, seconds)
    finally:
        if verdict is None or verdict.ok:
            lesson.close()
    for problem in verdict.problems():
        print(problem)
    if not verdict.ok:
        print("See the inboxes: " + ", ".join(f"{user} {lesson.inbox(user).page}" for user in USERS))
    print(verdict.verdict())
    return verdict.ok


def _run(lesson: Lesson, rate: float, seconds: float) -> Ledger:
    for user in USERS:
        subscription = lesson.subscribe(user, url=lesson.inbox(user).url)
        print(f"Subscribed {user} (user {subscription.user_id}) to an inbox: sink {subscription.sink_name}", flush=True)
    generated = lesson.generate(rate=rate, seconds=seconds)
    print(generated.summary(), flush=True)
    seconds_to_wait = _WAIT_SECONDS + generated.changes / _SLOWEST_SEQUIN
    live = lesson.ledger(wait=seconds_to_wait)
    print(f"Live: {live.verdict()}", flush=True)
    handles = [lesson.backfill(user) for user in USERS]
    for handle in handles:
        handle.wait(timeout=seconds_to_wait)
        print(f"Backfill of {handle.sink_name}: {handle.state}", flush=True)
    return lesson.ledger(wait=seconds_to_wait)
