"""A cleared inbox can be restored for ten seconds, and then its rows are deleted."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import httpx

from tests.inspector.stores import in_store
from tests.inspector.test_store import receive, seqs
from userhooks.inspector.client import Inbox
from userhooks.inspector.request_store import RequestStore


def rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM requests").fetchone()[0])


def test_what_was_cleared_comes_back_beside_what_arrived_since(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        for _ in range(3):
            await receive(store, inbox)
        await store.clear(inbox)
        await receive(store, inbox)
        assert (seqs(store, inbox), inbox.count, inbox.restorable) == ([4], 1, 3)
        assert await store.restore(inbox)
        assert (seqs(store, inbox), inbox.count, inbox.dropped, inbox.restorable) == ([1, 2, 3, 4], 4, 0, 0)
        assert not await store.restore(inbox)

    async def check(store: RequestStore) -> None:
        assert seqs(store, store.by_name["ada"]) == [1, 2, 3, 4]

    in_store(tmp_path / "i.db", work)
    in_store(tmp_path / "i.db", check)


def test_after_its_time_a_clearing_is_final_and_its_rows_are_deleted(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        for _ in range(3):
            await receive(store, inbox)
        await store.clear(inbox)
        assert rows(store.path) == 3
        while inbox.restorable:
            await asyncio.wait_for(store.next_change(inbox), 10)
        assert not await store.restore(inbox)

    in_store(tmp_path / "i.db", work, undo_seconds=0.1)
    assert rows(tmp_path / "i.db") == 0


def test_a_second_clearing_makes_the_first_one_final(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        await receive(store, inbox)
        await store.clear(inbox)
        await receive(store, inbox)
        await store.clear(inbox)
        assert inbox.restorable == 1
        assert await store.restore(inbox)
        assert seqs(store, inbox) == [2]

    in_store(tmp_path / "i.db", work)


def test_clearing_an_empty_inbox_leaves_nothing_to_undo(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        await store.clear(inbox)
        assert inbox.restorable == 0
        assert not await store.restore(inbox)

    in_store(tmp_path / "i.db", work)


def test_a_restart_makes_a_clearing_final(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        await receive(store, inbox)
        await store.clear(inbox)

    async def check(store: RequestStore) -> None:
        inbox = store.by_name["ada"]
        assert (inbox.count, inbox.restorable, seqs(store, inbox)) == (0, 0, [])

    in_store(tmp_path / "i.db", work)
    in_store(tmp_path / "i.db", check)
    assert rows(tmp_path / "i.db") == 0


def test_a_full_home_deletes_what_was_cleared_before_it_drops_anything(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        ada, ben = (await store.create("ada"))[0], (await store.create("ben"))[0]
        for _ in range(12):
            await receive(store, ada, b"x" * 100_000)
        await store.clear(ada)
        for _ in range(12):
            await receive(store, ben, b"x" * 100_000)
        assert (ada.restorable, ben.dropped, ben.count) == (0, 0, 12)

    in_store(tmp_path / "i.db", work, home_bytes=1_500_000)


def test_a_store_that_fails_to_restore_leaves_the_clearing_undoable(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        await receive(store, inbox)
        await store.clear(inbox)
        with contextlib.closing(sqlite3.connect(tmp_path / "i.db", isolation_level=None)) as other:
            other.execute("ALTER TABLE inboxes RENAME TO elsewhere")
            failed = await asyncio.gather(store.restore(inbox), return_exceptions=True)
            other.execute("ALTER TABLE elsewhere RENAME TO inboxes")
        assert isinstance(failed[0], sqlite3.Error)
        assert await store.restore(inbox)
        assert seqs(store, inbox) == [1]

    in_store(tmp_path / "i.db", work)


def test_the_api_restores_and_says_when_there_is_nothing_to_undo(http: httpx.Client, inbox: Inbox) -> None:
    url = f"/api/inboxes/{inbox.id}/requests/restore"
    http.post(inbox.url, content=b"one")
    assert http.get(f"/api/inboxes/{inbox.id}").json()["restorable"] == 0
    inbox.clear()
    assert http.get(f"/api/inboxes/{inbox.id}").json()["restorable"] == 1
    restored = http.post(url, json={}).json()
    assert (restored["count"], restored["first_seq"], restored["restorable"]) == (1, 1, 0)
    assert [received.body for received in inbox.received()] == [b"one"]
    again = http.post(url, json={})
    assert (again.status_code, again.json()["error"]) == (
        404,
        "There is no clearing to undo. Clearing can be undone for 10 seconds.",
    )
