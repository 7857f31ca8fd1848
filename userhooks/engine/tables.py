"""What the engine asks Postgres' catalogs: tables of the publication, types, the slot, positions. Queries only; nothing is decided here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from userhooks.engine.lost import show_lsn
from userhooks.engine.resources import Column, Table, TableName
from userhooks.engine.values import TypeRow

# attnames and rowfilter are there since Postgres 15; columns that are not published (generated ones, by default) are none to us
_TABLES = """
select n.nspname, c.relname, c.relreplident::text,
       array_agg(array[a.attname, a.atttypid::text, a.atttypmod::text] order by a.attnum),
       coalesce((select array_agg(k.attname order by array_position(i.indkey::int2[], k.attnum))
                   from pg_index i join pg_attribute k on k.attrelid = c.oid and k.attnum = any (i.indkey)
                  where i.indrelid = c.oid and i.indisprimary), '{}'),
       to_jsonb(p) ->> 'rowfilter',
       coalesce((select jsonb_agg(x.names)
                   from (select array_agg(k.attname order by o.place) as names
                           from pg_index i
                           join pg_class ic on ic.oid = i.indexrelid
                           join pg_am m on m.oid = ic.relam and m.amname = 'btree'
                          cross join unnest(i.indkey::int2[]) with ordinality as o (attnum, place)
                           left join pg_attribute k on k.attrelid = c.oid and k.attnum = o.attnum
                          where i.indrelid = c.oid and i.indisvalid and i.indpred is null and o.place <= i.indnkeyatts
                          group by i.indexrelid) x), '[]'),
       c.relkind = 'p'
  from pg_publication_tables p
  join pg_namespace n on n.nspname = p.schemaname
  join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                     and coalesce(to_jsonb(p) -> 'attnames' ? a.attname, a.attgenerated = '')
 where p.pubname = %s
 group by n.nspname, c.relname, c.relreplident, c.oid, c.relkind, to_jsonb(p)
"""

# of the types with elements, only true arrays are some type's typarray; names and categories are anybody's to give
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

# invalidation_reason is there since Postgres 17
_SLOT = """
select active, restart_lsn - '0/0'::pg_lsn, confirmed_flush_lsn - '0/0'::pg_lsn, wal_status::text, database::text, plugin::text,
       pg_current_wal_insert_lsn() - restart_lsn, to_jsonb(s) ->> 'invalidation_reason'
  from pg_replication_slots s where slot_name = %s
"""


@dataclass(frozen=True, slots=True)
class SlotState:
    """One row of pg_replication_slots; LSNs are integers, `retained` is the WAL in bytes that the slot keeps."""

    active: bool
    restart_lsn: int
    confirmed_lsn: int
    wal_status: str | None
    database: str | None
    plugin: str | None
    retained: int
    lost: str | None
    """why Postgres has invalidated the slot: it cannot be read any more"""

    @property
    def lag(self) -> int:
        """WAL in bytes between the confirmed position and the WAL's end."""
        return self.restart_lsn + self.retained - self.confirmed_lsn


async def read_tables(connection: AsyncConnection[Any], publication: str) -> dict[TableName, Table]:
    """Return the publication's tables by (schema, name)."""
    rows = await (await connection.execute(_TABLES, (publication,))).fetchall()
    tables = {}
    for schema, name, identity, columns, key, row_filter, indexes, partitioned in rows:
        known = tuple(Column(c[0], int(c[1]), int(c[2])) for c in columns)
        tables[schema, name] = Table(
            schema, name, known, tuple(key), identity, row_filter, tuple(tuple(one) for one in indexes), partitioned
        )
    return tables


async def read_types(connection: AsyncConnection[Any]) -> list[TypeRow]:
    """Return every type of the database."""
    return await (await connection.execute(_TYPES)).fetchall()


async def read_slot(connection: AsyncConnection[Any], slot: str) -> SlotState | None:
    """Return the slot's state, or None when there is no such slot."""
    row = await (await connection.execute(_SLOT, (slot,))).fetchone()
    if row is None:
        return None
    active, restart, confirmed, status, database, plugin, retained, invalidated = row
    lost = invalidated or ("wal_removed" if status == "lost" else None)
    return SlotState(active, int(restart or 0), int(confirmed or 0), status, database, plugin, int(retained or 0), lost)


async def insert_lsn(connection: AsyncConnection[Any]) -> int:
    """Return the current WAL insert position: every change committed from now on has a commit LSN at or above it."""
    row = await (await connection.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).fetchone()
    assert row is not None  # noqa: S101  # a select without from answers one row
    return int(row[0])


async def identity(connection: AsyncConnection[Any], slot: str) -> dict[str, str]:
    """Return what the engine's state is bound to: the cluster, the database, the slot."""
    row = await (await connection.execute("select system_identifier::text, current_database()::text from pg_control_system()")).fetchone()
    assert row is not None  # noqa: S101
    return {"system_identifier": row[0], "database": row[1], "slot": slot}


async def published(connection: AsyncConnection[Any], publication: str) -> set[TableName] | None:
    """Return the names of the publication's tables, or None when there is no such publication."""
    rows = await (await connection.execute(_PUBLISHED, (publication,))).fetchall()
    return {(schema, name) for schema, name in rows if name is not None} if rows else None


async def kinds(connection: AsyncConnection[Any], names: Collection[TableName]) -> dict[TableName, tuple[bool, TableName | None]]:
    """Return of those tables that there are whether they are unlogged, and the partitioned table that they are a part of."""
    rows = await (await connection.execute(_KINDS, ([n[0] for n in names], [n[1] for n in names]))).fetchall()
    return {(schema, name): (unlogged, None if root is None else (root_schema, root)) for schema, name, unlogged, root_schema, root in rows}


async def create_slot(connection: AsyncConnection[Any], slot: str) -> int:
    """Create the logical slot and return the LSN from which it delivers."""
    row = await (
        await connection.execute("select lsn - '0/0'::pg_lsn from pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


async def drop_slot(connection: AsyncConnection[Any], slot: str) -> None:
    """Drop a slot that nobody reads."""
    await connection.execute("select pg_drop_replication_slot(%s)", (slot,))


async def take_any_bytes(connection: AsyncConnection[Any]) -> None:
    """Let a database in SQL_ASCII hand out its text as it is: asked for UTF-8, it breaks off at the first value that is none."""
    await connection.execute(
        "select set_config('client_encoding', 'SQL_ASCII', false) where current_setting('server_encoding') = 'SQL_ASCII'"
    )


def start_replication(slot: str, publication: str, lsn: int) -> sql.Composed:
    """The command that starts streaming (Postgres documentation, 54.4 and 54.5), with logical messages, protocol version 1."""
    return sql.SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {}, messages 'true')").format(
        sql.Identifier(slot), sql.SQL(show_lsn(lsn)), sql.Literal(sql.Identifier(publication).as_string())
    )
