"""Queries of Postgres' catalogs: the publication's tables, types, the slot, and WAL positions. This module makes no decisions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import compress
from typing import Any

from psycopg import AsyncConnection, sql

from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.postgres.pg_types import TypeRow
from userhooks.engine.resources import Column, Table, TableName

# attnames and rowfilter are new in Postgres 15, hence to_jsonb. The columns and indexes of each table are read once: the cost is linear.
_TABLES = """
with published as materialized (
       select n.nspname, c.relname, c.oid, c.relreplident, c.relkind, p.document
         from (select p.schemaname, p.tablename, to_jsonb(p) as document from pg_publication_tables p where p.pubname = %s offset 0) p
         join pg_namespace n on n.nspname = p.schemaname
         join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename)
select p.nspname::text, p.relname::text, p.relreplident::text, p.document -> 'attnames', p.document ->> 'rowfilter', a.*,
       (select json_agg(json_build_array(i.indkey::int2[], i.indnkeyatts, i.indisprimary, i.indisreplident,
                                         i.indisvalid and i.indpred is null and m.amname = 'btree'))
          from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam where i.indrelid = p.oid),
       p.relkind = 'p'
  from published p cross join lateral (
       select json_agg(a.attnum), json_agg(a.attname), json_agg(a.atttypid::int8), json_agg(a.atttypmod), json_agg(a.attgenerated = '')
         from (select * from pg_attribute a where a.attrelid = p.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) a) a
"""

_PRIMARY_KEY = """
select a.attname::text
  from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0 : i.indnkeyatts - 1])
 where i.indrelid = %s and i.indisprimary
"""

# An array type is recognized by being another type's typarray, since users can choose any name and category for their types.
_TYPES = """
select t.oid::int8, t.typname::text, t.typtype::text, coalesce(e.oid, 0)::int8, t.typbasetype::int8, coalesce(e.typdelim, ',')::text
  from pg_type t left join pg_type e on e.typarray = t.oid
"""

_PUBLISHED = """
select t.schemaname::text, t.tablename::text
  from pg_publication p left join pg_publication_tables t on t.pubname = p.pubname
 where p.pubname = %s
"""

_KINDS = """
select n.nspname::text, c.relname::text, c.relpersistence = 'u', rn.nspname::text, r.relname::text
  from unnest(%s::text[], %s::text[]) named (schema, name)
  join pg_namespace n on n.nspname = named.schema
  join pg_class c on c.relnamespace = n.oid and c.relname = named.name and c.relkind in ('r', 'p')
  left join pg_class r on c.relispartition and r.oid = pg_partition_root(c.oid)
  left join pg_namespace rn on rn.oid = r.relnamespace
"""

# invalidation_reason is new in Postgres 17, hence to_jsonb.
_SLOT = """
select active, restart_lsn - '0/0'::pg_lsn, confirmed_flush_lsn - '0/0'::pg_lsn, wal_status::text, database::text, plugin::text,
       pg_current_wal_insert_lsn() - restart_lsn, to_jsonb(s) ->> 'invalidation_reason'
  from pg_replication_slots s where slot_name = %s
"""


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots; LSNs are integers, and `retained` is the amount of WAL that the slot keeps, in bytes."""

    active: bool
    restart_lsn: int
    confirmed_lsn: int
    wal_status: str | None
    database: str | None
    plugin: str | None
    retained: int
    lost: str | None
    """The reason why Postgres has invalidated the slot, which makes it unreadable; None if it is valid."""

    @property
    def lag(self) -> int:
        """The amount of WAL between the confirmed LSN and the end of the WAL, in bytes."""
        return self.restart_lsn + self.retained - self.confirmed_lsn


async def read_tables(connection: AsyncConnection[Any], publication: str) -> dict[TableName, Table]:
    """Return the publication's tables, keyed by (schema, name)."""
    rows = await (await connection.execute(_TABLES, (publication,))).fetchall()
    return {(row[0], row[1]): _table(*row) for row in rows}


def _table(
    schema: str,
    name: str,
    identity: str,
    published: list[str] | None,
    row_filter: str | None,
    numbers: list[int] | None,
    names: list[str] | None,
    types: list[int] | None,
    modifiers: list[int] | None,
    are_plain: list[bool] | None,
    indexes: list[tuple[list[int], int, bool, bool, bool]] | None,
    partitioned: bool,
) -> Table:
    """Build a table from a row of `_TABLES`.

    The table's key consists of the columns of the index set with REPLICA IDENTITY USING INDEX, or else of the primary key, without INCLUDE
    columns.
    """
    all_columns = list(map(Column, names or (), types or (), modifiers or ()))
    if published is not None:
        published_names = set(published)
        columns = tuple([column for column in all_columns if column.name in published_names])
    else:
        columns = tuple(compress(all_columns, are_plain or ()))
    by_number = dict(zip(numbers or (), names or (), strict=True))
    key: tuple[str, ...] = ()
    btrees = []
    for attributes, key_count, is_primary, is_identity, is_full_btree in indexes or ():
        indexed = tuple(by_number.get(number) for number in attributes[:key_count])
        if is_identity if identity == "i" else is_primary:
            key = tuple(filter(None, indexed))
        if is_full_btree:
            btrees.append(indexed)
    return Table(schema, name, columns, key, identity, row_filter, tuple(btrees), partitioned)


async def read_primary_key(connection: AsyncConnection[Any], table_oid: int) -> tuple[str, ...]:
    """Return the columns of a table's primary key, without INCLUDE columns; empty if it has none."""
    return tuple([name for (name,) in await (await connection.execute(_PRIMARY_KEY, (table_oid,))).fetchall()])


async def read_types(connection: AsyncConnection[Any]) -> list[TypeRow]:
    """Return all types of the database."""
    return await (await connection.execute(_TYPES)).fetchall()


async def read_slot(connection: AsyncConnection[Any], slot: str) -> SlotState | None:
    """Return the slot's state, or None if it does not exist."""
    row = await (await connection.execute(_SLOT, (slot,))).fetchone()
    if row is None:
        return None
    active, restart, confirmed, status, database, plugin, retained, invalidated = row
    lost = invalidated or ("wal_removed" if status == "lost" else None)
    return SlotState(active, int(restart or 0), int(confirmed or 0), status, database, plugin, int(retained or 0), lost)


async def insert_lsn(connection: AsyncConnection[Any]) -> int:
    """Return the current WAL insert LSN; every change committed from now on has a commit LSN at or above it."""
    row = await (await connection.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).fetchone()
    assert row is not None  # noqa: S101  # A SELECT without FROM returns one row.
    return int(row[0])


async def identity(connection: AsyncConnection[Any], slot: str) -> dict[str, str]:
    """Return the cluster, database, and slot that the engine's state is bound to."""
    row = await (await connection.execute("select system_identifier::text, current_database()::text from pg_control_system()")).fetchone()
    assert row is not None  # noqa: S101
    return {"system_identifier": row[0], "database": row[1], "slot": slot}


async def published(connection: AsyncConnection[Any], publication: str) -> set[TableName] | None:
    """Return the names of the publication's tables, or None if the publication does not exist."""
    rows = await (await connection.execute(_PUBLISHED, (publication,))).fetchall()
    return {(schema, name) for schema, name in rows if name is not None} if rows else None


async def kinds(connection: AsyncConnection[Any], names: Collection[TableName]) -> dict[TableName, tuple[bool, TableName | None]]:
    """Map each existing table among `names` to whether it is unlogged, and its root partitioned table, if any."""
    rows = await (await connection.execute(_KINDS, ([n[0] for n in names], [n[1] for n in names]))).fetchall()
    return {(schema, name): (unlogged, None if root is None else (root_schema, root)) for schema, name, unlogged, root_schema, root in rows}


async def create_slot(connection: AsyncConnection[Any], slot: str) -> int:
    """Create the logical slot, and return the LSN at which it starts."""
    row = await (
        await connection.execute("select lsn - '0/0'::pg_lsn from pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


async def drop_slot(connection: AsyncConnection[Any], slot: str) -> None:
    """Drop an inactive slot."""
    await connection.execute("select pg_drop_replication_slot(%s)", (slot,))


async def take_any_bytes(connection: AsyncConnection[Any]) -> None:
    """Make Postgres send the text of an SQL_ASCII database unconverted.

    If the client encoding were UTF8, the stream would fail at the first value that is not valid UTF-8.
    """
    await connection.execute(
        "select set_config('client_encoding', 'SQL_ASCII', false) where current_setting('server_encoding') = 'SQL_ASCII'"
    )


def start_replication(slot: str, publication: str, lsn: int) -> sql.Composed:
    """Return the command that starts streaming, with protocol version 1 and logical messages.

    See the Postgres documentation, sections 54.4 and 54.5.
    """
    return sql.SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {}, messages 'true')").format(
        sql.Identifier(slot), sql.SQL(show_lsn(lsn)), sql.Literal(sql.Identifier(publication).as_string())
    )
