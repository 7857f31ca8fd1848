"""Empty databases for tests. One that can be emptied again is lent to a later test, because creating one takes longer than most tests."""

from __future__ import annotations

import itertools

import psycopg
from psycopg import sql

from tests.waiting import eventually
from userhooks.stack.embedded_postgres import PostgresServer

_FIRST_USER_OID = 16_384
"""The first OID that Postgres gives to an object that is not part of the system (FirstNormalObjectId)."""
_CATALOGS = ("pg_class", "pg_type", "pg_proc", "pg_publication", "pg_event_trigger", "pg_foreign_server", "pg_cast", "pg_operator")
_LEFT = f"""
SELECT exists (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid) OR d.datacl IS NOT NULL OR d.datconnlimit <> -1
       OR exists (SELECT FROM pg_default_acl) OR exists (SELECT FROM pg_largeobject_metadata)
       OR exists (SELECT FROM pg_extension WHERE extname <> 'plpgsql')
       {"".join(f"OR exists (SELECT FROM {catalog} WHERE oid >= {_FIRST_USER_OID}) " for catalog in _CATALOGS)}
FROM pg_database d WHERE d.datname = current_database()
"""  # noqa: S608  # only constants from above
"""Whether the database differs from a new one, apart from the data in tables that every database has."""
_SYSTEM = "SELECT (SELECT (count(*), max(xmin::text::int8)) FROM pg_rewrite), (SELECT (count(*), max(xmin::text::int8)) FROM pg_proc)"
"""Numbers that change when somebody replaces or drops a view or function of the system."""


class Databases:
    """The databases of one server: `lend` an empty one, and `take_back` what a test has used."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._empty: list[str] = []
        self._system: dict[str, object] = {}

    def lend(self) -> str:
        """Return the URL of an empty database."""
        if self._empty:
            return self._server.url(self._empty.pop())
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._server.url(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(self._server.url(name)) as database:
            self._system[name] = database.execute(_SYSTEM).fetchone()
        return self._server.url(name)

    def take_back(self, url: str) -> None:
        """Drop the replication slots and everything else in a database; drop the database itself if anything would be left in it."""
        name = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
        with psycopg.connect(self._server.url(), autocommit=True) as admin:
            _drop_slots(admin, name)
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            if _emptied(url, self._system[name]):
                self._empty.append(name)
            else:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _emptied(url: str, system: object) -> bool:
    try:
        with psycopg.connect(url, autocommit=True) as database:
            for (publication,) in database.execute("SELECT pubname FROM pg_publication").fetchall():
                database.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(publication)))
            schemas = database.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'")
            for (schema,) in schemas.fetchall():
                database.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
            database.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC")
            left = database.execute(_LEFT).fetchone()
            return left == (False,) and database.execute(_SYSTEM).fetchone() == system
    except psycopg.Error:  # for example, the test did not allow connections
        return False


def _drop_slots(admin: psycopg.Connection, database: str) -> None:
    """Drop every slot of the database; the user of an active slot is disconnected first."""
    slots = "FROM pg_replication_slots WHERE database = %s"

    def none_active() -> bool:
        return not admin.execute(f"SELECT pg_terminate_backend(active_pid) {slots} AND active", [database]).fetchall()

    eventually(none_active, what=f"the slots of {database} to become inactive")
    admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots}", [database])
