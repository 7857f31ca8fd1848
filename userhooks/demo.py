"""The main job once, without a browser: what `userhooks demo` does between starting the stack and stopping it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userhooks.ledger import Ledger
from userhooks.lessons.lesson import USERS, Lesson

if TYPE_CHECKING:
    from userhooks.stack.stack import Stack

_PATIENCE = 60.0
_SLOWEST_SEQUIN = 500
"""Messages per second that even a busy Sequin server delivers; it bounds the waiting for large runs."""


def run(stack: Stack, rate: float = 100, seconds: float = 10) -> bool:
    """Subscribe three users to inboxes, generate, wait, backfill each user, wait, and print the ledger's verdict.

    Returns whether everything owed came once, in order and to nobody else; prints which rows did not. Removes its users, subscriptions and
    rows afterwards; when the verdict is bad they stay, with their inboxes, until the next demo.
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
        print("Look at the inboxes: " + ", ".join(f"{user} {lesson.inbox(user).page}" for user in USERS))
    print(verdict.verdict())
    return verdict.ok


def _run(lesson: Lesson, rate: float, seconds: float) -> Ledger:
    for user in USERS:
        subscription = lesson.subscribe(user, url=lesson.inbox(user).url)
        print(f"Subscribed {user} (user {subscription.user_id}) to an inbox: sink {subscription.sink_name}", flush=True)
    generated = lesson.generate(rate=rate, seconds=seconds)
    print(generated.summary(), flush=True)
    patience = _PATIENCE + generated.changes / _SLOWEST_SEQUIN
    live = lesson.ledger(wait=patience)
    print(f"Live: {live.verdict()}", flush=True)
    handles = [lesson.backfill(user) for user in USERS]
    for handle in handles:
        handle.wait(timeout=patience)
        print(f"Backfill of {handle.sink_name}: {handle.state}", flush=True)
    return lesson.ledger(wait=patience)
