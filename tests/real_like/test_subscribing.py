"""What `subscribe` promises, rows from now on, holds on a server that takes a new sink up late."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from tests.real_like.server import real_like_server
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.database import Database
from userhooks.sequin import SequinClient
from userhooks.subscriptions import Subscriptions

SUBSCRIBES, AT_ONCE = 200, 10
INSERT = "INSERT INTO notifications (user_id, message) VALUES (%s, %s)"


def test_no_row_is_lost_that_was_committed_after_one_of_two_hundred_subscribes_under_load(
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

    with (
        real_like_server(database_url, tmp_path, pace=0.25) as server,
        SequinClient(server.url, server.token) as sequin,
        psycopg.connect(database_url, autocommit=True) as connection,
        ThreadPoolExecutor(AT_ONCE + 1) as pool,
    ):
        subscriptions = Subscriptions(database, sequin, b"key")
        loading = pool.submit(load)
        lock = threading.Lock()

        def subscribe_and_write(user: int) -> None:
            subscriptions.subscribe(user, f"{receiver.url}/{user}")
            with lock:
                connection.execute(INSERT, [user, "the first row after subscribe"])

        try:
            for first in range(0, SUBSCRIBES, AT_ONCE):
                some = users[first : first + AT_ONCE]
                list(pool.map(subscribe_and_write, some))
                eventually(lambda some=some: set(some) <= received(receiver), within=30, what=f"a row for each of {some}") if 1 else 0
                subscriptions.unsubscribe_all(some)
        finally:
            over.set()
            loading.result()
    assert set(users) <= received(receiver)
    assert bystander not in received(receiver)


def received(receiver: Receiver) -> set[int]:
    """The users of whom a row came."""
    return {message["record"]["user_id"] for message in receiver.messages()}
