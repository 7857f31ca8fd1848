"""Subscribing on a server where a new sink goes live late and may get older rows: new rows arrive, and older ones are not faults."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from tests.real_like.server import installation_on, real_like_server
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack.stack import Stack
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.subscriptions import Subscriptions

SUBSCRIBES, AT_ONCE = 200, 10
INSERT = "INSERT INTO notifications (user_id, message) VALUES (%s, %s)"


def test_no_row_committed_after_one_of_two_hundred_subscribes_under_load_is_lost(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    database = Database(database_url)
    database.set_up(None)
    users = [database.create_user(f"user {number}") for number in range(SUBSCRIBES)]
    bystander = database.create_user("somebody else")
    over = threading.Event()

    def load() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not over.wait(0.01):
                connection.execute(INSERT, [bystander, "load"])

    def without_a_row(batch: Sequence[int]) -> set[int]:
        return set(batch) - {message["record"]["user_id"] for message in receiver.messages()}

    with (
        real_like_server(database_url, tmp_path, pace=0.1) as server,
        SequinClient(server.url, server.token) as sequin,
        psycopg.connect(database_url, autocommit=True) as connection,
        ThreadPoolExecutor(AT_ONCE + 1) as pool,
    ):
        subscriptions = Subscriptions(database, sequin, b"key")
        loading = pool.submit(load)

        def subscribe_and_write(user: int) -> None:
            subscriptions.subscribe(user, f"{receiver.url}/{user}")
            connection.execute(INSERT, [user, "the first row after subscribe"])

        try:
            for first in range(0, SUBSCRIBES, AT_ONCE):
                batch = users[first : first + AT_ONCE]
                list(pool.map(subscribe_and_write, batch))
                eventually(lambda batch=batch: not without_a_row(batch), within=30, what=f"a row for each of {batch}")
                subscriptions.unsubscribe_all(batch)
        finally:
            over.set()
            loading.result()
    assert {message["record"]["user_id"] for message in receiver.messages()} == set(users)


def test_rows_older_than_a_subscription_reach_its_sink_but_neither_show_in_the_inbox_nor_count_as_faults(
    database_url: str, tmp_path: Path
) -> None:
    with (
        real_like_server(database_url, tmp_path, pace=0.25) as server,
        installation_on(server, database_url, tmp_path / "home") as installation,
    ):
        installation.succeed("up", "--detach")
        stack = Stack.attach(installation.settings)
        with stack.sequin, stack.inspector, stack.lesson("older") as lesson:
            inbox = lesson.inbox("ada")
            older = {lesson.insert("ada", f"Older {number}") for number in range(20)}
            lesson.subscribe("ada", url=inbox.url)
            new = lesson.insert("ada", "New")
            assert [message.record["id"] for message in inbox.wait_for(1, timeout=30)] == [new]
            sent = {message.record["id"] for request in inbox.received() for message in request.messages()}
            assert sent & older, "the stand-in sends a new sink the rows committed just before it"
            ledger = lesson.ledger(wait=30)
            assert ledger.ok, ledger.problems()
            assert ", 0 lost, 0 duplicated, 0 foreign, " in ledger.verdict()
            assert inbox.count() == 1
