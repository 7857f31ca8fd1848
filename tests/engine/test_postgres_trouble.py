"""The engine while Postgres fails: every loss is reported, the explanations are right, and the engine recovers by itself."""

from __future__ import annotations

import itertools
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.conftest import PUBLICATION
from tests.engine_program import EngineProgram
from tests.ports import free_port
from tests.receiver import Receiver
from tests.waiting import eventually
from userhooks.stack import embedded_postgres
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database

Connection = psycopg.Connection[Any]

SILENCE = 2.0
"""Seconds after which the engine under test gives up on a silent Postgres."""
PASSWORD = "kept-out-of-logs"


class Lab:
    """A separate Postgres server to do damage to, with one database and engines that read it."""

    def __init__(self, server: PostgresServer, database: str, folder: Path) -> None:
        self.server = server
        self.url = server.url(database)
        self.folder = folder
        self.engine = self.new_engine("engine", slot=f"slot_{database}")

    def new_engine(self, name: str, *, slot: str, url: str | None = None) -> EngineProgram:
        folder = self.folder / name
        folder.mkdir()
        return EngineProgram(url or self.url, folder, publication=PUBLICATION, slot=slot, silence=SILENCE)

    @property
    def slot(self) -> str:
        return str(self.engine.config["slot"])

    def sql(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a query on a separate connection, since the server is restarted during tests."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, *texts: str) -> list[int]:
        query = "insert into notifications (user_id, message) select 1, unnest(%s::text[]) returning id"
        return [row[0] for row in self.sql(query, list(texts))]

    def health(self, sink: str = "all") -> str | None:
        """Return the error of the sink's ingestion health check, or None if there is none."""
        checks = self.engine.ask("GET", f"/api/sinks/{sink}")["health"]["checks"]
        return next(check.get("error") for check in checks if check["name"] == "Message ingestion")

    def says(self, *phrases: str, within: float = 15) -> str:
        """Wait until the health error contains all of `phrases`, and return it."""

        def error() -> str | None:
            text = self.health()
            return text if text is not None and all(phrase in text for phrase in phrases) else None

        return eventually(error, within=within, what=f"health with {phrases}; it is {self.health()}") or ""

    def is_well(self, within: float = 15) -> None:
        eventually(lambda: self.health() is None, within=within, what=f"good health; it is {self.health()}")

    def hang_up(self) -> None:
        """Terminate the engine's connections, as a network failure would."""
        self.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'userhooks-engine'")

    def drop_slot(self) -> None:
        self.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s and active", self.slot)
        query = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
        eventually(lambda: self.sql(query, self.slot), every=0.005, what="the slot to be dropped")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="userhooks-trouble-") as folder:
        postgres = PostgresServer(Path(folder), port=free_port(), password="x", log=Path(folder) / "postgres.log")
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.remove()


_numbers = itertools.count(1)


@pytest.fixture
def lab(server: PostgresServer, tmp_path: Path) -> Iterator[Lab]:
    """A new database with a running engine."""
    server.start()
    name = f"trouble_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
    lab = Lab(server, name, tmp_path)
    Database(lab.url).set_up(PUBLICATION)
    lab.engine.start()
    yield lab
    server.start()
    lab.engine.stop()
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
        admin.execute(f"drop database {name} with (force)".encode())


def backfill(lab: Lab, *, table: str = "public.notifications") -> str:
    """Start a backfill of the sink `all`, and return its id."""
    return str(lab.engine.ask("POST", "/api/sinks/all/backfills", {"table": table})["id"])


# --- restarts of Postgres ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill], ids=["stopped", "killed"])
def test_a_restart_under_load_loses_nothing_and_repeats_nothing(
    lab: Lab, receiver: Receiver, end: Callable[[PostgresServer], None]
) -> None:
    lab.engine.sink("all", receiver.url)
    committed: list[int] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(lab.url, autocommit=True) as connection:
                    while not stop.is_set():
                        row = connection.execute("insert into notifications (user_id, message) values (1, 'x') returning id").fetchone()
                        assert row is not None
                        committed.append(row[0])
            except psycopg.Error:
                stop.wait(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        receiver.wait_for(50)
        end(lab.server)
        lab.server.start()
        after = len(committed)
        eventually(lambda: len(committed) > after + 50, what="rows committed after the restart")
    finally:
        stop.set()
        writer.join()
    receiver.wait_for(len(committed))
    ids = receiver.ids()
    assert set(committed) <= set(ids)
    assert len(ids) == len(set(ids))
    keys = [m["metadata"]["idempotency_key"] for m in receiver.messages()]
    assert len(keys) == len(set(keys))
    lab.is_well()


def test_with_postgres_down_the_engine_starts_says_so_and_goes_on_when_it_is_back(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    first = lab.insert("written while the engine is down")
    lab.server.stop()
    lab.engine.start()
    lab.says("Nothing answers at 127.0.0.1", "userhooks up")
    assert [sink["name"] for sink in lab.engine.ask("GET", "/api/sinks")["data"]] == ["all"]
    lab.engine.endpoint("more", receiver.url)
    body = {"name": "more", "database": "postgres", "source": {}, "destination": {"type": "webhook", "http_endpoint": "more"}}
    refused = lab.engine.http.post("/api/sinks", json=body)
    assert refused.status_code == 503
    assert "Nothing answers" in refused.json()["summary"]
    tried = lab.engine.http.post("/api/postgres_databases/postgres/test_connection", json={})
    assert tried.status_code == 422
    assert "Nothing answers" in tried.json()["reason"]
    lab.server.start()
    receiver.wait_for(1)
    assert receiver.ids() == first
    lab.is_well()
    assert lab.engine.log.read_text().count("Nothing answers") == 1


def test_a_receiver_that_fails_does_not_hold_up_the_shutdown_of_postgres(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    receiver.gate.clear()
    [waiting] = lab.insert("on its way all the time")
    eventually(lambda: _sent(lab), what="the change to be read")
    before = len(lab.server.log.read_text())
    lab.server.stop()
    log = lab.server.log.read_text()[before:]
    assert "fast shutdown" in log
    assert "immediate shutdown" not in log  # `stop` falls back to it after a timeout.
    lab.server.start()
    receiver.gate.set()
    eventually(lambda: waiting in receiver.ids())
    assert set(receiver.ids()) == {waiting}


def test_a_postgres_that_stands_still_is_given_up_and_taken_up_again(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    assert lab.server.pid is not None
    postmaster = psutil.Process(lab.server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    lab.insert("before")
    receiver.wait_for(1)
    for process in processes:
        process.suspend()
    try:
        lab.says(f"has not answered for {SILENCE:g} s")
        answer = lab.engine.http.post("/api/postgres_databases/postgres/test_connection", json={}, timeout=15)
        assert answer.status_code == 422
        assert "answer" in answer.json()["reason"]
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    lab.insert("after")
    receiver.wait_for(2)
    assert [m["record"]["message"] for m in receiver.messages()] == ["before", "after"]
    lab.is_well()


# --- privileges --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_role(lab: Lab) -> Iterator[str]:
    """Run the engine as a separate role, which may log in, replicate, and read; yields its name."""
    role = f"role_{next(_numbers)}"
    lab.sql(f"create role {role} login replication password '{PASSWORD}'")
    lab.sql(f"grant select on all tables in schema public to {role}")
    lab.engine.kill()
    lab.engine.config["database_url"] = lab.url.replace("postgres:x@", f"{role}:{PASSWORD}@")
    lab.engine.start()
    yield role
    lab.engine.kill()
    lab.sql(f"drop owned by {role}")
    lab.sql(f"drop role {role}")


def test_a_changed_password_is_said_and_setting_it_back_is_enough(lab: Lab, receiver: Receiver, own_role: str) -> None:
    lab.engine.sink("all", receiver.url)
    lab.sql(f"alter role {own_role} password 'another'")
    lab.hang_up()
    lab.insert("meanwhile")
    lab.says("refuses the password", own_role, "DATABASE_URL")
    lab.sql(f"alter role {own_role} password '{PASSWORD}'")
    receiver.wait_for(1)
    lab.is_well()
    log = lab.engine.log.read_text()
    assert log.count("refuses the password") == 1
    assert PASSWORD not in log


def test_a_role_that_may_not_replicate_any_more_is_said_with_the_command(lab: Lab, receiver: Receiver, own_role: str) -> None:
    lab.engine.sink("all", receiver.url)
    lab.sql(f"alter role {own_role} noreplication")
    lab.hang_up()
    lab.insert("meanwhile")
    lab.says(f"ALTER ROLE {own_role} REPLICATION;")
    lab.sql(f"alter role {own_role} replication")
    receiver.wait_for(1)
    lab.is_well()


def test_a_backfill_that_may_not_read_the_table_says_so_and_goes_on_when_it_may(lab: Lab, receiver: Receiver, own_role: str) -> None:
    lab.engine.sink("all", receiver.url)
    lab.sql(f"revoke select on notifications from {own_role}")  # noqa: S608  # The name is generated by the test.
    [live] = lab.insert("live changes need no such right")
    receiver.wait_for(1)
    backfill(lab)
    lab.says(f"GRANT SELECT ON notifications TO {own_role};")
    lab.sql(f"grant select on notifications to {own_role}")
    receiver.wait_for(2)
    assert receiver.ids() == [live, live]
    lab.is_well()


def shown(lab: Lab, backfill_id: str) -> dict[str, Any]:
    return lab.engine.ask("GET", f"/api/sinks/all/backfills/{backfill_id}")


def test_a_backfill_from_which_row_level_security_hides_rows_says_so_and_reads_none(lab: Lab, receiver: Receiver, own_role: str) -> None:
    lab.engine.sink("all", receiver.url)
    [live] = lab.insert("live changes are not filtered")
    receiver.wait_for(1)
    lab.sql("alter table notifications enable row level security")
    started = backfill(lab)
    lab.says("Row-level security hides rows", "row_security = off", f"ALTER ROLE {own_role} BYPASSRLS;")
    now = shown(lab, started)
    assert now["state"] == "active"
    assert f"ALTER ROLE {own_role} BYPASSRLS;" in now["error"]
    lab.sql(f"alter role {own_role} bypassrls")
    receiver.wait_for(2)
    assert receiver.ids() == [live, live]
    lab.is_well()
    eventually(lambda: shown(lab, started)["state"] == "completed", what="the backfill to be completed")
    assert "error" not in shown(lab, started)


def test_a_backfill_of_columns_that_the_role_may_not_read_says_so(lab: Lab, receiver: Receiver, own_role: str) -> None:
    lab.sql('create schema "Its own"')
    lab.sql('create table "Its own"."Table" (id int primary key, open text, secret text)')
    lab.sql(f'grant usage on schema "Its own" to {own_role}')
    lab.sql(f'grant select (id, open) on "Its own"."Table" to {own_role}')
    lab.sql(f'alter publication {PUBLICATION} add table "Its own"."Table"')
    lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    lab.engine.sink("all", receiver.url, source={"include_tables": ["Its own.Table"]})
    lab.sql("insert into \"Its own\".\"Table\" values (1, 'a', 'b')")
    receiver.wait_for(1)
    started = backfill(lab, table="Its own.Table")
    grant = f'GRANT SELECT ON "Its own"."Table" TO {own_role};'
    lab.says("some of its published columns", grant)
    assert grant in shown(lab, started)["error"]
    lab.sql(grant)
    receiver.wait_for(2)
    lab.is_well()


# --- slots -------------------------------------------------------------------------------------------------------------


def test_a_slot_dropped_while_the_engine_is_down_is_said_until_a_backfill(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    [lost] = lab.insert("lost")
    lab.drop_slot()
    lab.engine.start()
    lab.says("Postgres has lost the changes committed between", "the slot was dropped", "Start a backfill of public.notifications")
    assert "lost the changes" in lab.engine.log.read_text()
    assert "lost the changes" in lab.engine.http.get("/").text
    lab.engine.kill()
    lab.engine.start()
    lab.says("the slot was dropped")
    lab.engine.sink("later", f"{receiver.url}/later")
    assert lab.health("later") is None
    [seen] = lab.insert("after")
    eventually(lambda: seen in receiver.ids())
    backfill(lab)
    lab.is_well()
    eventually(lambda: lost in receiver.ids())
    lab.engine.kill()
    lab.engine.start()
    lab.is_well()


def test_a_slot_dropped_under_a_running_engine_costs_nothing_that_was_read(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    receiver.gate.clear()
    ids = lab.insert("read", "before the slot", "was dropped")
    eventually(lambda: _sent(lab), what="the changes to be read")
    lab.drop_slot()
    lab.says("the slot was dropped")
    receiver.gate.set()
    ids += lab.insert("after")
    receiver.wait_for(4)
    assert sorted(receiver.ids()) == ids
    eventually(lambda: _confirmed(lab) >= _last_commit(receiver), what="the new slot to be confirmed")
    assert len(receiver.ids()) == 4


def _sent(lab: Lab) -> bool:
    """Return whether Postgres has sent all of its WAL to the engine."""
    [row] = lab.sql("select sent_lsn >= pg_current_wal_lsn() from pg_stat_replication where application_name = 'userhooks-engine'") or [
        (False,)
    ]
    return bool(row[0])


def _confirmed(lab: Lab) -> int:
    [row] = lab.sql("select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s", lab.slot)
    return int(row[0])


def _last_commit(receiver: Receiver) -> int:
    return max(int(m["metadata"]["commit_lsn"]) for m in receiver.messages())


def test_a_slot_that_postgres_gave_up_is_made_anew_and_the_loss_is_said(
    lab: Lab, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    lab.server.stop()
    with monkeypatch.context() as changed:
        changed.setitem(embedded_postgres.SETTINGS, "max_slot_wal_keep_size", "1MB")  # type: ignore[arg-type]
        lab.server.start()

        def is_invalidated() -> bool:
            lab.sql("select pg_logical_emit_message(false, 'fill', repeat('x', 1000))")
            lab.sql("select pg_switch_wal()")
            lab.sql("checkpoint")
            return lab.sql("select wal_status from pg_replication_slots where slot_name = %s", lab.slot) == [("lost",)]

        eventually(is_invalidated, what="the slot to be invalidated")
        lab.engine.start()
        lab.says("the slot was invalidated: wal_removed", "Start a backfill")
        [seen] = lab.insert("after")
        eventually(lambda: seen in receiver.ids())
        lab.server.stop()


def test_a_slot_in_use_by_another_engine_is_said_with_its_process(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    second = lab.new_engine("second", slot=lab.slot).start()
    first, lab.engine = lab.engine, second
    try:
        second.sink("all", f"{receiver.url}/second")
        [(pid,)] = lab.sql("select active_pid from pg_replication_slots where slot_name = %s", lab.slot)
        lab.says("in use by another process", f"PID {pid}")
        [seen] = lab.insert("to the first")
        eventually(lambda: seen in receiver.ids())
        assert receiver.ids("/second") == []
    finally:
        lab.engine = first
        second.stop()


def test_a_backfill_goes_on_when_its_place_in_the_stream_is_lost_with_the_slot(lab: Lab, receiver: Receiver) -> None:
    ids = lab.insert(*"abc")
    lab.engine.sink("all", receiver.url)
    [(pid,)] = lab.sql("select active_pid from pg_replication_slots where slot_name = %s", lab.slot)
    walsender = psutil.Process(pid)
    walsender.suspend()
    try:
        backfill(lab)
        marked = "select pid from pg_stat_activity where query like '%%pg_logical_emit_message%%' and state = 'idle' and pid <> %s"
        eventually(lambda: lab.sql(marked, pid), what="the page's watermark to be written")
        lab.sql("select pg_terminate_backend(%s)", pid)
    finally:
        walsender.send_signal(signal.SIGCONT)
    lab.drop_slot()
    receiver.wait_for(3)
    assert sorted(receiver.ids()) == ids
    backfills = lab.engine.ask("GET", "/api/sinks/all/backfills")["data"]
    eventually(lambda: lab.engine.ask("GET", f"/api/sinks/all/backfills/{backfills[0]['id']}")["state"] == "completed")


def test_a_slot_that_waits_for_an_open_transaction_is_made_when_that_ends(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    lab.drop_slot()
    with psycopg.connect(lab.url) as open_transaction:
        open_transaction.execute("insert into users (name) values ('nobody')")
        lab.engine.start()
        lab.says("waiting for open transactions to end")
    lab.says("the slot was dropped")
    [seen] = lab.insert("after")
    eventually(lambda: seen in receiver.ids())


def test_a_slot_of_another_kind_is_left_alone(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    lab.drop_slot()
    lab.sql("select pg_create_physical_replication_slot(%s)", lab.slot)
    lab.engine.start()
    lab.says("a physical slot, not one of pgoutput")
    assert lab.sql("select slot_type from pg_replication_slots where slot_name = %s", lab.slot) == [("physical",)]


# --- the publication ---------------------------------------------------------------------------------------------------


def test_changes_made_while_the_publication_was_missing_are_said_to_be_lost(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    ids = lab.insert("before")
    receiver.wait_for(1)
    lab.sql(f"drop publication {PUBLICATION}")
    lab.insert("meanwhile")
    lab.says(f"The publication {PUBLICATION} is missing", "CREATE PUBLICATION")
    lab.sql(f"create publication {PUBLICATION} for table notifications")
    lab.says("the publication did not exist when they were committed", "Start a backfill")
    ids += lab.insert("after")
    receiver.wait_for(2)
    assert receiver.ids() == ids
    lab.engine.kill()
    lab.engine.start()
    lab.says("the publication did not exist")
    backfill(lab)
    receiver.wait_for(5)
    assert {m["record"]["message"] for m in receiver.messages()} == {"before", "meanwhile", "after"}
    lab.is_well()


def test_a_publication_that_was_missing_while_the_engine_was_down_costs_only_what_was_written_meanwhile(
    lab: Lab, receiver: Receiver
) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    ids = lab.insert("before")
    lab.sql(f"drop publication {PUBLICATION}")
    lab.insert("meanwhile")
    lab.sql(f"create publication {PUBLICATION} for table notifications")
    ids += lab.insert("after")
    lab.engine.start()
    receiver.wait_for(2)
    assert receiver.ids() == ids
    lab.says("the publication did not exist when they were committed")


OLDER_POSTGRES = """
from userhooks.engine import __main__
from userhooks.engine.capture import slot_keeper
slot_keeper._SKIPS_UNPUBLISHED = 10**9
__main__.main()
"""
"""A program that runs the engine as on a Postgres before 18, which ends the stream where the publication was missing."""


def test_where_postgres_cannot_pass_the_gap_the_slot_is_made_anew(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.engine.kill()
    ids = lab.insert("before")
    lab.sql(f"drop publication {PUBLICATION}")
    lab.insert("meanwhile")
    lab.sql(f"create publication {PUBLICATION} for table notifications")
    lab.engine.start(module=("-c", OLDER_POSTGRES))
    lab.says("the publication did not exist when they were committed", "Start a backfill")
    eventually(lambda: _sent(lab), what="the new slot to be read")
    ids += lab.insert("after")
    receiver.wait_for(2)
    assert receiver.ids() == ids


def test_a_table_taken_out_of_the_publication_is_said(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.sql(f"alter publication {PUBLICATION} drop table notifications")
    lab.hang_up()
    lab.says("public.notifications is not in the publication", f"ALTER PUBLICATION {PUBLICATION} ADD TABLE public.notifications;")
    lab.sql(f"alter publication {PUBLICATION} add table notifications")
    lab.hang_up()
    lab.is_well()


def test_a_table_is_well_as_soon_as_it_is_put_into_the_publication_and_tables_are_read(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.sql(f"alter publication {PUBLICATION} drop table notifications")
    lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    lab.says("public.notifications is not in the publication")
    lab.sql(f"alter publication {PUBLICATION} add table notifications")
    lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    assert lab.engine.ask("GET", "/api/sinks/all")["health"]["status"] != "error"


def test_a_table_that_cannot_be_put_into_the_publication_says_what_can_be_done(lab: Lab, receiver: Receiver) -> None:
    def read_tables() -> None:
        lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})

    lab.engine.sink("all", receiver.url)
    lab.sql("alter table notifications rename to messages")
    read_tables()
    lab.says("There is no table public.notifications: it was renamed or dropped", "Change the sink's source")
    lab.sql("alter table messages rename to notifications")
    read_tables()
    lab.is_well()
    lab.sql(f"alter publication {PUBLICATION} drop table notifications")
    lab.sql("alter table notifications set unlogged")
    read_tables()
    lab.says("public.notifications is unlogged", "ALTER TABLE public.notifications SET LOGGED;")


def test_the_command_for_a_table_that_is_not_published_works_for_every_name(lab: Lab, receiver: Receiver) -> None:
    lab.sql('create table "Sales ""2025""" (id int primary key)')
    lab.sql(f'alter publication {PUBLICATION} add table "Sales ""2025"""')
    lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    lab.engine.sink("all", receiver.url, source={"include_tables": ['public.Sales "2025"']})
    lab.sql(f'alter publication {PUBLICATION} drop table "Sales ""2025"""')
    lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    command = f'ALTER PUBLICATION {PUBLICATION} ADD TABLE public."Sales ""2025""";'
    lab.says(command)
    lab.sql(command)
    lab.engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
    lab.is_well()


# --- state that does not match the server ------------------------------------------------------------------------------


def test_an_older_copy_of_the_state_says_what_it_misses(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    state = Path(str(lab.engine.config["store"]))
    lab.engine.stop()
    copy = shutil.copytree(state.parent, lab.folder / "copy")
    lab.engine = _again(lab.engine).start()
    lab.insert("delivered before the copy was put back")
    receiver.wait_for(1)
    eventually(lambda: _confirmed(lab) > _last_commit(receiver), what="the change to be confirmed")
    lab.engine.kill()
    for file in state.parent.glob(f"{state.name}*"):
        file.unlink()
    for file in copy.glob(f"{state.name}*"):
        shutil.copy(file, state.parent)
    lab.engine.start()
    lab.says("Postgres has lost", "older copy", "Start a backfill")


def _again(engine: EngineProgram) -> EngineProgram:
    """Return a new engine program on the state of a stopped one."""
    twin = EngineProgram(
        str(engine.config["database_url"]), engine.log.parent, publication=PUBLICATION, slot=str(engine.config["slot"]), silence=SILENCE
    )
    twin.config |= {"api_token": engine.token, "store": engine.config["store"]}
    twin.token = engine.token
    twin.http.headers["authorization"] = f"Bearer {engine.token}"
    return twin


def test_a_server_restored_from_a_backup_stops_the_engine_loudly(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.insert("in the backup")
    receiver.wait_for(1)
    data = lab.server.data_dir
    lab.server.stop()
    backup = data.with_name("backup")
    _copy(data, backup)
    lab.server.start()
    lab.insert("not in the backup", *["x" * 1000] * 50)
    receiver.wait_for(52)
    lab.server.stop()
    shutil.rmtree(data)
    backup.rename(data)
    lab.server.start()
    lab.says("Postgres has gone back in time", "restored from a backup")
    while lab.sql("select pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0] < _last_commit(receiver) + 100_000:
        lab.insert(*["y" * 1000] * 50)
    lab.hang_up()
    lab.engine.kill()
    lab.engine.start()
    lab.says("Postgres has gone back in time")
    assert len(receiver.ids()) == 52


def _copy(source: Path, target: Path) -> None:
    """Copy a cluster's folder, and keep owners and modes."""
    shutil.copytree(source, target)
    for path in (source, *source.rglob("*")):
        copy = target / path.relative_to(source)
        shutil.chown(copy, path.stat().st_uid, path.stat().st_gid)
        copy.chmod(path.stat().st_mode)


def test_another_cluster_in_the_place_of_ours_is_not_read(lab: Lab, receiver: Receiver) -> None:
    lab.engine.sink("all", receiver.url)
    lab.insert("ours")
    receiver.wait_for(1)
    database = lab.url.rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="userhooks-other-") as folder:
        other = PostgresServer(Path(folder), port=lab.server.port, password="x", log=Path(folder) / "postgres.log")
        lab.server.stop()
        try:
            other.start()
            with psycopg.connect(other.url(), autocommit=True) as admin:
                admin.execute(f"create database {database}".encode())
            Database(lab.url).set_up(PUBLICATION)
            lab.insert("theirs")
            lab.says("not the Postgres that the engine's state belongs to", "system_identifier")
            lab.engine.endpoint("more", receiver.url)
            body = {"name": "more", "database": "postgres", "source": {}, "destination": {"type": "webhook", "http_endpoint": "more"}}
            assert lab.engine.http.post("/api/sinks", json=body).status_code == 503
            assert lab.sql("select slot_name from pg_replication_slots") == []
        finally:
            other.remove()
    lab.server.start()
    lab.insert("ours again")
    receiver.wait_for(2)
    assert [m["record"]["message"] for m in receiver.messages()] == ["ours", "ours again"]
    lab.is_well()
