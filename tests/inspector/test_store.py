"""Stored requests survive `kill -9`, and stay within the limits of the ring and of the home's size."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.inspector.program import TOKEN, Program, running, with_token
from tests.inspector.stores import in_store
from tests.waiting import eventually
from userhooks.inspector.client import InspectorClient
from userhooks.inspector.ingest import Ingest
from userhooks.inspector.request_store import RequestStore, StoredInbox
from userhooks.inspector.response_script import parse_script

EVERYTHING = 1 << 40


async def receive(store: RequestStore, inbox: StoredInbox, body: bytes = b"") -> None:
    await store.record(inbox, inbox.next_seq(), 0, "POST", b"/", b"", [], body, 200, "")


def seqs(store: RequestStore, inbox: StoredInbox) -> list[int]:
    return [recorded.seq for recorded in store.read(inbox, 0, 1_000_000, EVERYTHING)]


def test_whatever_was_answered_is_there_after_kill_9(tmp_path: Path) -> None:
    with running(tmp_path) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        answered: list[int] = []
        senders = [threading.Thread(target=send_until_it_dies, args=(program, inbox.id, n, answered)) for n in range(4)]
        for sender in senders:
            sender.start()
        eventually(lambda: len(answered) > 2_000)
        program.kill()
        for sender in senders:
            sender.join()
        program.start()
        kept = [int(received.body) for received in inbox.received()]
        assert len(answered) > 2_000
        assert not set(answered) - set(kept)
        assert len(kept) == len(set(kept)) <= len(answered) + len(senders)
        assert client.inbox("ada").id == inbox.id
        assert httpx.post(inbox.url, trust_env=False).status_code == 200
        assert [received.seq for received in inbox.received()] == list(range(1, len(kept) + 2))


def send_until_it_dies(program: Program, ident: str, sender: int, answered: list[int]) -> None:
    number = sender
    with socket.create_connection(("127.0.0.1", program.port), timeout=10) as connection, contextlib.suppress(ConnectionError):
        while True:
            body = b"%d" % number
            connection.sendall(
                b"POST /in/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n\r\n%b"
                % (ident.encode(), program.port, len(body), body)
            )
            if not connection.recv(1000).startswith(b"HTTP/1.1 200"):
                return
            answered.append(number)
            number += 4


def test_a_request_that_was_waiting_for_its_answer_says_so_after_kill_9(tmp_path: Path) -> None:
    with running(tmp_path) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        inbox.respond(delay=60)

        def kill_when_received() -> None:
            eventually(inbox.count)
            program.kill()

        killer = threading.Thread(target=kill_when_received)
        killer.start()
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(inbox.url, trust_env=False, timeout=30)
        killer.join()
        program.start()
        (received,) = inbox.received()
        assert (received.response_status, received.note) == (None, "the inspector stopped before the response")


def test_the_ring_lets_the_oldest_go_and_counts_them(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        ada, bob = (await store.create("ada"))[0], (await store.create("bob"))[0]
        await receive(store, bob)
        for _ in range(25):
            await receive(store, ada)
        assert (seqs(store, ada), ada.count, ada.dropped) == (list(range(16, 26)), 10, 15)
        assert (seqs(store, bob), bob.dropped) == ([1], 0)
        await store.clear(ada)
        assert (seqs(store, ada), ada.count, ada.dropped) == ([], 0, 0)
        await receive(store, ada)
        assert (seqs(store, ada), ada.count, ada.dropped) == ([26], 1, 0)

    in_store(tmp_path / "i.db", work, ring=10)


def test_what_the_ring_dropped_is_remembered_and_removed_from_disk(tmp_path: Path) -> None:
    async def fill(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        await asyncio.gather(*(receive(store, inbox) for _ in range(5_000)))

    async def check(store: RequestStore) -> None:
        (inbox,) = store.by_id.values()
        assert (inbox.last, inbox.count, inbox.dropped) == (5_000, 10, 4_990)

    in_store(tmp_path / "i.db", fill, ring=10)
    in_store(tmp_path / "i.db", check, ring=10)
    with contextlib.closing(sqlite3.connect(tmp_path / "i.db")) as connection:
        assert connection.execute("SELECT count(*) FROM requests").fetchone() == (10,)


def test_a_cleared_inbox_stays_cleared_and_its_numbers_are_not_used_again(tmp_path: Path) -> None:
    async def fill(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        for _ in range(3):
            await receive(store, inbox)
        await store.clear(inbox)

    async def check(store: RequestStore) -> None:
        (inbox,) = store.by_id.values()
        assert (inbox.last, inbox.count, inbox.dropped, seqs(store, inbox)) == (3, 0, 0, [])

    in_store(tmp_path / "i.db", fill)
    in_store(tmp_path / "i.db", check)


def test_clearing_takes_what_is_being_stored_with_it(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        await asyncio.gather(*(receive(store, inbox) for _ in range(100)), store.clear(inbox), receive(store, inbox))
        assert seqs(store, inbox) == [101]

    in_store(tmp_path / "i.db", work)


def test_a_full_home_drops_the_oldest_requests_of_all_and_stays_within_its_limit(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        ada, bob = (await store.create("ada"))[0], (await store.create("bob"))[0]
        await store.record(ada, ada.next_seq(), 1, "POST", b"/", b"", [], b"x" * 100_000, 200, "")
        for n in range(60):
            await store.record(bob, bob.next_seq(), 2 + n, "POST", b"/", b"", [], b"x" * 100_000, 200, "")
        await store.record(ada, ada.next_seq(), 99, "POST", b"/", b"", [], b"", 200, "")
        await store.record(bob, bob.next_seq(), 100, "POST", b"/", b"", [], b"", 200, "")
        assert (ada.count, ada.dropped) == (1, 1)
        assert bob.dropped > 40
        assert 5 < bob.count < 20

    in_store(tmp_path / "i.db", work, home_bytes=1_500_000)
    assert (tmp_path / "i.db").stat().st_size < 4_000_000


def test_a_failing_disk_fails_the_request_and_not_the_store(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        with contextlib.closing(sqlite3.connect(tmp_path / "i.db", isolation_level=None)) as other:
            other.execute("ALTER TABLE requests RENAME TO elsewhere")
            with pytest.raises(sqlite3.Error):
                await receive(store, inbox)
            other.execute("ALTER TABLE elsewhere RENAME TO requests")
        await receive(store, inbox, b"after")
        assert [recorded.body for recorded in store.read(inbox, 0, 10, EVERYTHING)] == [b"after"]

    in_store(tmp_path / "i.db", work)


def test_an_inspector_that_cannot_store_does_not_say_that_it_did(tmp_path: Path) -> None:
    with running(tmp_path) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        with contextlib.closing(sqlite3.connect(tmp_path / "inspector.db", isolation_level=None)) as other:
            other.execute("ALTER TABLE requests RENAME TO elsewhere")
            failed = httpx.post(inbox.url, trust_env=False)
            other.execute("ALTER TABLE elsewhere RENAME TO requests")
        assert failed.status_code == 500
        assert failed.json()["error"].startswith("The inspector could not store the request")
        assert "could not be stored" in program.log.read_text()
        assert httpx.post(inbox.url, trust_env=False).status_code == 200


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        await receive(store, (await store.create("ada"))[0])
        for file in (tmp_path / "home").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600

    in_store(tmp_path / "home" / "i.db", work)


OLDER = """
CREATE TABLE inboxes (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, cleared INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0, status INTEGER NOT NULL DEFAULT 200, delay REAL NOT NULL DEFAULT 0,
    fail_first INTEGER NOT NULL DEFAULT 0, set_at INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE requests (
    key INTEGER PRIMARY KEY, received_at INTEGER NOT NULL, method TEXT NOT NULL, path BLOB NOT NULL, query BLOB NOT NULL,
    headers BLOB NOT NULL, body BLOB NOT NULL, status INTEGER, note TEXT NOT NULL
);
CREATE INDEX unanswered ON requests (key) WHERE status IS NULL AND note = '';
INSERT INTO inboxes VALUES (1, 'plain', 'ada', 0, 0, 200, 0, 0, 0), (2, 'set', 'ben', 0, 0, 503, 0.5, 3, 0);
INSERT INTO requests VALUES (1 << 40 | 1, 1767225600000000, 'POST', X'2F696E', X'', X'613A62', X'7B7D', 200, '');
INSERT INTO requests VALUES (1 << 40 | 2, 1767225600000001, 'POST', X'2F696E', X'', X'', X'7B7D', NULL, '');
"""
"""A file in format 1, from before response scripts."""


def test_the_file_of_an_older_inspector_is_taken_over_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "inspector.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLDER)
    with running(tmp_path) as program, InspectorClient(program.url, TOKEN) as client:
        ada, ben = client.inboxes()
        first, second = ada.received()
        assert (first.path, first.headers, first.body) == ("/in", (("a", "b"),), b"{}")
        assert (first.response_status, first.response, first.note) == (200, "", "")
        assert (second.response_status, second.response, second.note) == (None, "", "the inspector stopped before the response")
        assert client.call("GET", f"/api/inboxes/{ada.id}")["response"]["words"] == ["always: 200"]
        assert client.call("GET", f"/api/inboxes/{ben.id}")["response"]["words"] == ["first 3: 500 after 0.5 s", "always: 503 after 0.5 s"]
        assert httpx.post(ada.url, trust_env=False).status_code == 200
        program.kill()
        program.start()
        assert [received.seq for received in ada.received()] == [1, 2, 3]


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA user_version = 99")


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database\n" * 100)


@pytest.mark.parametrize(
    ("spoil", "problem"), [(newer, "was written by a newer version"), (no_database, "cannot be used: file is not a database")]
)
def test_a_file_that_cannot_be_used_is_named_and_left_as_it_is(tmp_path: Path, spoil: Callable[[Path], None], problem: str) -> None:
    path = tmp_path / "inspector.db"
    spoil(path)
    before = path.read_bytes()
    program = Program(tmp_path)
    with pytest.raises(AssertionError, match=problem):
        program.start()
    (line,) = program.log.read_text().splitlines()
    assert f"mv {path} {path}.old" in line
    assert program.process is not None
    assert program.process.wait(10) == 1
    program.kill()
    assert path.read_bytes() == before


@contextlib.contextmanager
def without_table(path: Path, table: str) -> Iterator[None]:
    """Make every statement on the table fail, as on a full disk."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
        try:
            yield
        finally:
            other.execute(f"ALTER TABLE elsewhere RENAME TO {table}")


def test_an_inbox_that_could_not_be_stored_is_not_there_and_no_later_one_shows_its_requests(tmp_path: Path) -> None:
    with running(tmp_path) as program, httpx.Client(base_url=program.url, auth=with_token, trust_env=False) as http:
        with without_table(tmp_path / "inspector.db", "inboxes"):
            assert http.post("/api/inboxes", json={"name": "ada"}).status_code == 500
        assert http.get("/api/inboxes").json() == {"inboxes": []}
        made = http.post("/api/inboxes", json={"name": "ada"})
        assert made.status_code == 201
        ada = made.json()["id"]
        assert http.post(f"/in/{ada}", content=b"for ada").status_code == 200
        program.kill()
        program.start()
        ben = http.post("/api/inboxes", json={"name": "ben"}).json()
        assert (ben["count"], http.get(f"/api/inboxes/{ben['id']}/requests").json()["requests"]) == (0, [])
        assert [request["body"] for request in http.get(f"/api/inboxes/{ada}/requests").json()["requests"]] == ["for ada"]


def test_requests_whose_inbox_an_older_version_failed_to_store_are_shown_in_no_other_inbox(tmp_path: Path) -> None:
    async def fill(store: RequestStore) -> None:
        for name in ("ada", "ben"):
            await receive(store, (await store.create(name))[0])

    async def check(store: RequestStore) -> None:
        assert list(store.by_name) == ["ada"]
        cy = (await store.create("cy"))[0]
        await receive(store, cy, b"for cy")
        assert [recorded.body for recorded in store.read(cy, 0, 10, EVERYTHING)] == [b"for cy"]
        assert seqs(store, store.by_name["ada"]) == [1]

    in_store(tmp_path / "i.db", fill)
    with contextlib.closing(sqlite3.connect(tmp_path / "i.db")) as connection, connection:
        connection.execute("DELETE FROM inboxes WHERE name = 'ben'")
    in_store(tmp_path / "i.db", check)


def test_an_answer_and_a_clearing_that_could_not_be_stored_change_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as program, httpx.Client(base_url=program.url, auth=with_token, trust_env=False) as http:
        inbox = http.post("/api/inboxes", json={"name": "ada"}).json()["id"]
        rules = [{"status": 418, "delay": 0.0}]
        assert http.put(f"/api/inboxes/{inbox}/response", json={"script": rules}).status_code == 200
        assert http.post(f"/in/{inbox}", content=b"kept").status_code == 418
        before = http.get(f"/api/inboxes/{inbox}").json()
        with without_table(tmp_path / "inspector.db", "inboxes"):
            assert http.put(f"/api/inboxes/{inbox}/response", json={"script": []}).status_code == 500
            assert http.delete(f"/api/inboxes/{inbox}/requests").status_code == 500
        assert http.get(f"/api/inboxes/{inbox}").json() == before
        assert http.post(f"/in/{inbox}").status_code == 418
        assert [request["body"] for request in http.get(f"/api/inboxes/{inbox}/requests").json()["requests"]] == ["kept", ""]


def test_after_any_work_on_a_failing_disk_memory_shows_what_a_restart_would(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / "i.db"

    def shown(store: RequestStore) -> dict[str, Any]:
        return {
            inbox.id: (inbox.name, inbox.script, inbox.stored, inbox.count, inbox.dropped, seqs(store, inbox))
            for inbox in store.by_id.values()
        }

    async def attempt(store: RequestStore) -> None:
        known = list(store.by_id.values())
        match rng.choice(["create", "record", "record", "script", "clear"]) if known else "create":
            case "create":
                await store.create(rng.choice(["ada", "ben", "cy", "dee", None]))
            case "record":
                await receive(store, rng.choice(known))
            case "script":
                await store.set_script(rng.choice(known), parse_script([{"first": rng.randrange(1, 9), "status": 500}]))
            case "clear":
                await store.clear(rng.choice(known))

    async def work(store: RequestStore) -> None:
        for _ in range(12):
            with without_table(path, rng.choice(["inboxes", "requests"])) if rng.random() < 0.6 else contextlib.nullcontext():
                await asyncio.gather(*(attempt(store) for _ in range(rng.randrange(1, 4))), return_exceptions=True)
            restarted = RequestStore(path, ring=10)
            await restarted.open()
            assert shown(restarted) == shown(store)
            await restarted.close()

    in_store(path, work, ring=10)


def test_two_who_create_the_same_inbox_at_once_get_the_same_one(tmp_path: Path) -> None:
    async def work(store: RequestStore) -> None:
        (first, first_is_new), (second, second_is_new), (other, _) = await asyncio.gather(
            store.create("ada"), store.create("ada"), store.create(None)
        )
        assert first is second
        assert (first_is_new, second_is_new) == (True, False)
        assert other is not first

    in_store(tmp_path / "i.db", work)


def test_a_request_that_comes_while_a_script_is_stored_is_answered_by_it(tmp_path: Path) -> None:
    answered: list[int] = []

    async def body() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def answer(message: MutableMapping[str, Any]) -> None:
        answered.extend([message["status"]] if message["type"] == "http.response.start" else [])

    async def work(store: RequestStore) -> None:
        inbox = (await store.create("ada"))[0]
        scope = {"type": "http", "method": "POST", "path": f"/in/{inbox.id}", "raw_path": b"/in", "query_string": b"", "headers": []}
        with contextlib.closing(sqlite3.connect(tmp_path / "i.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            setting = asyncio.create_task(store.set_script(inbox, parse_script([{"first": 1, "status": 500}])))
            await asyncio.sleep(0)
            sending = asyncio.create_task(Ingest(no_other_app, store, lambda: 0)(scope, body, answer))
            await asyncio.sleep(0)
            other.execute("ROLLBACK")
            await asyncio.gather(setting, sending)
        assert answered == [500]

    in_store(tmp_path / "i.db", work)


async def no_other_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError
