"""Explanations of problems between the engine and Postgres, each with a remedy. No I/O; `capture/capture_health.py` records the problems.

Errors are recognized by the English messages of Postgres 18 and libpq, because most of them occur while connecting, when libpq does not
expose the SQLSTATE. An unrecognized message is shown unchanged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from userhooks.engine.resources import TableName
from userhooks.errors import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem in one sentence (`what`), and one or more sentences that say how to fix it (`remedy`)."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


class Unavailable(DatabaseUnavailable):
    """Replication or a query cannot proceed, for a known reason."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.what, trouble.remedy)


@dataclass(frozen=True, slots=True)
class Names:
    """The names used in explanations; `server` is host:port."""

    server: str
    database: str
    user: str
    slot: str
    publication: str


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_START = "Start it, for example with userhooks up."
_WAIT = "Wait; the engine reconnects by itself."
_CHECK_SERVER = "Check whether it is overloaded, suspended, or unreachable."
_GRANT_REPLICATION = "Run ALTER ROLE {user} REPLICATION; as a superuser (on RDS: GRANT rds_replication TO {user};)."
_SENDERS = "Raise max_wal_senders and restart Postgres, or stop a client that is not needed (SELECT * FROM pg_stat_replication;)."

_KNOWN = [
    (re.escape(pattern), what, remedy)
    for pattern, what, remedy in (
        (
            "password authentication failed",
            "Postgres at {server} refuses the password of the role {user}.",
            "Correct it in DATABASE_URL and restart the engine, or reset it with ALTER ROLE {user} PASSWORD '…';",
        ),
        (
            "permission denied to start WAL sender",
            "The role {user} may not replicate.",
            _GRANT_REPLICATION,
        ),
        ("permission denied to use replication slots", "The role {user} may not replicate.", _GRANT_REPLICATION),
        (
            "no pg_hba.conf entry",
            "The server's pg_hba.conf has no line that allows the role {user} to connect from this host.",
            "Add a line for the database {database}, which covers logical replication too, then run SELECT pg_reload_conf();",
        ),
        (
            "pg_hba.conf rejects connection",
            "The server's pg_hba.conf rejects the role {user}.",
            "Correct the line for the database {database}, then run SELECT pg_reload_conf();",
        ),
        ("not permitted to log in", "The role {user} may not log in.", "Run ALTER ROLE {user} LOGIN;"),
        ("the database system is starting up", "Postgres at {server} is starting up.", _WAIT),
        ("not yet accepting connections", "Postgres at {server} is recovering.", _WAIT),
        ("the database system is in recovery mode", "Postgres at {server} is recovering.", _WAIT),
        ("the database system is shutting down", "Postgres at {server} is shutting down.", _START),
        ("terminating connection due to administrator command", "Postgres at {server} has closed the connection.", _START),
        ("Connection refused", "Nothing answers at {server}: Postgres is not running there.", _START),
        ("connection timeout expired", "Postgres at {server} does not answer.", _CHECK_SERVER),
        ("could not translate host name", "The host name of the server {server} cannot be resolved.", "Correct DATABASE_URL."),
        ("failed to resolve host", "The host name of the server {server} cannot be resolved.", "Correct DATABASE_URL."),
        (
            "too many clients already",
            "All connections of Postgres at {server} are taken.",
            "Close some (SELECT * FROM pg_stat_activity;), or raise max_connections and restart Postgres.",
        ),
        (
            "remaining connection slots are reserved",
            "All connections of Postgres at {server} are taken.",
            "Close some (SELECT * FROM pg_stat_activity;), or raise max_connections and restart Postgres.",
        ),
        ('exceeds "max_wal_senders"', "All WAL senders of Postgres at {server} are taken.", _SENDERS),
        ("exceeds max_wal_senders", "All WAL senders of Postgres at {server} are taken.", _SENDERS),
        (
            "all replication slots are in use",
            "All replication slots of Postgres at {server} are taken.",
            "Drop one that is not needed (SELECT pg_drop_replication_slot('…');), or raise max_replication_slots and restart Postgres.",
        ),
        (
            '"wal_level" >= "logical"',
            "The server's wal_level is not logical.",
            "Run ALTER SYSTEM SET wal_level = 'logical'; and restart Postgres.",
        ),
        (
            "wal_level >= logical",
            "The server's wal_level is not logical.",
            "Run ALTER SYSTEM SET wal_level = 'logical'; and restart Postgres.",
        ),
        (
            "No space left on device",
            "The disk of Postgres at {server} is full.",
            "Free some space. SELECT slot_name, restart_lsn FROM pg_replication_slots; shows which slots keep WAL.",
        ),
        (
            "recovery is in progress",
            "Postgres at {server} is a standby.",
            "Set DATABASE_URL to the primary server's address.",
        ),
    )
] + [
    (
        r"role \"[^\"]*\" does not exist",
        "Postgres at {server} has no role {user}.",
        "Create it (CREATE ROLE {user} LOGIN REPLICATION PASSWORD '…';), or correct DATABASE_URL.",
    ),
    (r"database \"[^\"]*\" does not exist", "Postgres at {server} has no database {database}.", "Create it, or correct DATABASE_URL."),
    (
        r"is active for PID (?P<pid>\d+)",
        "The slot {slot} is in use by another process (PID {pid}).",
        "If it is another engine, stop one of the two. If it is a leftover process, run SELECT pg_terminate_backend({pid});",
    ),
    (
        r"permission denied for (?:table|view|relation) (?P<named>\S+)",
        "The role {user} may not read the table {table}, or some of its published columns.",
        "Run GRANT SELECT ON {table} TO {user};",
    ),
    (
        r"affected by row-level security policy for table \"(?P<named>[^\"]+)\"",
        "Row-level security hides rows of the table {table} from the role {user}, so the table is not read (row_security = off).",
        "Run ALTER ROLE {user} BYPASSRLS; as a superuser, or set DATABASE_URL to a role that may read all rows.",
    ),
    (
        r"permission denied for schema (?P<schema>\S+)",
        "The role {user} may not use the schema {schema}.",
        "Run GRANT USAGE ON SCHEMA {schema} TO {user};",
    ),
    (
        r"server closed the connection|connection reset|connection is closed|the connection is lost|SSL connection has been closed",
        "The connection to Postgres at {server} was lost.",
        _START,
    ),
]


def of_error(text: str, names: Names, table: TableName | None = None) -> Trouble:
    """Return the explanation of an error whose message is `text`, which never contains a connection string.

    `table` is the table that was being read, if any; Postgres' own messages omit its schema.
    """
    for pattern, what, remedy in _KNOWN:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            fields = {"server": names.server, "database": names.database, "user": names.user, "slot": names.slot, **match.groupdict()}
            fields["table"] = fields.get("named", "") if table is None else quoted(table).removeprefix("public.")
            return Trouble(what.format(**fields), remedy.format(**fields))
    message = " ".join(text.split()).replace(". ", "; ").removesuffix(".")
    return Trouble(f"Postgres says: {message or 'nothing'}.", "See the log of Postgres.")


def quoted(table: TableName) -> str:
    """Return a table's qualified name, quoted for SQL where necessary."""
    return ".".join(map(_identifier, table))


def _identifier(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


# --- problems without an error message ---------------------------------------------------------------------------------


def silent(names: Names, seconds: float) -> Trouble:
    """Explain that Postgres keeps the connection open but does not answer."""
    return Trouble(f"Postgres at {names.server} has not answered for {seconds:g} s.", _CHECK_SERVER)


def catalog_slow(names: Names, seconds: float) -> Trouble:
    """Explain that Postgres takes long to list the publication's tables."""
    return Trouble(
        f"Postgres at {names.server} takes longer than {seconds:g} s to list the tables of the publication {names.publication}.",
        "Changes are still delivered, but backfills and new sinks on unlisted tables must wait. "
        "Check whether Postgres is overloaded or its catalogs are locked (SELECT * FROM pg_locks WHERE NOT granted;).",
    )


def publication_missing(names: Names) -> Trouble:
    """Explain that the publication does not exist."""
    return Trouble(
        f"The publication {names.publication} is missing from the database {names.database}.",
        "Run userhooks up or CREATE PUBLICATION. Changes committed until then are lost to the sinks.",
    )


def table_missing(table: TableName) -> Trouble:
    """Explain that a sink refers to a table that does not exist."""
    name = ".".join(table)
    return Trouble(
        f"There is no table {name}: it was renamed or dropped, so none of its changes arrive.",
        "Change the sink's source to the table's new name and start a backfill, rename the table back, or delete the sink.",
    )


def table_not_published(table: TableName, names: Names) -> Trouble:
    """Explain that a sink refers to an existing table that is not in the publication."""
    return Trouble(
        f"The table {'.'.join(table)} is not in the publication {names.publication}, so none of its changes arrive.",
        f"Run ALTER PUBLICATION {_identifier(names.publication)} ADD TABLE {quoted(table)}; then start a backfill.",
    )


def table_unlogged(table: TableName) -> Trouble:
    """Explain that a sink refers to an unlogged table, whose changes are not in the WAL."""
    return Trouble(
        f"The table {'.'.join(table)} is unlogged, so none of its changes arrive.",
        f"Run ALTER TABLE {quoted(table)} SET LOGGED; and make sure that the table is in the publication. Then start a backfill.",
    )


def table_published_by_root(table: TableName, root: TableName, names: Names) -> Trouble:
    """Explain that a sink refers to a partition, whose changes are published under the name of its partitioned table."""
    return Trouble(
        f"The table {'.'.join(table)} is a partition, and its changes are published as those of {'.'.join(root)}.",
        f"Name {'.'.join(root)} in the sink's source instead; the publication {names.publication} sets publish_via_partition_root.",
    )


def slot_being_made(names: Names) -> Trouble:
    """Explain that Postgres cannot finish creating the slot until all open writing transactions have ended."""
    return Trouble(
        f"The slot {names.slot} is being created, and Postgres is waiting for open transactions to end.",
        "End any that were left open by mistake: SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL;",
    )


def slot_unfit(names: Names, *, plugin: str | None, database: str | None) -> Trouble | None:
    """Explain why an existing slot cannot be used by the engine; return None if it can."""
    drop = f"Drop it if nothing else uses it (SELECT pg_drop_replication_slot('{names.slot}');), or configure another slot name."
    if plugin != "pgoutput":
        kind = f"a slot of the plugin {plugin}" if plugin else "a physical slot"
        return Trouble(f"The slot {names.slot} is {kind}, not one of pgoutput.", drop)
    if database != names.database:
        return Trouble(f"The slot {names.slot} belongs to the database {database}, not to {names.database}.", drop)
    return None


def other_cluster(mismatch: str) -> Trouble:
    """Explain that the engine's state belongs to another cluster, database, or slot."""
    return Trouble(
        f"This is not the Postgres that the engine's state belongs to: {mismatch}.",
        "Nothing is read from it. Restore the previous server, or start over with a new USERHOOKS_HOME.",
    )


def gone_back(position: str, wal_end: str) -> Trouble:
    """Explain that the WAL ends before the engine's position, because the server was restored from a backup or its disk lost data."""
    return Trouble(
        f"Postgres has gone back in time: its WAL ends at {wal_end}, but the engine has already read up to {position}.",
        "Nothing is read, because Postgres would silently skip new changes. If it was restored from a backup,"
        " start over with a new USERHOOKS_HOME, subscribe again, and start backfills.",
    )
