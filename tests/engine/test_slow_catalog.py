"""Large or slow catalogs of Postgres, which must not delay the delivery of changes."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually

Connection = psycopg.Connection[Any]

SLOW = """
set allow_system_table_mods = on;
create function slow_names(oid) returns name[] stable language plpgsql as $$
begin
    perform pg_sleep(30);
    return (select array_agg(attname order by attnum) from pg_attribute where attrelid = $1 and attnum > 0);
end $$;
create or replace view pg_catalog.pg_publication_tables as
select p.pubname, n.nspname as schemaname, c.relname as tablename,
       public.slow_names(g.relid) as attnames,
       pg_get_expr(g.qual, g.relid) as rowfilter
  from pg_publication p, lateral pg_get_publication_tables(p.pubname::text) g, pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid = g.relid
"""


def test_rows_arrive_while_the_catalog_answers_slowly_and_after_a_restart(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    sink = engine.user_sink(1, receiver.url)
    database.execute("insert into notifications (user_id, message) values (1, 'before')")
    receiver.wait_for(1)
    database.execute(SLOW)
    database.execute("create table later (id int primary key); alter publication test_pub add table later")
    database.execute("insert into later values (1)")
    database.execute("insert into notifications (user_id, message) values (1, 'beside a new table')")
    receiver.wait_for(2)
    engine.stop()
    engine.start()
    database.execute("insert into notifications (user_id, message) values (1, 'after a restart')")
    receiver.wait_for(3)

    def problem() -> str:
        checks = engine.ask("GET", f"/api/sinks/{sink['id']}")["health"]["checks"]
        return " ".join(check.get("error", "") for check in checks)

    problem_text = "to list the tables of the publication test_pub. Changes are still delivered"
    eventually(lambda: problem_text in problem(), within=20, what="health to name the slow query")


def test_a_publication_with_many_columns_is_listed_at_once(engine: EngineProgram, database: Connection) -> None:
    columns = ", ".join(f"c{number} int" for number in range(1599))
    database.execute(f"create table wide (id int primary key, {columns})".encode())
    database.execute("alter publication test_pub add table wide")
    engine.ask("POST", "/api/postgres_databases/postgres/refresh_tables", {})
