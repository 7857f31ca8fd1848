"""Random runs on a real stack with injected faults: the ledger's verdict agrees with an independent count.

A trigger in Postgres counts the committed changes. The messages are those that Sequin sent: each run takes them out of the inboxes and
sends them again in batches, with some lost, refused, duplicated, sent to another user, or out of order. The count uses none of the
ledger's code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import psycopg
import pytest

from tests.waiting import eventually
from userhooks.lessons.lesson import USERS, Lesson
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.home import Home
from userhooks.stack.stack import Stack

AUDIT = """
CREATE TABLE audit (number SERIAL PRIMARY KEY, action TEXT, new_user INT, old_user INT);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit (action, new_user, old_user) VALUES (TG_OP, NEW.user_id, OLD.user_id);
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON notifications FOR EACH ROW EXECUTE FUNCTION note();
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("runs") / "home"
    stack = Stack.start(Settings.from_env({"USERHOOKS_HOME": str(home), **dict.fromkeys(PORT_VARIABLES.values(), "0")}))
    try:
        with stack.database.connect() as connection:
            connection.execute(AUDIT)
        with stack.inspector, stack.sequin:
            yield stack
    finally:
        stack.stop()
        Home(home).remove()


@dataclass(frozen=True)
class Sent:
    """A message sent to a user's inbox, and whether the inbox accepts it."""

    to: str
    accepted: bool
    message: dict[str, Any]
    belongs_to: str

    @property
    def delivery(self) -> tuple[str, str]:
        return self.message["metadata"]["consumer"]["id"], self.message["metadata"]["idempotency_key"]

    @property
    def row(self) -> tuple[str, int]:
        return self.message["metadata"]["consumer"]["id"], self.message["record"]["id"]

    @property
    def place(self) -> tuple[int, int]:
        return self.message["metadata"]["commit_lsn"], self.message["metadata"]["commit_idx"]


@pytest.mark.parametrize("seed", range(25))
def test_the_verdict_is_what_counting_comes_to(stack: Stack, seed: int) -> None:
    rng = random.Random(seed)
    with stack.lesson("runs") as lesson:
        history = write_history(lesson, rng)
        sinks = subscribe(lesson, rng)
        ledger = lesson.ledger(wal=True, wait=0.01)
        filled = rng.choice([None, *sinks])
        if filled:
            lesson.backfill(filled).wait()
        change_rows(stack, lesson, rng)
        changes = audited(stack)
        eventually(lambda: ledger.result().complete, within=30, every=0.2, what="all that is owed")
        wire = with_faults(taken_out(lesson), rng)
        send(lesson, wire, rng)
        figures = counted(changes, {lesson.user(user): count for user, count in sinks.items()}, wire)
        expected_verdict = expected_verdict_of(figures)
        unread = 0
        if filled and (owed := history[filled]):
            arrived = len({attempt.delivery for attempt in reads(wire) if attempt.accepted and attempt.to == attempt.belongs_to})
            unread = owed - arrived
            expected_verdict += f"; backfill: {owed} expected, {arrived} received, {unread} lost"
        result = ledger.result()
        assert without_p99(result.verdict()) == expected_verdict, f"seed {seed}"
        assert len(result.lost()) == figures["lost"] + unread, f"seed {seed}"
        assert len(result.duplicated()) == figures["duplicated"], f"seed {seed}"
        assert len(result.foreign()) == figures["foreign"], f"seed {seed}"
        wrong = figures["lost"] + figures["duplicated"] + figures["foreign"] + figures["out of order"] + unread
        assert result.ok is (wrong == 0), f"seed {seed}"


def write_history(lesson: Lesson, rng: random.Random) -> dict[str, int]:
    """Insert rows that precede the subscriptions and never change; return their number for each user."""
    history = {user: rng.randint(0, 5) for user in USERS}
    lesson.clients.database.insert_notifications(
        [(lesson.user(user), f"history {n}") for user, count in history.items() for n in range(count)]
    )
    return history


def subscribe(lesson: Lesson, rng: random.Random) -> dict[str, int]:
    """Create one or two sinks per user, sometimes none for one user; return their number for each subscribed user."""
    sinks = {user: rng.choice([1, 1, 2]) for user in USERS}
    if rng.random() < 0.3:
        del sinks[rng.choice(USERS)]
    for user, count in sinks.items():
        for n in range(count):
            lesson.subscribe(user, url=lesson.inbox(user).url + ("/second" if n else ""))
    return sinks


def change_rows(stack: Stack, lesson: Lesson, rng: random.Random) -> None:
    """Run transactions of a few inserts, updates, deletes, owner changes, and key changes each; roll some of them back."""
    users = list(lesson.users.values())
    rows: list[int] = []
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("TRUNCATE audit")
        connection.commit()
        for _ in range(rng.randint(5, 15)):
            before = list(rows)
            for _ in range(rng.randint(1, 4)):
                action = rng.choice(["insert", "insert", "update", "update", "move", "key", "delete"]) if rows else "insert"
                row = rng.choice(rows) if rows else 0
                if action == "insert":
                    insert = "INSERT INTO notifications (user_id, message) VALUES (%s, 'x') RETURNING id"
                    rows += connection.execute(insert, [rng.choice(users)]).fetchone() or ()
                elif action == "update":
                    connection.execute("UPDATE notifications SET message = message || 'y' WHERE id = %s", [row])
                elif action == "move":
                    connection.execute("UPDATE notifications SET user_id = %s WHERE id = %s", [rng.choice(users), row])
                elif action == "key":
                    connection.execute("UPDATE notifications SET id = id + 1000000 WHERE id = %s", [row])
                    rows[rows.index(row)] = row + 1_000_000
                else:
                    connection.execute("DELETE FROM notifications WHERE id = %s", [row])
                    rows.remove(row)
            if rng.random() < 0.1:
                connection.rollback()
                rows = before
            connection.commit()


def audited(stack: Stack) -> list[tuple[int | None, int | None]]:
    """Return the owner before and after each committed change."""
    with stack.database.connect() as connection:
        return connection.execute("SELECT old_user, new_user FROM audit ORDER BY number").fetchall()


def taken_out(lesson: Lesson) -> list[Sent]:
    """Return every message that Sequin sent, and clear the inboxes."""
    sent = [
        Sent(user, True, message, user)
        for user in USERS
        for request in lesson.inbox(user).received()
        for message in orjson.loads(request.body)["data"]
    ]
    for user in USERS:
        lesson.inbox(user).clear()
    return sent


def with_faults(sent: Sequence[Sent], rng: random.Random) -> list[Sent]:
    """Return the messages after random faults: lost, refused, retried, duplicated, sent to another user, or reordered."""
    silent = rng.choice([None, None, None, *USERS])
    quiet = rng.random() < 0.2
    wire: list[Sent] = []
    for attempt in sent:
        refused = Sent(attempt.to, False, attempt.message, attempt.belongs_to)
        leaked = Sent(rng.choice([user for user in USERS if user != attempt.to]), rng.random() < 0.5, attempt.message, attempt.belongs_to)
        fates = {
            "sent": [attempt],
            "lost": [],
            "refused": [refused],
            "retried": [refused, attempt],
            "doubled": [attempt, attempt],
            "leaked": [attempt, leaked],
        }
        fate = "lost" if attempt.to == silent else "sent" if quiet else rng.choice(["sent"] * 15 + list(fates))
        wire += fates[fate]
    if wire and rng.random() < 0.4:
        a, b = sorted(rng.choices(range(len(wire)), k=2))
        wire[a : b + 1] = reversed(wire[a : b + 1])
    return wire


def send(lesson: Lesson, wire: Sequence[Sent], rng: random.Random) -> None:
    """Send the messages in order; sometimes put consecutive messages of one inbox into one request."""
    batches: list[list[Sent]] = []
    for attempt in wire:
        last = batches[-1][-1] if batches else None
        if last is not None and (last.to, last.accepted) == (attempt.to, attempt.accepted) and rng.random() < 0.5:
            batches[-1].append(attempt)
        else:
            batches.append([attempt])
    answers = dict.fromkeys(USERS, True)
    with httpx.Client(trust_env=False) as sender:
        for batch in batches:
            inbox = lesson.inbox(batch[0].to)
            if answers[batch[0].to] is not batch[0].accepted:
                answers[batch[0].to] = batch[0].accepted
                inbox.respond(status=200 if batch[0].accepted else 503)
            sender.post(inbox.url, content=orjson.dumps({"data": [attempt.message for attempt in batch]}))


def reads(wire: Sequence[Sent]) -> list[Sent]:
    return [attempt for attempt in wire if attempt.message["action"] == "read"]


def counted(changes: Sequence[tuple[int | None, int | None]], sinks: dict[int, int], wire: Sequence[Sent]) -> dict[str, int]:
    """Return the expected figures of the verdict.

    `changes` are (owner before, owner after) pairs, `sinks` the number of sinks of each user, and `wire` the messages sent.
    """
    steady = [new or old or 0 for old, new in changes if old is None or new is None or old == new]
    moved = [(old or 0, new or 0) for old, new in changes if old is not None and new is not None and old != new]
    own = [attempt for attempt in wire if attempt.accepted and attempt.to == attempt.belongs_to]
    firsts: dict[tuple[str, str], Sent] = {}
    for attempt in own:
        if attempt.message["action"] != "read":
            firsts.setdefault(attempt.delivery, attempt)
    order = list(firsts.values())
    expected = sum(sinks.get(user, 0) for user in steady)
    return {
        "committed": len(changes),
        "expected": expected,
        "received": len(firsts),
        "lost": expected - len(firsts),
        "duplicated": len(own) - len({attempt.delivery for attempt in own}),
        "foreign": len({(attempt.to, attempt.delivery) for attempt in wire if attempt.to != attempt.belongs_to}),
        "out of order": sum(
            any(earlier.row == attempt.row and earlier.place > attempt.place for earlier in order[:n]) for n, attempt in enumerate(order)
        ),
        "withheld": sum(sinks.get(old, 0) + sinks.get(new, 0) for old, new in moved),
    }


def expected_verdict_of(figures: dict[str, int]) -> str:
    always = [f"{figures[name]} {name}" for name in ("committed", "expected", "received", "lost", "duplicated", "foreign")]
    order = f"{figures['out of order']} out of order" if figures["out of order"] else "order kept"
    return ", ".join([*always, order, *([f"{figures['withheld']} withheld"] if figures["withheld"] else [])])


def without_p99(verdict: str) -> str:
    live, semicolon, backfill = verdict.partition(";")
    return ", ".join(part for part in live.split(", ") if not part.startswith("p99")) + semicolon + backfill
