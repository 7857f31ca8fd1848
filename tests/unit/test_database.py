"""The app's database on a real server: setup and teardown from sql/, checks and their remedies, users, and rows."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.ports import free_port
from userhooks.errors import ConfigurationError, DatabaseUnavailable, DatabaseUnsuitable, NotFound, UserhooksError
from userhooks.stack import embedded_postgres
from userhooks.stack.embedded_postgres import PostgresServer, find_binaries
from userhooks.webhooks import database as database_module
from userhooks.webhooks.database import Database, SubscriptionRow

SQL = Path(__file__).resolve().parents[2] / "sql"
SINK = "8c1de7d4-54a6-4be5-8b27-39a8b7a1a6f0"


@pytest.fixture
def database(database_url: str) -> Database:
    database = Database(database_url)
    database.set_up("my_pub")
    return database


def ask(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def relations(url: str) -> set[object]:
    return {name for (name,) in ask(url, "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'")}


# --- setup and teardown ----------------------------------------------------------------------------------------------------


def test_set_up_makes_the_three_tables_marked_and_ready_for_replication(database: Database, database_url: str) -> None:
    marks = ask(
        database_url, "select obj_description(oid, 'pg_class') from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
    )
    assert marks == [("userhooks",)] * 3
    assert ask(database_url, "select relreplident::text from pg_class where relname = 'notifications'") == [("f",)]
    assert ask(database_url, "select pubname, schemaname, tablename from pg_publication_tables") == [("my_pub", "public", "notifications")]
    assert database.users() == [(1, "User 1"), (2, "User 2"), (3, "User 3")]


def test_deleting_a_user_deletes_what_is_the_users(database: Database, database_url: str) -> None:
    database.insert_notifications([(1, "a"), (2, "b")])
    with database.locked_user(1) as user:
        user.add("http://example.com/", SINK)
    ask(database_url, "delete from users where id = 1")
    assert ask(database_url, "select user_id from notifications") == [(2,)]
    assert database.subscriptions() == []


def test_set_up_again_changes_nothing(database: Database) -> None:
    database.insert_notifications([(1, "kept")])
    database.set_up("my_pub")
    assert len(database.users()) == 3
    assert database.insert_notifications([(1, "the next id")]) == [2]


def test_set_up_makes_no_test_users_where_there_are_users(database: Database, database_url: str) -> None:
    ask(database_url, "delete from users where id <> 2")
    database.set_up("my_pub")
    assert database.users() == [(2, "User 2")]


def test_set_up_without_a_publication_leaves_publications_to_sequin(database_url: str) -> None:
    Database(database_url).set_up(None)
    assert ask(database_url, "select pubname from pg_publication") == []


def test_a_table_that_was_made_anew_comes_back_into_the_publication(database: Database, database_url: str) -> None:
    ask(database_url, "drop table notifications")
    database.set_up("my_pub")
    assert ask(database_url, "select tablename from pg_publication_tables") == [("notifications",)]


def test_several_processes_can_set_up_at_once(database_url: str) -> None:
    code = "import sys; from userhooks.webhooks.database import Database; Database(sys.argv[1]).set_up('my_pub')"
    running = [subprocess.Popen([sys.executable, "-c", code, database_url], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0], errors
    assert len(Database(database_url).users()) == 3


@pytest.mark.parametrize("table", ["users", "notifications", "webhook_subscriptions"])
def test_a_table_of_the_readers_own_is_an_error_and_nothing_is_written(database_url: str, table: str) -> None:
    ask(database_url, f"create table public.{table} (mine text)")
    with pytest.raises(DatabaseUnsuitable) as caught:
        Database(database_url).set_up("my_pub")
    assert f"public.{table}" in caught.value.what
    assert "Nothing was written" in caught.value.what
    assert "CREATE DATABASE" in caught.value.remedy
    assert relations(database_url) == {table}


def test_a_publication_of_the_readers_own_is_an_error_and_nothing_is_written(database_url: str) -> None:
    ask(database_url, "create publication my_pub for all tables")
    with pytest.raises(DatabaseUnsuitable, match="my_pub"):
        Database(database_url).set_up("my_pub")
    assert relations(database_url) == set()


def test_a_publication_name_is_no_sql(database_url: str) -> None:
    name = """x"; drop table users; --' """
    Database(database_url).set_up(name)
    assert ask(database_url, "select pubname from pg_publication") == [(name,)]
    assert "users" in relations(database_url)


def test_teardown_drops_what_is_marked_and_nothing_else(database: Database, database_url: str) -> None:
    ask(database_url, "create table public.mine (x int)")
    ask(database_url, "create publication mine for table public.mine")
    database.tear_down()
    assert relations(database_url) == {"mine"}
    assert ask(database_url, "select pubname from pg_publication") == [("mine",)]
    database.tear_down()


def test_teardown_keeps_a_table_that_lost_its_mark(database: Database, database_url: str) -> None:
    ask(database_url, "comment on table notifications is 'mine now'")
    with pytest.raises(DatabaseUnsuitable, match="depend"):
        database.tear_down()
    assert relations(database_url) == {"users", "notifications", "webhook_subscriptions"}


def test_the_files_run_with_psql_as_their_first_lines_say(database_url: str) -> None:
    psql = find_binaries().program("psql")

    def run(*names: str) -> None:
        files = [part for name in names for part in ("-f", str(SQL / name))]
        command = [psql, database_url, "-1", "-q", "-v", "ON_ERROR_STOP=1", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    for _ in range(2):
        run("tables.sql", "replica_identity.sql", "publication.sql", "test_users.sql")
    assert ask(database_url, "select pubname, tablename from pg_publication_tables") == [("userhooks_pub", "notifications")]
    assert len(Database(database_url).users()) == 3
    run("teardown.sql")
    assert relations(database_url) == set()


# --- checks ----------------------------------------------------------------------------------------------------------------


def test_a_fit_database_passes_the_check(database_url: str) -> None:
    Database(database_url).check("my_slot")
    Database(database_url).check()


@pytest.mark.parametrize("url", ["not a url", "postgresql://u:hunter2@h:notaport/db?nonsense=1", "postgresql://u:hunter2@[::1/db"])
def test_a_malformed_address_is_told_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert "DATABASE_URL" in caught.value.what
    assert "hunter2" not in str(caught.value)


def test_nothing_listens_there(database_url: str) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        Database(f"postgresql://postgres:hunter2@127.0.0.1:{free_port()}/postgres").check()
    assert "is not available" in caught.value.what
    assert "userhooks up" in caught.value.remedy
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password(database_url: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    with pytest.raises(DatabaseUnavailable, match="password authentication failed") as caught:
        Database(psycopg.conninfo.make_conninfo(database_url, password="hunter2")).check()
    assert str(parts["password"]) not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_database_that_does_not_exist(database_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="nowhere"):
        Database(psycopg.conninfo.make_conninfo(database_url, dbname="nowhere")).check()


def test_an_old_server_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_MIN_VERSION", 99)
    with pytest.raises(DatabaseUnsuitable, match="99 or newer"):
        Database(database_url).check()


def test_wal_level_must_be_logical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "SETTINGS", {**embedded_postgres.SETTINGS, "wal_level": "replica"})
    server = PostgresServer(tmp_path, port=free_port(), password=secrets.token_hex(16), log=tmp_path / "postgres.log")
    try:
        server.start()
        with pytest.raises(DatabaseUnsuitable) as caught:
            Database(server.url()).check()
    finally:
        server.remove()
    assert "wal_level is replica" in caught.value.what
    assert "ALTER SYSTEM SET wal_level" in caught.value.remedy


@pytest.fixture
def plain_role_url(database_url: str) -> Iterator[str]:
    """Yield the URL of the same database for a role that may only log in."""
    ask(database_url, "create role plain login password 'plain'")
    yield psycopg.conninfo.make_conninfo(database_url, user="plain", password="plain")
    ask(database_url, "drop owned by plain")
    ask(database_url, "drop role plain")


def test_a_role_that_may_not_create_and_then_not_replicate(database_url: str, plain_role_url: str) -> None:
    with pytest.raises(DatabaseUnsuitable, match="may not create") as caught:
        Database(plain_role_url).check("my_slot")
    for statement in caught.value.remedy.removeprefix("Run ").split(";")[:-1]:
        ask(database_url, statement)
    Database(plain_role_url).check()
    with pytest.raises(DatabaseUnsuitable, match="may not replicate") as caught:
        Database(plain_role_url).check("my_slot")
    ask(database_url, caught.value.remedy.removeprefix("Run ").split(";")[0])
    Database(plain_role_url).check("my_slot")


def test_all_slots_taken(database_url: str) -> None:
    ((limit,),) = ask(database_url, "show max_replication_slots")
    ((used,),) = ask(database_url, "select count(*) from pg_replication_slots")
    assert isinstance(used, int)
    for number in range(int(str(limit)) - used):
        ask(database_url, f"select pg_create_logical_replication_slot('test_{number}', 'pgoutput')")
    with pytest.raises(DatabaseUnsuitable, match="replication slots of this Postgres server are taken") as caught:
        Database(database_url).check("my_slot")
    assert "max_replication_slots" in caught.value.remedy
    Database(database_url).check("test_0")
    Database(database_url).check()


def test_a_database_that_was_never_set_up(database_url: str) -> None:
    with pytest.raises(DatabaseUnsuitable) as caught:
        Database(database_url).users()
    assert "not set up" in caught.value.what
    assert "userhooks up" in caught.value.remedy


@pytest.mark.parametrize(
    ("statement", "words", "remedy"),
    [
        (
            "select nme from users",
            'column "nme" does not exist, at character 8.',
            'Perhaps you meant to reference the column "users.name".',
        ),
        ("selct 1", 'syntax error at or near "selct", at character 1.', ""),
        ("select * from notification", 'relation "notification" does not exist, at character 15.', ""),
        ("select users.name from notifications", 'missing FROM-clause entry for table "users", at character 8.', ""),
        (
            "insert into users (id, name) values (1, 'x')",
            'duplicate key value violates unique constraint "users_pkey". Key (id)=(1) already exists.',
            "",
        ),
        ("insert into users (name) values (null)", 'null value in column "name" of relation "users" violates not-null constraint.', ""),
        ("select 1 / 0", "division by zero.", ""),
        ("select 'x'::int", 'invalid input syntax for type integer: "x", at character 8.', ""),
        ("set statement_timeout = 20; select pg_sleep(60)", "canceling statement due to statement timeout.", ""),
        (
            "create table mine (id int references users); insert into mine values (99)",
            'insert or update on table "mine" violates foreign key constraint "mine_id_fkey". Key (id)=(99) is not present in',
            "",
        ),
    ],
)
def test_a_mistake_in_sql_is_answered_in_postgres_own_words(database: Database, statement: str, words: str, remedy: str) -> None:
    with pytest.raises(UserhooksError) as caught, database.connect() as connection:
        connection.execute(statement.encode())
    assert caught.value.what.startswith(words)
    assert caught.value.remedy == remedy


def test_a_lock_that_is_not_that_of_a_user_is_told_in_postgres_own_words(database: Database) -> None:
    with database.connect() as holder:
        holder.execute("lock table users")
        with pytest.raises(UserhooksError) as caught, database.connect() as connection:
            connection.execute("lock table users nowait")
    assert str(caught.value) == 'could not obtain lock on relation "users".'


def test_what_a_role_may_not_do_comes_with_a_remedy_for_our_own_tables_only(database: Database, plain_role_url: str) -> None:
    for table, remedy in (("users", "Use a role that owns these tables in DATABASE_URL."), ("pg_authid", "")):
        with pytest.raises(DatabaseUnsuitable) as caught, Database(plain_role_url).connect() as connection:
            connection.execute(sql.SQL("select * from {}").format(sql.Identifier(table)))
        assert (caught.value.what, caught.value.remedy) == (f"permission denied for table {table}.", remedy)


# --- users and rows --------------------------------------------------------------------------------------------------------


def test_users_and_notifications(database: Database, database_url: str) -> None:
    ada = database.create_user("Ada'); drop table users; --")
    assert database.users()[-1] == (ada, "Ada'); drop table users; --")
    assert database.user_exists(ada)
    assert not database.user_exists(ada + 1)
    assert not database.user_exists(10**30)
    ids = database.insert_notifications([(ada, "first"), (1, "second"), (ada, "third")])
    assert ask(database_url, "select id, user_id, message from notifications order by id") == [
        (ids[0], ada, "first"),
        (ids[1], 1, "second"),
        (ids[2], ada, "third"),
    ]
    assert database.insert_notifications([]) == []


def test_a_notification_for_an_unknown_user_writes_nothing(database: Database, database_url: str) -> None:
    with pytest.raises(NotFound, match="99") as caught:
        database.insert_notifications([(1, "a"), (99, "b")])
    assert "INSERT INTO users" in caught.value.remedy
    assert ask(database_url, "select * from notifications") == []


def test_subscription_rows_last_only_when_the_block_ends_well(database: Database) -> None:
    with database.locked_user(2) as user:
        user.add("http://example.com/", SINK)
        assert user.subscriptions() == [SubscriptionRow(2, "http://example.com/", SINK)]

    def remove_and_fail() -> None:
        with database.locked_user(2) as user:
            user.remove(SINK)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        remove_and_fail()
    assert database.subscriptions() == [SubscriptionRow(2, "http://example.com/", SINK)]
    with database.locked_user(1) as user:
        user.remove(SINK)
    assert len(database.subscriptions()) == 1, "another user's row"
    with database.locked_user(2) as user:
        user.remove(SINK)
    assert database.subscriptions() == []


def test_a_user_can_be_required_under_the_lock(database: Database) -> None:
    with database.locked_user(1) as user:
        user.require()
    for unknown in (99, 10**30):
        with database.locked_user(unknown) as user, pytest.raises(NotFound, match=f"There is no user {unknown}"):
            user.require()


def test_one_users_lock_is_held_by_one_at_a_time_and_leaves_others_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_LOCK_TIMEOUT_MS", 50)
    with database.locked_user(1):
        with database.locked_user(2):
            pass
        with pytest.raises(DatabaseUnavailable, match="busy"), database.locked_user(1):
            pass
    with database.locked_user(1):
        pass


def test_a_connection_that_breaks_off_is_database_unavailable(database: Database, database_url: str) -> None:
    def lose_the_connection() -> None:
        with database.locked_user(1) as user:
            ask(database_url, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'userhooks'")
            user.subscriptions()

    with pytest.raises(DatabaseUnavailable):
        lose_the_connection()


# --- the schema of a lesson ------------------------------------------------------------------------------------------------


def test_a_schema_of_our_own_is_made_once_and_goes_with_what_is_in_it(database: Database, database_url: str) -> None:
    database.create_schema("lesson_X-1")
    ask(database_url, 'create table "lesson_X-1".orders (id int)')
    database.create_schema("lesson_X-1")
    assert database.has_schema("lesson_X-1")
    assert ask(database_url, "select relname from pg_class where relname = 'orders'") == [("orders",)]
    database.drop_schema("lesson_X-1")
    database.drop_schema("lesson_X-1")
    assert not database.has_schema("lesson_X-1")
    assert ask(database_url, "select relname from pg_class where relname = 'orders'") == []


def test_a_schema_of_somebody_else_is_neither_used_nor_dropped(database: Database, database_url: str) -> None:
    ask(database_url, "create schema lesson_10")
    with pytest.raises(DatabaseUnsuitable, match="a schema lesson_10 that userhooks did not create"):
        database.create_schema("lesson_10")
    assert not database.has_schema("lesson_10")
    database.drop_schema("lesson_10")
    assert ask(database_url, "select nspname from pg_namespace where nspname = 'lesson_10'") == [("lesson_10",)]


def test_no_foreign_key_makes_deleting_a_user_read_whole_tables(database: Database, database_url: str) -> None:
    database.set_up(None)
    database.set_up(None)
    without_index = """
        select conrelid::regclass::text from pg_constraint c
         where contype = 'f' and confrelid = 'public.users'::regclass
           and not exists (select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1] and i.indpred is null)"""
    assert ask(database_url, without_index) == []
    assert len(ask(database_url, "select conname from pg_constraint where contype = 'f' and confrelid = 'public.users'::regclass")) == 2


def test_setting_up_again_does_not_wait_for_those_who_write(database: Database, database_url: str) -> None:
    database.set_up(None)
    with psycopg.connect(database_url) as writer, psycopg.connect(database_url) as other:
        writer.execute("insert into notifications (user_id, message) values (1, 'not committed yet')")
        other.execute("set lock_timeout = '1ms'")
        other.execute((SQL / "tables.sql").read_text())
