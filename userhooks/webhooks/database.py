"""The app's database: checks for logical replication, setup from the files in `sql/`, users, notifications, and subscription rows.

Every method opens and closes its own connection. `subscriptions.py` manages whole subscriptions, and `stack/embedded_postgres.py` starts
the embedded server. The replication slot belongs to Sequin or to the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, NoReturn
from uuid import UUID

import psycopg
from psycopg import sql

import userhooks
from userhooks.errors import START, ConfigurationError, DatabaseUnavailable, DatabaseUnsuitable, InvalidInput, NotFound
from userhooks.shared import postgres_connections

_SQL = Path(userhooks.__file__).with_name("sql")
_MIN_VERSION = 14
_LOCK_TIMEOUT_MS = 60_000

_LIBPQ_ASKS = " Is the server running on that host and accepting TCP/IP connections?"
_CONNECTION = frozenset({"08", "28", "3D", "53300", "57P01", "57P02", "57P03", "57P05"})
"""SQLSTATEs and SQLSTATE classes that mean Postgres refused or closed the connection."""
_OUR_TABLES = re.compile(r"[^\w.](?:public\.)?(?:users|notifications|webhook_subscriptions)\W")
_NOT_IN_FROM = "errorMissingRTE"  # The Postgres function that reports a table missing from the FROM clause.
_USER_KEYS = ("notifications_user_id_fkey", "webhook_subscriptions_user_id_fkey")

# On managed services, a user may replicate as a member of a certain role rather than through the REPLICATION attribute.
_MAY_REPLICATE = """
select rolsuper or rolreplication or exists (
         select from pg_roles r
          where r.rolname in ('rds_replication', 'rds_superuser', 'azure_pg_admin') and pg_has_role(current_user, r.oid, 'member'))
  from pg_roles where rolname = current_user
"""
_SLOTS = """
select (select count(*) from pg_replication_slots where slot_name <> %(slot)s) < current_setting('max_replication_slots')::int,
       (select count(*) from pg_stat_activity where backend_type = 'walsender') < current_setting('max_wal_senders')::int,
       exists (select from pg_replication_slots where slot_name = %(slot)s)
"""
_MAY_CREATE = "select has_database_privilege(current_database(), 'create') and has_schema_privilege('public', 'create')"

_IS_SET_UP = "select to_regclass('public.notifications') is not null"

_ADD_USER = "List the users with SELECT id, name FROM users; and add one with INSERT INTO users (name) VALUES ('User 4');"

_LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
_LOCKS = "select pg_advisory_xact_lock(hashtextextended(name, 0)) from unnest(%s::text[]) name"
_INSERT_NOTIFICATIONS = """
insert into public.notifications (user_id, message)
select user_id, message from unnest(%s::int[], %s::text[]) with ordinality as given (user_id, message, position) order by position
returning id
"""
_INSERT_SUBSCRIPTION = """
insert into public.webhook_subscriptions (user_id, endpoint, sequin_sink_id, created_at) values (%s, %s, %s, clock_timestamp())
"""
_SCHEMA_MARK = "select coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace where nspname = %s"
_SUBSCRIPTIONS = "select user_id, endpoint, sequin_sink_id from public.webhook_subscriptions"


@dataclass(frozen=True)
class SubscriptionRow:
    """A row of webhook_subscriptions: the user, the webhook's URL, and the sink's id in Sequin."""

    user_id: int
    url: str
    sink_id: str


class LockedUser:
    """An open transaction that holds the lock on one user's subscriptions and can read and change their rows."""

    def __init__(self, connection: psycopg.Connection[Any], user_id: int) -> None:
        self._connection = connection
        self._user_id = user_id

    def require(self) -> None:
        """Raise NotFound if the user does not exist, and prevent its deletion until the transaction ends."""
        query = "select from public.users where id = %s for key share"
        if self._connection.execute(query, [self._user_id]).fetchone() is None:
            raise NotFound(f"There is no user {self._user_id}.", _ADD_USER)

    def subscriptions(self) -> list[SubscriptionRow]:
        """Return the user's subscriptions, oldest first."""
        rows = self._connection.execute(f"{_SUBSCRIPTIONS} where user_id = %s order by id", [self._user_id])
        return [SubscriptionRow(user_id, url, str(sink_id)) for user_id, url, sink_id in rows]

    def add(self, url: str, sink_id: str) -> None:
        """Add the row of a new subscription. Its date is the current time, because the transaction started before the sink existed."""
        self._connection.execute(_INSERT_SUBSCRIPTION, [self._user_id, url, UUID(sink_id)])

    def remove(self, sink_id: str) -> None:
        """Delete the row of the subscription with this sink."""
        delete = "delete from public.webhook_subscriptions where user_id = %s and sequin_sink_id = %s"
        self._connection.execute(delete, [self._user_id, UUID(sink_id)])

    def commit(self) -> None:
        """Commit the changes and release the lock."""
        self._connection.commit()


class LockedUsers:
    """An open transaction that holds the locks on many users' subscriptions and can read and change their rows."""

    def __init__(self, connection: psycopg.Connection[Any], user_ids: Sequence[int]) -> None:
        self._connection = connection
        self._user_ids = user_ids

    def require_new(self) -> None:
        """Raise NotFound if a user does not exist, and InvalidInput if one already has a subscription.

        The users cannot be deleted until the transaction ends.
        """
        query = "select id from public.users where id = any(%s) order by id for key share"
        known = {user_id for (user_id,) in self._connection.execute(query, [self._user_ids])}
        unknown = [user_id for user_id in self._user_ids if user_id not in known]
        if unknown:
            raise NotFound(f"There is no user {unknown[0]}.", _ADD_USER)
        for row in self.subscriptions():
            raise InvalidInput("userId", f"User {row.user_id} already has a subscription.", "Subscribe this user alone.")

    def subscriptions(self) -> list[SubscriptionRow]:
        """Return these users' subscriptions."""
        rows = self._connection.execute(f"{_SUBSCRIPTIONS} where user_id = any(%s) order by id", [self._user_ids])
        return [SubscriptionRow(user_id, url, str(sink_id)) for user_id, url, sink_id in rows]

    def add(self, subscriptions: Sequence[tuple[int, str, str]]) -> None:
        """Add the rows of new subscriptions, each given as user id, URL, and sink id."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_INSERT_SUBSCRIPTION, [(user_id, url, UUID(sink_id)) for user_id, url, sink_id in subscriptions])

    def remove(self) -> None:
        """Delete the rows of all subscriptions of these users."""
        self._connection.execute("delete from public.webhook_subscriptions where user_id = any(%s)", [self._user_ids])

    def commit(self) -> None:
        """Commit the changes and release the locks."""
        self._connection.commit()


class Database:
    """The app's database at `url`, a libpq connection string; raises ConfigurationError if the string is not valid.

    All methods raise DatabaseUnavailable if Postgres does not answer or drops the connection. They raise DatabaseUnsuitable, with Postgres'
    own message, if it refuses a statement or lacks something they need. No message contains the password.
    """

    def __init__(self, url: str) -> None:
        self._parts = postgres_connections.parse(url)
        self._url = url

    def check(self, slot: str | None = None) -> None:
        """Raise DatabaseUnsuitable unless the version, wal_level, privileges, and free slots allow logical replication through `slot`.

        If `slot` is None, the right to replicate and the free slots are not checked. This is for a separate Sequin server, which connects
        on its own and has its own slot.
        """
        with self.connect() as connection:
            if connection.info.server_version < _MIN_VERSION * 10_000:
                version = connection.info.parameter_status("server_version")
                what = f"Postgres {version} is too old: version {_MIN_VERSION} or newer is required."
                raise DatabaseUnsuitable(what, "Upgrade the server, or unset DATABASE_URL to use the embedded one.")
            wal_level = _one(connection, "show wal_level")
            if wal_level != "logical":
                remedy = "Run ALTER SYSTEM SET wal_level = 'logical'; and restart Postgres (managed services have a parameter for it)."
                raise DatabaseUnsuitable(f"wal_level is {wal_level}, but logical replication requires logical.", remedy)
            if not _one(connection, _MAY_CREATE) and not _one(connection, _IS_SET_UP):
                remedy = f"Run GRANT CREATE ON DATABASE {self._name()} TO {self._user()}; GRANT CREATE ON SCHEMA public TO {self._user()};"
                raise DatabaseUnsuitable(f"The role {self._user()} may not create tables and publications in {self._name()}.", remedy)
            if slot is not None:
                self._check_replication(connection, slot)

    def _check_replication(self, connection: psycopg.Connection[Any], slot: str) -> None:
        if not _one(connection, _MAY_REPLICATE):
            remedy = f"Run ALTER ROLE {self._user()} REPLICATION; as a superuser (on RDS: GRANT rds_replication TO {self._user()};)."
            raise DatabaseUnsuitable(f"The role {self._user()} may not replicate.", remedy)
        row = connection.execute(_SLOTS, {"slot": slot}).fetchone()
        slot_free, sender_free, slot_exists = row or (False, False, False)
        if not slot_free and not slot_exists:
            remedy = (
                "Drop one that is not needed (SELECT pg_drop_replication_slot('…')), or raise max_replication_slots and restart Postgres."
            )
            raise DatabaseUnsuitable("All replication slots of this Postgres server are taken.", remedy)
        if not sender_free and not slot_exists:
            raise DatabaseUnsuitable("All WAL senders of this Postgres server are taken.", "Raise max_wal_senders and restart Postgres.")

    def has_slot(self, slot: str) -> bool:
        """Return whether this database, not just its server, has the replication slot."""
        with self.connect() as connection:
            query = "select from pg_replication_slots where slot_name = %s and database = current_database()"
            return connection.execute(query, [slot]).fetchone() is not None

    def slot_progress(self, slot: str) -> tuple[int, int] | None:
        """Return the LSN a slot has confirmed and the end of the WAL, or None if the slot does not exist."""
        with self.connect() as connection:
            query = (
                "select coalesce(confirmed_flush_lsn, restart_lsn) - '0/0'::pg_lsn, pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
                " from pg_replication_slots where slot_name = %s"
            )
            row = connection.execute(query, [slot]).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def set_up(self, publication: str | None) -> None:
        """Apply the files in `sql/`: tables, replica identity, publication (unless None), and test users if there are no users.

        Everything happens in one transaction, and several processes may call it at once. Raises DatabaseUnsuitable, before anything is
        written, if an object with one of these names exists that userhooks did not create.
        """
        files = ["tables.sql", "replica_identity.sql", *(["publication.sql"] if publication else []), "test_users.sql"]
        scripts = [_read_sql(name) for name in files]
        with self.connect() as connection:
            connection.execute(_LOCK, ["userhooks set-up"])
            connection.execute("select set_config('userhooks.publication', %s, true)", [publication or ""])
            for script in scripts:
                connection.execute(script)

    def tear_down(self) -> None:
        """Apply `teardown.sql`, which drops the tables and publications that userhooks created."""
        script = _read_sql("teardown.sql")
        with self.connect() as connection:
            connection.execute(_LOCK, ["userhooks set-up"])
            connection.execute(script)

    def create_user(self, name: str) -> int:
        """Create a user and return its id."""
        with self.connect() as connection:
            return int(_one(connection, "insert into public.users (name) values (%s) returning id", [name]))

    def users(self) -> list[tuple[int, str]]:
        """Return (id, name) of all users, ordered by id."""
        with self.connect() as connection:
            return connection.execute("select id, name from public.users order by id").fetchall()

    def user_exists(self, user_id: int) -> bool:
        """Return whether a user with this id exists."""
        with self.connect() as connection:
            return bool(_one(connection, "select exists (select from public.users where id = %s)", [user_id]))

    def wal_position(self) -> int:
        """Return the WAL's insert position. Every change committed from now on has a commit LSN at or above it."""
        with self.connect() as connection:
            return int(_one(connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def insert_notifications(self, rows: Sequence[tuple[int, str]]) -> list[int]:
        """Insert rows, each given as user id and message, in one statement, and return their ids in order.

        Raises NotFound if a user does not exist.
        """
        with self.connect() as connection:
            ids = connection.execute(_INSERT_NOTIFICATIONS, [[user for user, _ in rows], [message for _, message in rows]])
            return [row_id for (row_id,) in ids]

    def create_schema(self, name: str) -> None:
        """Create a schema for a lesson's own tables, marked as created by userhooks, if it does not exist yet.

        Raises DatabaseUnsuitable if a schema with this name exists that userhooks did not create.
        """
        with self.connect() as connection:
            connection.execute(_LOCK, ["userhooks set-up"])
            mark = connection.execute(_SCHEMA_MARK, [name]).fetchone()
            if mark is None:
                connection.execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
                connection.execute(sql.SQL("comment on schema {} is 'userhooks'").format(sql.Identifier(name)))
            elif mark[0] != "userhooks":
                what = f"The database {self._name()} already has a schema {name} that userhooks did not create. Nothing was written."
                raise DatabaseUnsuitable(what, "Use an empty database: CREATE DATABASE userhooks; then end DATABASE_URL with /userhooks.")

    def has_schema(self, name: str) -> bool:
        """Return whether a schema with this name exists that userhooks created."""
        with self.connect() as connection:
            return bool(_one(connection, _SCHEMA_MARK, [name]) == "userhooks")

    def drop_schema(self, name: str) -> None:
        """Drop a schema and everything in it, unless userhooks did not create it."""
        if self.has_schema(name):
            with self.connect() as connection:
                connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name)))

    def subscriptions(self) -> list[SubscriptionRow]:
        """Return the rows of all subscriptions, ordered by user."""
        with self.connect() as connection:
            rows = connection.execute(f"{_SUBSCRIPTIONS} where user_id is not null order by user_id, id").fetchall()
        return [SubscriptionRow(user_id, url, str(sink_id)) for user_id, url, sink_id in rows]

    @contextmanager
    def locked(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        """Hold the lock with this name, across processes, in a transaction that is committed at the end."""
        with self.connect() as connection:
            connection.execute(f"set local lock_timeout = {_LOCK_TIMEOUT_MS}")
            with _waiting_for_lock():
                connection.execute(_LOCK, [name])
            yield connection

    @contextmanager
    def locked_user(self, user_id: int) -> Iterator[LockedUser]:
        """Hold the lock on one user's subscriptions, across processes, in a transaction that is committed at the end.

        The user need not exist, so that what a deleted user left behind can be removed under the same lock.
        """
        with self.locked(f"userhooks user {user_id}") as connection:
            yield LockedUser(connection, user_id)

    @contextmanager
    def locked_users(self, user_ids: Iterable[int]) -> Iterator[LockedUsers]:
        """Hold the locks of many users, acquired in the order of their ids so that two calls cannot deadlock."""
        ids = sorted(user_ids)
        with self.connect() as connection:
            connection.execute(f"set local lock_timeout = {_LOCK_TIMEOUT_MS}")
            with _waiting_for_lock():
                connection.execute(_LOCKS, [[f"userhooks user {user_id}" for user_id in ids]])
            yield LockedUsers(connection, ids)

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection for one transaction, committed at the end or rolled back on an exception; translates psycopg's errors."""
        try:
            with postgres_connections.connect(self._url) as connection:
                yield connection
        except psycopg.Error as error:
            self._translate(error)

    def _translate(self, error: psycopg.Error) -> NoReturn:
        """Raise the UserhooksError that corresponds to a psycopg error.

        The original error is not attached as its cause, because libpq's text may quote the connection string.
        """
        message = self._without_password(_message(error))
        hint = error.diag.message_hint or ""
        code = error.sqlstate
        if isinstance(error, psycopg.OperationalError) and (code is None or code[:2] in _CONNECTION or code in _CONNECTION):
            reason = message.removesuffix(".").rpartition(" failed: ")[2].removesuffix(_LIBPQ_ASKS)
            what = f"The database at {self._place()} is not available: {reason}."
            raise DatabaseUnavailable(what, f"{START}; or correct DATABASE_URL.") from None
        match error:
            case psycopg.errors.UndefinedTable() if _OUR_TABLES.search(message) and error.diag.source_function != _NOT_IN_FROM:
                raise DatabaseUnsuitable(f"{message} The database is not set up.", "Run userhooks up, which applies sql/.") from None
            case psycopg.errors.InsufficientPrivilege() if _OUR_TABLES.search(message):
                raise DatabaseUnsuitable(message, "Use a role that owns these tables in DATABASE_URL.") from None
            case psycopg.errors.ForeignKeyViolation() if error.diag.schema_name == "public" and error.diag.constraint_name in _USER_KEYS:
                raise NotFound(f"There is no such user: {error.diag.message_detail or message}", _ADD_USER) from None
            case psycopg.DataError():
                raise InvalidInput("value", message, hint) from None
        raise DatabaseUnsuitable(message, hint) from None

    def _without_password(self, text: str) -> str:
        password = self._parts.get("password")
        return text.replace(str(password), "…") if password else text

    def _place(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in postgres_connections.servers(self._parts))

    def _name(self) -> str:
        return str(self._parts.get("dbname") or self._user())

    def _user(self) -> str:
        return str(self._parts.get("user") or "postgres")


def _message(error: psycopg.Error) -> str:
    """Return Postgres' message, the position in the statement, and the detail as one text."""
    primary = " ".join((error.diag.message_primary or str(error)).split()).removesuffix(".")
    place = f", at character {error.diag.statement_position}" if error.diag.statement_position else ""
    detail = " ".join((error.diag.message_detail or "").split())
    return f"{primary}{place}. {detail}".rstrip()


@contextmanager
def _waiting_for_lock() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        what = "Another call for the same user or lesson has been busy for a minute."
        raise DatabaseUnavailable(what, "Try again, or look for a stuck process in pg_stat_activity.") from None


def _read_sql(name: str) -> str:
    try:
        return (_SQL / name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"The file {_SQL / name} cannot be read: {error.strerror}.", "Install userhooks again.") from None


def _one(connection: psycopg.Connection[Any], query: LiteralString, params: Sequence[object] = ()) -> Any:
    """Return the first column of the query's single row."""
    row = connection.execute(query, params or None).fetchone()
    return row[0] if row else None
