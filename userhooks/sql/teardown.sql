-- Drop what the other files made, and nothing else: only objects that carry the comment 'userhooks'.
--   psql "$DATABASE_URL" -1 -v ON_ERROR_STOP=1 -f sql/teardown.sql
--
-- A replication slot is no such object: as long as one stands, Postgres keeps WAL for it.
--   SELECT slot_name, pg_size_pretty(pg_current_wal_lsn() - restart_lsn) FROM pg_replication_slots WHERE database = current_database();
--   SELECT pg_drop_replication_slot('…');

DO $$
DECLARE
  thing text;
BEGIN
  FOR thing IN
    SELECT pubname FROM pg_publication WHERE obj_description(oid, 'pg_publication') = 'userhooks'
  LOOP
    EXECUTE format('DROP PUBLICATION %I', thing);
  END LOOP;
  FOREACH thing IN ARRAY ARRAY['webhook_subscriptions', 'notifications', 'users']  -- whoever references, before whom it references
  LOOP
    IF obj_description(to_regclass('public.' || thing), 'pg_class') = 'userhooks' THEN
      EXECUTE format('DROP TABLE public.%I', thing);
    END IF;
  END LOOP;
END
$$;
