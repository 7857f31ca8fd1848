"""pgoutput messages for tests, built from the documented format or read from a real server's WAL."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import psycopg
from psycopg import sql

from userhooks.engine.change import Change
from userhooks.engine.postgres.pg_types import TypeCatalog
from userhooks.engine.postgres.pgoutput import UNCHANGED, Insert, Relation, RowChange, Value, decode
from userhooks.engine.resources import Column, Table
from userhooks.engine.table_shape import TableShape
from userhooks.shared import postgres_connections

POSTGRES_EPOCH_US = 946_684_800_000_000

BUILT_IN = [
    (16, "bool", "b", 0, 0, ","),
    (17, "bytea", "b", 0, 0, ","),
    (20, "int8", "b", 0, 0, ","),
    (21, "int2", "b", 0, 0, ","),
    (23, "int4", "b", 0, 0, ","),
    (25, "text", "b", 0, 0, ","),
    (114, "json", "b", 0, 0, ","),
    (701, "float8", "b", 0, 0, ","),
    (1007, "_int4", "b", 23, 0, ","),
    (1009, "_text", "b", 25, 0, ","),
    (1043, "varchar", "b", 0, 0, ","),
    (1082, "date", "b", 0, 0, ","),
    (1083, "time", "b", 0, 0, ","),
    (1114, "timestamp", "b", 0, 0, ","),
    (1184, "timestamptz", "b", 0, 0, ","),
    (1186, "interval", "b", 0, 0, ","),
    (1700, "numeric", "b", 0, 0, ","),
    (2950, "uuid", "b", 0, 0, ","),
    (3802, "jsonb", "b", 0, 0, ","),
    (90001, "user_id", "d", 0, 20, ","),
    (90002, "citext", "b", 0, 0, ","),
]
TYPES = TypeCatalog(BUILT_IN)
OIDS = {row[1]: row[0] for row in BUILT_IN}


def tuple_data(row: Sequence[Value]) -> bytes:
    """Return a row as TupleData."""
    parts = [struct.pack(">H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
    return b"".join(parts)


def insert(oid: int, new: Sequence[Value]) -> bytes:
    """Return an Insert message."""
    return b"I" + struct.pack(">I", oid) + b"N" + tuple_data(new)


def update(oid: int, new: Sequence[Value], old: Sequence[Value] | None = None, *, whole: bool = True) -> bytes:
    """Return an Update message; `old` is the complete old row if `whole`, else its key."""
    before = b"" if old is None else (b"O" if whole else b"K") + tuple_data(old)
    return b"U" + struct.pack(">I", oid) + before + b"N" + tuple_data(new)


def delete(oid: int, old: Sequence[Value], *, whole: bool = True) -> bytes:
    """Return a Delete message."""
    return b"D" + struct.pack(">I", oid) + (b"O" if whole else b"K") + tuple_data(old)


def shape_of(
    columns: dict[str, str], key: Sequence[str] = (), *, name: str = "notifications", types: TypeCatalog = TYPES, identity: str = "f"
) -> TableShape:
    """Return a table's shape from column names and type names."""
    table = Table("public", name, tuple(Column(c, OIDS[t], -1) for c, t in columns.items()), tuple(key), identity)
    return TableShape.of_table(table, types)


def change_of(
    shape: TableShape, message: bytes, *, lsn: int = 1000, index: int = 0, commit_us: int = 0, annotations: bytes | None = None
) -> Change:
    """Return the change that a message describes."""
    event = decode(message)
    assert isinstance(event, RowChange)
    return Change(shape, event, lsn, index, commit_us, annotations)


def connect(url: str) -> psycopg.Connection:
    """Open a session with the engine's settings for the text of values."""
    return postgres_connections.connect(url, autocommit=True)


def catalog_of(connection: psycopg.Connection) -> TypeCatalog:
    """Return the types of a real database."""
    rows = connection.execute(
        "SELECT t.oid::int8, t.typname, t.typtype::text, coalesce(e.oid, 0)::int8, t.typbasetype::int8, coalesce(e.typdelim, ',')::text"
        " FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid"
    )
    return TypeCatalog(rows.fetchall())


def real_wal(connection: psycopg.Connection, *statements: str, setup: Sequence[str] = ()) -> list[bytes]:
    """Return pgoutput's messages for statements, one transaction each; `setup` runs before the slot is created."""
    for statement in setup:
        connection.execute(statement)
    connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    slot = "wal_" + connection.info.dbname
    connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    for statement in statements:
        connection.execute(statement)
    query = sql.SQL(
        "SELECT data FROM pg_logical_slot_get_binary_changes({}, NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'everything', 'messages', 'true')"
    ).format(sql.Literal(slot))
    messages = [row[0] for row in connection.execute(query)]
    connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    connection.execute("DROP PUBLICATION everything")
    return messages


def changes_in(messages: Sequence[bytes], types: TypeCatalog, keys: dict[str, Sequence[str]]) -> list[Change]:
    """Return the row changes in messages from real WAL; `keys` has the primary keys by table."""
    shapes: dict[int, TableShape] = {}
    changes = []
    for message in messages:
        event = decode(message)
        if isinstance(event, Relation):
            shapes[event.oid] = TableShape(event, keys.get(event.name, ()), types)
        elif isinstance(event, RowChange):
            changes.append(Change(shapes[event.relation_oid], event, 1000, len(changes), 0, None))
    return changes


def inserted(messages: Sequence[bytes]) -> list[list[Value]]:
    """Return the new rows of all inserts."""
    return [event.new for event in map(decode, messages) if isinstance(event, Insert)]
