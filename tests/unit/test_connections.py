"""Connections do not depend on settings of the environment, the role, or the database; DATABASE_URL takes all of libpq's forms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import pq, sql

from tests.hostile import EXPECTED, SETTINGS, VARIABLES
from tests.ports import free_port
from userhooks.errors import ConfigurationError
from userhooks.settings import Settings
from userhooks.stack.embedded_postgres import PostgresServer
from userhooks.webhooks.database import Database


def settings_of(url: str) -> dict[str, str]:
    with Database(url).connect() as connection:
        found = {name: str(connection.execute("select current_setting(%s)", [name]).fetchone()[0]) for name in EXPECTED}  # type: ignore[index]
    return {**found, "DateStyle": found["DateStyle"].partition(",")[0]}


@pytest.fixture
def hostile_url(database_url: str) -> Iterator[str]:
    """Yield the URL of a database that overrides every setting a session needs, for the database and for a role."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("create role hostile superuser login password 'hostile'")
        for name, value in SETTINGS.items():
            for whose in (sql.Identifier(admin.info.dbname), sql.Identifier("hostile")):
                kind = "database" if whose != sql.Identifier("hostile") else "role"
                admin.execute(sql.SQL(f"alter {kind} {{}} set {{}} = {{}}").format(whose, sql.Identifier(name), value))
        yield psycopg.conninfo.make_conninfo(database_url, user="hostile", password="hostile")
    with psycopg.connect(database_url, autocommit=True, options="-c default_transaction_read_only=off -c statement_timeout=0") as admin:
        admin.execute("set transaction_timeout = 0")
        admin.execute("drop owned by hostile cascade")
        admin.execute("drop role hostile")


def test_the_hostile_environment_has_every_variable_of_libpq() -> None:
    known = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    assert known <= VARIABLES.keys()


@pytest.mark.parametrize("variable", VARIABLES)
def test_no_variable_of_libpq_changes_a_connection_to_a_complete_address(
    variable: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, VARIABLES[variable])
    assert settings_of(postgres_server.url()) == EXPECTED


def test_all_variables_at_once_change_nothing_and_are_there_afterwards(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    assert settings_of(postgres_server.url()) == EXPECTED
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES


def test_what_role_and_database_set_changes_no_session(hostile_url: str) -> None:
    assert settings_of(hostile_url) == EXPECTED


def test_the_tables_are_set_up_where_role_and_database_set_everything_otherwise(hostile_url: str) -> None:
    database = Database(hostile_url)
    database.check("a_slot")
    database.set_up("my_pub")
    assert database.insert_notifications([(1, "Grüße \\ '")]) == [1]
    with database.connect() as connection:
        assert connection.execute("select message from notifications").fetchall() == [("Grüße \\ '",)]


def test_a_database_without_an_encoding_gives_text(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("create database plain_ascii encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0")
        try:
            database = Database(psycopg.conninfo.make_conninfo(database_url, dbname="plain_ascii"))
            database.set_up("my_pub")
            assert database.create_user("Zoë") == 4
            assert database.users()[-1] == (4, "Zoë")
        finally:
            admin.execute("drop database plain_ascii")


def test_options_in_the_address_count_where_they_are_not_ours_to_decide(postgres_server: PostgresServer) -> None:
    url = psycopg.conninfo.make_conninfo(postgres_server.url(), options="-c work_mem=5MB -c TimeZone=America/New_York -c geqo=off")
    with Database(url).connect() as connection:
        row = connection.execute("select current_setting('work_mem'), current_setting('geqo'), current_setting('TimeZone')").fetchone()
    assert row == ("5MB", "off", "UTC")


# --- DATABASE_URL ----------------------------------------------------------------------------------------------------------


def url_of(folder: Path, **environment: str) -> str:
    return Settings.from_env(environment, folder).database_url or ""


def test_what_database_url_leaves_out_comes_from_the_environment(postgres_server: PostgresServer, tmp_path: Path) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(postgres_server.url())
    environment = {
        "PGHOST": parts["host"],
        "PGPORT": parts["port"],
        "PGUSER": parts["user"],
        "PGPASSWORD": parts["password"],
        "PGSSLMODE": "disable",
        "PGTZ": "America/New_York",
        "PGOPTIONS": "-c geqo=off",
        "PGSERVICE": "nowhere",
    }
    url = url_of(tmp_path, DATABASE_URL=f"postgresql:///{parts['dbname']}", **{name: str(value) for name, value in environment.items()})
    assert settings_of(url) == EXPECTED
    assert psycopg.conninfo.conninfo_to_dict(url)["sslmode"] == "disable"


def test_a_host_in_database_url_is_not_led_elsewhere_by_the_environment(tmp_path: Path) -> None:
    environment = {"PGHOSTADDR": "127.0.0.2", "PGPORT": "1", "PGPASSWORD": "wrong", "PGTARGETSESSIONATTRS": "standby"}
    url = "postgresql://ada:secret@127.0.0.1/app"
    assert url_of(tmp_path, DATABASE_URL=url, **environment) == url


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_a_line_end_behind_database_url_does_not_belong_to_it(end: str, postgres_server: PostgresServer, tmp_path: Path) -> None:
    assert settings_of(url_of(tmp_path, DATABASE_URL=postgres_server.url() + end)) == EXPECTED


def test_several_hosts_are_tried_in_order(postgres_server: PostgresServer, tmp_path: Path) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(postgres_server.url())
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{parts['port']}"
    url = url_of(tmp_path, DATABASE_URL=f"postgresql://{parts['user']}:{parts['password']}@{hosts}/{parts['dbname']}")
    assert settings_of(url) == EXPECTED


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://ada:s3cret@127.0.0.1/app?schema=public", "sets schema, which is not a parameter of Postgres"),
        ("host=127.0.0.1 password=s3cret pool_size=3", "sets pool_size, which"),
        ("postgresql+asyncpg://ada:s3cret@127.0.0.1/app", "does not begin with postgresql://"),
        ('"postgresql://ada:s3cret@127.0.0.1/app"', "does not begin with postgresql://"),
        ("postgresql://ada:s3cret@127.0.0.1:port/app", "has a port that is not a number"),
        ("postgresql://ada:s3cret@127.0.0.1:70000/app", "has a port that is not a number"),
        ("postgresql://ada:s3cr@et@127.0.0.1/app", "more than one @"),
        ("postgresql://ada:s3cr/et@127.0.0.1/app", "has a port that is not a number"),
        ("postgresql://ada:s3cret%zz@127.0.0.1/app", "invalid percent-encoded token"),
        ("postgresql://ada:s3cret@one:1,two:2,three:3,four/app?port=1,2", "names 4 hosts and 2 ports"),
    ],
)
def test_a_database_url_that_libpq_does_not_understand_is_refused_with_the_reason(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        url_of(tmp_path, DATABASE_URL=url)
    assert says in caught.value.what
    assert caught.value.remedy
    assert "s3cr" not in str(caught.value)
