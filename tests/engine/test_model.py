"""Model-based test: random changes, sinks, and failures, compared with a simple model of the messages that each receiver must get.

Each run prints its seed; `USERHOOKS_MODEL_SEED=… pytest tests/engine/test_model.py` repeats that run. The model (`Oracle`) does not observe
the engine. It is updated with each committed statement and each API call that has returned.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.engine_program import FILTER, EngineProgram
from tests.ports import free_port
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

RUNS = 10
STEPS = 90
PUBLICATION = "model_pub"
ACTIONS = ("insert", "update", "delete")
GIVEN = os.environ.get("USERHOOKS_MODEL_SEED")


# --- the model -----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of notifications without its `created_at`."""

    id: int
    user_id: int | None
    message: str


class Key(NamedTuple):
    """Identity of a change, unique because every write gives the row a new text."""

    action: str
    id: int
    message: str


@dataclass(frozen=True)
class Change:
    """A committed change; `statement` is its position in commit order, which all rows of a statement share."""

    statement: int
    action: str
    row: Row
    before: Row | None = None

    @property
    def key(self) -> Key:
        return Key(self.action, self.row.id, self.row.message)

    @property
    def changes(self) -> dict[str, Any] | None:
        """The old values of the changed columns; None unless the change is an update."""
        if self.before is None:
            return None
        return {name: old for name, old, new in zip(Row._fields, self.before, self.row, strict=True) if old != new}


@dataclass
class Sink:
    """The model of a sink.

    `user` is the user whose rows it receives, or None for all rows. `paths` holds pairs of a statement and the path to which the sink sends
    from then on. `must` holds the changes that must arrive.
    """

    number: int
    name: str
    user: int | None
    actions: tuple[str, ...] = ACTIONS
    grouped_by_user: bool = False
    batch_size: int = 1
    active: bool = True
    down: bool = False
    flaky: float = 0.0
    paths: list[tuple[int, str]] = field(default_factory=list)
    must: dict[Key, Change] = field(default_factory=dict)
    may: set[Key] = field(default_factory=set)
    """Changes that may arrive: pending when the sink stopped wanting them, or read but not confirmed when it started to."""

    def wants(self, change: Change) -> bool:
        """Return whether actions and filter accept a change.

        A row that comes from another user is rejected, but not one that had no user before.
        """
        if change.action not in self.actions:
            return False
        return self.user is None or (change.row.user_id == self.user and (change.changes or {}).get("user_id") is None)

    def path_at(self, statement: int) -> str:
        return [path for since, path in self.paths if since <= statement][-1]


class Oracle:
    """The model of the engine: all committed changes, and the sinks that must receive them."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.deleted: list[Sink] = []
        self.changes: list[Change] = []
        self.rows: dict[int, Row] = {}
        self.statement = 0

    def commit(self, changes: list[Change]) -> None:
        for change in changes:
            self.changes.append(change)
            if change.before is not None or change.action == "delete":
                del self.rows[(change.before or change.row).id]
            if change.action != "delete":
                self.rows[change.row.id] = change.row
            for sink in self.sinks:
                if sink.wants(change):
                    sink.must[change.key] = change

    def change(self, sink: Sink, arrived: set[Key], **settings: Any) -> None:
        """Change a sink's user or actions; changes that have not arrived must only arrive if the old and new settings accept them."""
        old_keys = set(sink.must)
        for name, value in settings.items():
            setattr(sink, name, value)
        for change in self.changes:
            is_wanted = sink.wants(change)
            if is_wanted and change.key not in old_keys:
                sink.may.add(change.key)
            if not is_wanted and change.key in old_keys and change.key not in arrived:
                sink.may.add(change.key)
                del sink.must[change.key]

    def delete(self, sink: Sink, arrived: set[Key]) -> None:
        """Delete a sink; changes that have not arrived may still be in flight."""
        self.sinks.remove(sink)
        self.deleted.append(sink)
        for key in [key for key in sink.must if key not in arrived]:
            sink.may.add(key)
            del sink.must[key]


# --- one run -------------------------------------------------------------------------------------------------------------


class Delivered(NamedTuple):
    """A message answered with 200; `life` is the number of times the engine was killed before."""

    life: int
    path: str
    message: dict[str, Any]

    @property
    def key(self) -> Key:
        record = self.message["record"]
        return Key(self.message["action"], record["id"], record["message"])


class Run:
    """Random steps on a real engine, recorded in the oracle; `check` compares the two."""

    def __init__(self, seed: int, server: PostgresServer, folder: Path, receiver: Receiver) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.server = server
        self.receiver = receiver
        self.database = f"model_{seed}"
        self.oracle = Oracle()
        self.users = [1, 2, 3]
        self.life = 0
        self.texts = 0
        self.step_names: list[str] = []
        self.delivered: dict[int, list[Delivered]] = defaultdict(list)
        self.attempts: dict[tuple[int, str], int] = defaultdict(int)
        self.sinks_by_number: dict[int, Sink] = {}
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"create database {self.database}".encode())
        self.url = server.url(self.database)
        Database(self.url).set_up(PUBLICATION)
        self.connection = psycopg.connect(self.url, autocommit=True)
        receiver.script = self._answer
        self.engine = EngineProgram(self.url, folder, publication=PUBLICATION, retry_base=0.02).start()
        code = "".join(f"      {line}\n" for line in FILTER.splitlines())
        yaml = f"functions:\n  - name: rows-of-user\n    type: filter\n    code: |-\n{code}"
        self.engine.ask("POST", "/api/config/apply", {"yaml": yaml})
        self.control = self._create(user=None)

    def close(self) -> None:
        self.engine.stop()
        self.connection.close()
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
            admin.execute(f"drop database {self.database} with (force)".encode())

    def _answer(self, path: str, messages: list[dict[str, Any]]) -> int:
        """Answer a request: 503 while the sink is down, 500 at random while it is flaky, else 200."""
        sink = self.sinks_by_number[int(path.split("/")[1])]
        if sink.down:
            return 503
        for message in messages:
            attempt = (sink.number, message["metadata"]["idempotency_key"])
            self.attempts[attempt] += 1
            if random.Random(f"{self.seed} {attempt} {self.attempts[attempt]}").random() < sink.flaky:
                return 500
        self.delivered[sink.number] += [Delivered(self.life, path, message) for message in messages]
        return 200

    def arrived(self, sink: Sink) -> set[Key]:
        return {delivery.key for delivery in list(self.delivered[sink.number])}

    # --- steps ---

    def step(self) -> None:
        steps = {
            self.insert: 12,
            self.update: 12,
            self.move: 6,
            self.rename: 4,
            self.delete: 5,
            self.transaction: 5,
            self.roll_back: 2,
            self.delete_user: 1,
            self.add_user: 2,
            self.create_sink: 6,
            self.pause: 3,
            self.resume: 4,
            self.change_filter: 2,
            self.change_actions: 2,
            self.change_batch_size: 2,
            self.change_url: 3,
            self.delete_sink: 2,
            self.go_down: 3,
            self.get_flaky: 3,
            self.come_up: 4,
            self.kill_engine: 2,
            self.restart_postgres: 0.5,
        }
        step = self.rng.choices(list(steps), list(steps.values()))[0]
        self.step_names.append(step.__name__)
        step()

    def _text(self) -> str:
        self.texts += 1
        return f"text {self.texts}"

    def _statement(self) -> int:
        self.oracle.statement += 1
        return self.oracle.statement

    def _some_rows(self, rows: dict[int, Row], limit: int = 4) -> list[Row]:
        return self.rng.sample(list(rows.values()), min(len(rows), self.rng.randint(1, limit)))

    def _insert(self, rows: dict[int, Row]) -> list[Change]:
        statement = self._statement()
        new_rows = [
            (self.rng.choice([*self.users, self.rng.choice(self.users), None]), self._text()) for _ in range(self.rng.randint(1, 4))
        ]
        query = "insert into notifications (user_id, message) select * from unnest(%s::int[], %s::text[]) returning id, user_id, message"
        inserted = self.connection.execute(query, ([user for user, _ in new_rows], [text for _, text in new_rows])).fetchall()
        return [Change(statement, "insert", Row(*row)) for row in inserted]

    def _update(self, rows: dict[int, Row], **new: Any) -> list[Change]:
        """Update some rows with a new text and the values of `new`."""
        statement = self._statement()
        changes = []
        for old in self._some_rows(rows, limit=3 if not new else 1):
            row = Row(**{**old._asdict(), "message": self._text(), **new})
            query = "update notifications set id = %s, user_id = %s, message = %s where id = %s"
            self.connection.execute(query, (*row, old.id))
            changes.append(Change(statement, "update", row, old))
            statement = self._statement()
        return changes

    def _move(self, rows: dict[int, Row]) -> list[Change]:
        return self._update(rows, user_id=self.rng.choice([*self.users, None]))

    def _rename(self, rows: dict[int, Row]) -> list[Change]:
        return self._update(rows, id=10_000 + self.oracle.statement)

    def _delete(self, rows: dict[int, Row]) -> list[Change]:
        deleted = self._some_rows(rows)
        statement = self._statement()
        self.connection.execute("delete from notifications where id = any(%s)", ([row.id for row in deleted],))
        return [Change(statement, "delete", row) for row in deleted]

    def insert(self) -> None:
        self.oracle.commit(self._insert(self.oracle.rows))

    def update(self) -> None:
        self.oracle.commit(self._update(self.oracle.rows))

    def move(self) -> None:
        self.oracle.commit(self._move(self.oracle.rows))

    def rename(self) -> None:
        self.oracle.commit(self._rename(self.oracle.rows))

    def delete(self) -> None:
        self.oracle.commit(self._delete(self.oracle.rows))

    def transaction(self) -> None:
        """Run several statements in a transaction, each on rows that the others do not touch; record them after the commit."""
        changes: list[Change] = []
        with self.connection.transaction():
            for statement in self.rng.choices([self._insert, self._update, self._move, self._rename, self._delete], k=4):
                touched = {change.before.id if change.before else change.row.id for change in changes}
                changes += statement({id_: row for id_, row in self.oracle.rows.items() if id_ not in touched})
        self.oracle.commit(changes)

    def roll_back(self) -> None:
        with self.connection.transaction(force_rollback=True):
            self._insert(self.oracle.rows)
            self._update(self.oracle.rows)
            self._delete(self.oracle.rows)

    def delete_user(self) -> None:
        """Delete a user, whose rows are deleted with it."""
        if len(self.users) > 2:
            user = self.rng.choice(self.users)
            self.users.remove(user)
            self.connection.execute("delete from users where id = %s", (user,))
            statement = self._statement()
            self.oracle.commit([Change(statement, "delete", row) for row in self.oracle.rows.values() if row.user_id == user])

    def add_user(self) -> None:
        row = self.connection.execute("insert into users (name) values ('new') returning id").fetchone()
        assert row is not None
        self.users.append(row[0])

    def _create(self, *, user: int | None, **fields: Any) -> Sink:
        number = len(self.sinks_by_number)
        names = [sink.name for sink in self.oracle.deleted if sink.name not in [current.name for current in self.oracle.sinks]]
        sink = Sink(number, self.rng.choice([f"sink-{number}", *names]), user, **fields)
        self.sinks_by_number[number] = sink
        settings: dict[str, Any] = {"batch_size": sink.batch_size, "actions": list(sink.actions)}
        if sink.grouped_by_user:
            settings["tables"] = [{"name": "public.notifications", "group_column_names": ["user_id"]}]
        if not sink.active:
            settings["status"] = "paused"
        path = f"/{number}/0"
        if user is None:
            self.engine.sink(sink.name, self.receiver.url + path, **settings)
        else:
            settings["annotations"] = {"user_id": str(user)}
            self.engine.sink(sink.name, self.receiver.url + path, filter="rows-of-user", **settings)
        sink.paths.append((0, path))
        self.oracle.sinks.append(sink)
        return sink

    def create_sink(self) -> None:
        rng = self.rng
        self._create(
            user=rng.choice([*self.users, None]),
            actions=rng.choice((ACTIONS, ACTIONS, ("insert", "update"), ("delete",))),
            grouped_by_user=rng.random() < 0.3,
            batch_size=rng.choice((1, 1, 3, 10)),
            active=rng.random() < 0.8,
            flaky=rng.choice((0.0, 0.3)),
        )

    def _any_sink(self) -> Sink | None:
        others = [sink for sink in self.oracle.sinks if sink is not self.control]
        return self.rng.choice(others) if others else None

    def _patch(self, sink: Sink, **fields: Any) -> None:
        self.engine.ask("PATCH", f"/api/sinks/{sink.name}", fields)

    def pause(self) -> None:
        if sink := self._any_sink():
            self._patch(sink, status="paused")
            sink.active = False

    def resume(self) -> None:
        if sink := self._any_sink():
            self._patch(sink, status="active")
            sink.active = True

    def change_filter(self) -> None:
        sink = self._any_sink()
        if sink is not None and sink.user is not None:
            self.all_is_read()
            user, arrived = self.rng.choice(self.users), self.arrived(sink)
            self._patch(sink, annotations={"user_id": str(user)})
            self.oracle.change(sink, arrived, user=user)

    def change_actions(self) -> None:
        if sink := self._any_sink():
            self.all_is_read()
            actions, arrived = tuple(self.rng.sample(ACTIONS, self.rng.randint(1, 3))), self.arrived(sink)
            self._patch(sink, actions=list(actions))
            self.oracle.change(sink, arrived, actions=actions)

    def change_batch_size(self) -> None:
        if sink := self._any_sink():
            self._patch(sink, batch_size=self.rng.choice((1, 2, 7)))

    def change_url(self) -> None:
        """Change a sink's URL; changes committed from now on must go to the new one."""
        if sink := self._any_sink():
            path = f"/{sink.number}/{len(sink.paths)}"
            self.engine.ask("PATCH", f"/api/destinations/http_endpoints/{sink.name}", {"url": self.receiver.url + path})
            sink.paths.append((self._statement(), path))

    def delete_sink(self) -> None:
        if sink := self._any_sink():
            arrived = self.arrived(sink)
            self.engine.ask("DELETE", f"/api/sinks/{sink.name}")
            self.engine.ask("DELETE", f"/api/destinations/http_endpoints/{sink.name}")
            self.oracle.delete(sink, arrived)

    def go_down(self) -> None:
        if sink := self._any_sink():
            sink.down = True

    def get_flaky(self) -> None:
        if sink := self._any_sink():
            sink.flaky = 0.3

    def come_up(self) -> None:
        """Let all sinks succeed again, and patch their endpoints, which makes their retrying messages due."""
        for sink in self.oracle.sinks:
            if sink.down or sink.flaky:
                sink.down, sink.flaky = False, 0.0
                path = sink.paths[-1][1]
                self.engine.ask("PATCH", f"/api/destinations/http_endpoints/{sink.name}", {"url": self.receiver.url + path})

    def kill_engine(self) -> None:
        self.engine.kill()
        self.receiver.settle()
        self.life += 1
        self.engine.start()

    def restart_postgres(self) -> None:
        self.rng.choice((self.server.stop, self.server.kill))()
        self.server.start()
        self.connection.close()
        self.connection = psycopg.connect(self.url, autocommit=True)

    # --- the end ---

    def all_is_read(self) -> None:
        """Wait until the engine has read all committed changes, which the control sink shows because it receives everything."""
        self._await(self.control)

    def _await(self, sink: Sink) -> None:
        def missing() -> set[Key]:
            return set(sink.must) - self.arrived(sink)

        eventually(lambda: not missing(), within=20, what=f"{sink.name} ({sink.paths[-1][1]}) to get {missing()}; {self.history()}")

    def history(self) -> str:
        return f"seed {self.seed}; steps: {' '.join(self.step_names)}"

    def settle(self) -> None:
        """Let every sink succeed again, and wait until all messages have arrived."""
        self.come_up()
        for sink in self.oracle.sinks:
            if not sink.active:
                self._patch(sink, status="active")
        for sink in self.oracle.sinks:
            self._await(sink)

    def check(self) -> None:
        for sink in [*self.oracle.sinks, *self.oracle.deleted]:
            self._check(sink, self.delivered[sink.number])

    def _check(self, sink: Sink, delivered: list[Delivered]) -> None:
        context = f"{sink.name} (/{sink.number}), {self.history()}"
        lives: dict[Key, int] = {}
        keys: dict[Key, str] = {}
        latest: dict[object, int] = {}
        for delivery in delivered:
            key = delivery.key
            assert key in sink.must or key in sink.may, f"{key} was not expected at {context}"
            assert key not in lives or lives[key] < delivery.life, f"{key} was repeated although the engine was not killed; {context}"
            assert keys.setdefault(key, delivery.message["metadata"]["idempotency_key"]) == delivery.message["metadata"]["idempotency_key"]
            first = key not in lives
            lives[key] = delivery.life
            change = sink.must.get(key)
            if change is None:
                continue
            assert delivery.message["record"]["user_id"] == change.row.user_id, context
            assert delivery.message["changes"] == change.changes, context
            assert int(delivery.path.split("/")[2]) >= int(sink.path_at(change.statement).split("/")[2]), (
                f"{key}: {delivery.path}; {context}"
            )
            group = change.row.user_id if sink.grouped_by_user else change.row.id
            if first:
                assert change.statement >= latest.get(group, 0), f"{key} arrived after a later change of its group; {context}"
                latest[group] = change.statement
        assert set(sink.must) <= lives.keys(), f"lost: {set(sink.must) - lives.keys()}; {context}"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="userhooks-model-") as folder:
        postgres = PostgresServer(Path(folder), port=free_port(), password="x", log=Path(folder) / "postgres.log")
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.remove()


@pytest.mark.parametrize("run_number", range(1, 2 if GIVEN else RUNS + 1))
def test_every_receiver_gets_what_the_model_says(run_number: int, server: PostgresServer, tmp_path: Path, receiver: Receiver) -> None:
    seed = int(GIVEN or random.randrange(10**6))
    print(f"seed {seed}")
    run = Run(seed, server, tmp_path, receiver)
    try:
        for _ in range(STEPS):
            run.step()
        run.settle()
    finally:
        run.close()
    run.check()
    assert len(run.arrived(run.control)) == len(run.oracle.changes)
