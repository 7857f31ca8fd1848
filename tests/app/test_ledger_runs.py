"""Random runs on a real stack with faults on the way: the ledger's verdict is the one that plain counting comes to.

What committed is counted by a trigger in Postgres. What comes is what Sequin really sent: each run takes it out of the inboxes and sends
it to them once more, in batches, with messages lost, refused, doubled, sent to somebody else and put out of order. No code of the ledger
counts.
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
    """A message on its way to a user's inbox, and whether that takes it."""

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
    luck = random.Random(seed)
    with stack.lesson("runs") as lesson:
        history = write_history(lesson, luck)
        sinks = subscribe(lesson, luck)
        ledger = lesson.ledger(wal=True, wait=0.01)
        filled = luck.choice([None, *sinks])
        if filled:
            lesson.backfill(filled).wait()
        change_rows(stack, lesson, luck)
        changes = audited(stack)
        eventually(lambda: ledger.look().complete, within=30, every=0.2, what="all that is owed")
        wire = with_faults(taken_out(lesson), luck)
        send(lesson, wire, luck)
        figures = counted(changes, {lesson.user(user): count for user, count in sinks.items()}, wire)
        said = in_words(figures)
        unread = 0
        if filled and (owed := history[filled]):
            came = len({one.delivery for one in reads(wire) if one.accepted and one.to == one.belongs_to})
            unread = owed - came
            said += f"; backfill: {owed} expected, {came} received, {unread} lost"
        found = ledger.look()
        assert without_p99(found.verdict()) == said, f"seed {seed}"
        assert len(found.lost()) == figures["lost"] + unread, f"seed {seed}"
        assert len(found.duplicated()) == figures["duplicated"], f"seed {seed}"
        assert len(found.foreign()) == figures["foreign"], f"seed {seed}"
        wrong = figures["lost"] + figures["duplicated"] + figures["foreign"] + figures["out of order"] + unread
        assert found.ok is (wrong == 0), f"seed {seed}"


def write_history(lesson: Lesson, luck: random.Random) -> dict[str, int]:
    """Rows from before the subscriptions, which nobody touches later; how many each user has."""
    history = {user: luck.randint(0, 5) for user in USERS}
    lesson.clients.database.insert_notifications(
        [(lesson.user(user), f"history {n}") for user, count in history.items() for n in range(count)]
    )
    return history


def subscribe(lesson: Lesson, luck: random.Random) -> dict[str, int]:
    """One sink or two for each user, or none for one of them; how many each subscribed user has."""
    sinks = {user: luck.choice([1, 1, 2]) for user in USERS}
    if luck.random() < 0.3:
        del sinks[luck.choice(USERS)]
    for user, count in sinks.items():
        for n in range(count):
            lesson.subscribe(user, url=lesson.inbox(user).url + ("/second" if n else ""))
    return sinks


def change_rows(stack: Stack, lesson: Lesson, luck: random.Random) -> None:
    """Transactions of a few changes each: inserts, updates, deletes, other owners, other keys; one that is rolled back."""
    users = list(lesson.users.values())
    rows: list[int] = []
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("TRUNCATE audit")
        connection.commit()
        for _ in range(luck.randint(5, 15)):
            before = list(rows)
            for _ in range(luck.randint(1, 4)):
                doing = luck.choice(["insert", "insert", "update", "update", "move", "key", "delete"]) if rows else "insert"
                row = luck.choice(rows) if rows else 0
                if doing == "insert":
                    insert = "INSERT INTO notifications (user_id, message) VALUES (%s, 'x') RETURNING id"
                    rows += connection.execute(insert, [luck.choice(users)]).fetchone() or ()
                elif doing == "update":
                    connection.execute("UPDATE notifications SET message = message || 'y' WHERE id = %s", [row])
                elif doing == "move":
                    connection.execute("UPDATE notifications SET user_id = %s WHERE id = %s", [luck.choice(users), row])
                elif doing == "key":
                    connection.execute("UPDATE notifications SET id = id + 1000000 WHERE id = %s", [row])
                    rows[rows.index(row)] = row + 1_000_000
                else:
                    connection.execute("DELETE FROM notifications WHERE id = %s", [row])
                    rows.remove(row)
            if luck.random() < 0.1:
                connection.rollback()
                rows = before
            connection.commit()


def audited(stack: Stack) -> list[tuple[int | None, int | None]]:
    """The owner before and after, of each change that committed."""
    with stack.database.connect() as connection:
        return connection.execute("SELECT old_user, new_user FROM audit ORDER BY number").fetchall()


def taken_out(lesson: Lesson) -> list[Sent]:
    """Everything that Sequin sent; the inboxes are empty afterwards."""
    sent = [
        Sent(user, True, message, user)
        for user in USERS
        for request in lesson.inbox(user).received()
        for message in orjson.loads(request.body)["data"]
    ]
    for user in USERS:
        lesson.inbox(user).clear()
    return sent


def with_faults(sent: Sequence[Sent], luck: random.Random) -> list[Sent]:
    """What becomes of it on the way."""
    silent = luck.choice([None, None, None, *USERS])
    quiet = luck.random() < 0.2
    wire: list[Sent] = []
    for one in sent:
        refused = Sent(one.to, False, one.message, one.belongs_to)
        leaked = Sent(luck.choice([user for user in USERS if user != one.to]), luck.random() < 0.5, one.message, one.belongs_to)
        fates = {"sent": [one], "lost": [], "refused": [refused], "retried": [refused, one], "doubled": [one, one], "leaked": [one, leaked]}
        fate = "lost" if one.to == silent else "sent" if quiet else luck.choice(["sent"] * 15 + list(fates))
        wire += fates[fate]
    if wire and luck.random() < 0.4:
        a, b = sorted(luck.choices(range(len(wire)), k=2))
        wire[a : b + 1] = reversed(wire[a : b + 1])
    return wire


def send(lesson: Lesson, wire: Sequence[Sent], luck: random.Random) -> None:
    """Send it in that order, now and then several neighbours of one inbox in one request."""
    batches: list[list[Sent]] = []
    for one in wire:
        last = batches[-1][-1] if batches else None
        if last is not None and (last.to, last.accepted) == (one.to, one.accepted) and luck.random() < 0.5:
            batches[-1].append(one)
        else:
            batches.append([one])
    answers = dict.fromkeys(USERS, True)
    with httpx.Client(trust_env=False) as sender:
        for batch in batches:
            inbox = lesson.inbox(batch[0].to)
            if answers[batch[0].to] is not batch[0].accepted:
                answers[batch[0].to] = batch[0].accepted
                inbox.respond(status=200 if batch[0].accepted else 503)
            sender.post(inbox.url, content=orjson.dumps({"data": [one.message for one in batch]}))


def reads(wire: Sequence[Sent]) -> list[Sent]:
    return [one for one in wire if one.message["action"] == "read"]


def counted(changes: Sequence[tuple[int | None, int | None]], sinks: dict[int, int], wire: Sequence[Sent]) -> dict[str, int]:
    """What the verdict's figures should be, for changes (owner before, owner after), sinks by user, and what was sent."""
    steady = [new or old or 0 for old, new in changes if old is None or new is None or old == new]
    moved = [(old or 0, new or 0) for old, new in changes if old is not None and new is not None and old != new]
    own = [one for one in wire if one.accepted and one.to == one.belongs_to]
    firsts: dict[tuple[str, str], Sent] = {}
    for one in own:
        if one.message["action"] != "read":
            firsts.setdefault(one.delivery, one)
    order = list(firsts.values())
    expected = sum(sinks.get(user, 0) for user in steady)
    return {
        "committed": len(changes),
        "expected": expected,
        "received": len(firsts),
        "lost": expected - len(firsts),
        "duplicated": len(own) - len({one.delivery for one in own}),
        "foreign": len({(one.to, one.delivery) for one in wire if one.to != one.belongs_to}),
        "out of order": sum(any(e.row == one.row and e.place > one.place for e in order[:n]) for n, one in enumerate(order)),
        "withheld": sum(sinks.get(old, 0) + sinks.get(new, 0) for old, new in moved),
    }


def in_words(figures: dict[str, int]) -> str:
    always = [f"{figures[name]} {name}" for name in ("committed", "expected", "received", "lost", "duplicated", "foreign")]
    order = f"{figures['out of order']} out of order" if figures["out of order"] else "order kept"
    return ", ".join([*always, order, *([f"{figures['withheld']} withheld"] if figures["withheld"] else [])])


def without_p99(verdict: str) -> str:
    live, semicolon, backfill = verdict.partition(";")
    return ", ".join(part for part in live.split(", ") if not part.startswith("p99")) + semicolon + backfill
