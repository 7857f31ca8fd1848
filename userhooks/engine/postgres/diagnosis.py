"""What can be wrong between the engine and Postgres, in words: what is the case, and what to do. Pure; the trouble is met in
`capture/` and noted in `capture/capture_health.py`.

Errors are recognised by what Postgres 18 and libpq say in English, since most of them come while connecting, where no SQLSTATE is handed
on. A message that is not recognised is shown as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from userhooks.engine.resources import TableName
from userhooks.errors import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class Trouble:
    """`what` is the case, as one sentence; `remedy`, the sentences that say what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


class Unavailable(DatabaseUnavailable):
    """Replication cannot go on, for a reason that is known."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.what, trouble.remedy)


@dataclass(frozen=True, slots=True)
class Names:
    """What the engine works with, by name; `server` is host:port."""

    server: str
    database: str
    user: str
    slot: str
    publication: str


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_START = "Start it, for example with userhooks up."
_GRANT_REPLICATION = "Run ALTER ROLE {user} REPLICATION; as a superuser (on RDS: GRANT rds_replication TO {user};)."
_SENDERS = "Raise max_wal_senders and restart Postgres, or end a replication that is not needed (SELECT * FROM pg_stat_replication;)."

_KNOWN = [
    (re.escape(pattern), what, remedy)
    for pattern, what, remedy in (
        (
            "password authentication failed",
            "Postgres at {server} refuses the password of the role {user}.",
            "Correct it in DATABASE_URL and restart the engine, or set it back with ALTER ROLE {user} PASSWORD '…';",
        ),
        (
            "permission denied to start WAL sender",
            "The role {user} may not replicate.",
            _GRANT_REPLICATION,
        ),
        ("permission denied to use replication slots", "The role {user} may not replicate.", _GRANT_REPLICATION),
        (
            "no pg_hba.conf entry",
            "The server's pg_hba.conf has no line that lets the role {user} in from here.",
            "Add one for the database {database} (logical replication needs no other), then run SELECT pg_reload_conf();",
        ),
        (
            "pg_hba.conf rejects connection",
            "The server's pg_hba.conf keeps the role {user} out.",
            "Correct its line for the database {database}, then run SELECT pg_reload_conf();",
        ),
        ("not permitted to log in", "The role {user} may not log in.", "Run ALTER ROLE {user} LOGIN;"),
        ("the database system is starting up", "Postgres at {server} is starting up.", "Wait: the engine goes on by itself."),
        ("not yet accepting connections", "Postgres at {server} is recovering.", "Wait: the engine goes on by itself."),
        ("the database system is in recovery mode", "Postgres at {server} is recovering.", "Wait: the engine goes on by itself."),
        ("the database system is shutting down", "Postgres at {server} is shutting down.", _START),
        ("terminating connection due to administrator command", "Postgres at {server} has ended the connection.", _START),
        ("Connection refused", "Nothing answers at {server}: Postgres does not run there.", _START),
        ("connection timeout expired", "Postgres at {server} does not answer.", "See whether it is overloaded, stopped or cut off."),
        ("could not translate host name", "The name of the server {server} does not resolve.", "Correct DATABASE_URL."),
        ("failed to resolve host", "The name of the server {server} does not resolve.", "Correct DATABASE_URL."),
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
            "Free some of it; SELECT slot_name, restart_lsn FROM pg_replication_slots; shows which slots keep WAL.",
        ),
        (
            "recovery is in progress",
            "Postgres at {server} is a standby.",
            "Set DATABASE_URL to the primary server.",
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
        "Is it another engine? Then end one of the two; when it is nobody's, run SELECT pg_terminate_backend({pid});",
    ),
    (
        r"permission denied for (?:table|view|relation) (?P<named>\S+)",
        "The role {user} may not read the table {table}, or not each of its published columns.",
        "Run GRANT SELECT ON {table} TO {user};",
    ),
    (
        r"affected by row-level security policy for table \"(?P<named>[^\"]+)\"",
        "Row-level security hides rows of the table {table} from the role {user}, so it is not read (row_security = off).",
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
    """Return the words for an error by its text; never a connection string, since libpq's texts hold none.

    `table` is the one that was read; Postgres names it without its schema.
    """
    for pattern, what, remedy in _KNOWN:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            words = {"server": names.server, "database": names.database, "user": names.user, "slot": names.slot, **found.groupdict()}
            words["table"] = words.get("named", "") if table is None else quoted(table).removeprefix("public.")
            return Trouble(what.format(**words), remedy.format(**words))
    said = " ".join(text.split()).replace(". ", "; ").removesuffix(".")
    return Trouble(f"Postgres says: {said or 'nothing'}.", "See its log.")


def quoted(table: TableName) -> str:
    """Return a table's name as SQL has to have it."""
    return ".".join(map(_identifier, table))


def _identifier(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


# --- findings ----------------------------------------------------------------------------------------------------------


def silent(names: Names, seconds: float) -> Trouble:
    """Postgres holds the connection and answers nothing."""
    return Trouble(f"Postgres at {names.server} has not answered for {seconds:g} s.", "See whether it is overloaded, stopped or cut off.")


def catalog_slow(names: Names, seconds: float) -> Trouble:
    """Postgres takes long to list the publication's tables."""
    return Trouble(
        f"Postgres at {names.server} takes longer than {seconds:g} s to list the tables of the publication {names.publication}.",
        "Changes are delivered meanwhile; new sinks on tables that are not listed yet, and backfills, wait. "
        "See whether Postgres is overloaded, or its catalogs are locked (SELECT * FROM pg_locks WHERE NOT granted;).",
    )


def publication_missing(names: Names) -> Trouble:
    """There is no such publication."""
    return Trouble(
        f"The publication {names.publication} is missing in the database {names.database}.",
        "Run userhooks up, or CREATE PUBLICATION; what is committed meanwhile is lost to the sinks.",
    )


def table_missing(table: TableName) -> Trouble:
    """A sink names a table that the database has not."""
    name = ".".join(table)
    return Trouble(
        f"There is no table {name}: it was renamed or dropped, and none of its changes come.",
        "Change the sink's source to the table's present name and start a backfill, rename the table back, or delete the sink.",
    )


def table_not_published(table: TableName, names: Names) -> Trouble:
    """A sink names a table that is there, and that the publication has not."""
    return Trouble(
        f"The table {'.'.join(table)} is not in the publication {names.publication}, so none of its changes come.",
        f"Run ALTER PUBLICATION {_identifier(names.publication)} ADD TABLE {quoted(table)}; and then start a backfill.",
    )


def table_unlogged(table: TableName) -> Trouble:
    """A sink names a table whose changes are not in the WAL."""
    return Trouble(
        f"The table {'.'.join(table)} is unlogged, so none of its changes come.",
        f"Run ALTER TABLE {quoted(table)} SET LOGGED; and see that the table is in the publication; then start a backfill.",
    )


def table_published_by_root(table: TableName, root: TableName, names: Names) -> Trouble:
    """A sink names a partition whose changes come under the name of its partitioned table."""
    return Trouble(
        f"The table {'.'.join(table)} is a partition, whose changes come as those of {'.'.join(root)}.",
        f"Name {'.'.join(root)} in the sink's source: the publication {names.publication} has publish_via_partition_root.",
    )


def slot_being_made(names: Names) -> Trouble:
    """Postgres makes a slot only when all transactions that write have ended once."""
    return Trouble(
        f"The slot {names.slot} is being made, and Postgres waits for open transactions to end.",
        "End those that are forgotten: SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL;",
    )


def slot_unfit(names: Names, *, plugin: str | None, database: str | None) -> Trouble | None:
    """Return why a slot of our name is not one that we can read; None when it is."""
    drop = f"Drop it if it is nobody's (SELECT pg_drop_replication_slot('{names.slot}');), or give the engine another name."
    if plugin != "pgoutput":
        kind = f"of the plugin {plugin}" if plugin else "a physical one"
        return Trouble(f"The slot {names.slot} is {kind} and not of pgoutput.", drop)
    if database != names.database:
        return Trouble(f"The slot {names.slot} belongs to the database {database} and not to {names.database}.", drop)
    return None


def other_cluster(mismatch: str) -> Trouble:
    """The state is tied to another cluster, database or slot."""
    return Trouble(
        f"This is not the Postgres that the engine's state belongs to: {mismatch}.",
        "Nothing is read from it. Bring the former one back, or begin anew with another USERHOOKS_HOME.",
    )


def gone_back(position: str, wal_end: str) -> Trouble:
    """The server's WAL ends before what was read from it: it was restored from a backup, or its disk lost what it had confirmed."""
    return Trouble(
        f"Postgres has gone back in time: its WAL ends at {wal_end}, and was read up to {position} before.",
        "Postgres would leave out new changes without a word, so nothing is read. It was restored from a backup:"
        " begin anew with another USERHOOKS_HOME, subscribe again and start backfills.",
    )
