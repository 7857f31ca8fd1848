-- Drop what the other files created, which are the objects that have the comment 'userhooks'.
--   psql "$DATABASE_URL" -1 -v ON_ERROR_STOP=1 -f sql/teardown.sql
--
-- Replication slots are not dropped. Postgres keeps WAL for every slot, so drop the ones that are no longer needed:
--   SELECT slot_name, pg_size_pretty(pg_current_wal_lsn() - restart_lsn) FROM pg_replication_slots WHERE database = current_database();
--   SELECT pg_drop_replication_slot('…');

DO $$
DECLARE
  object_name text;
BEGIN
  FOR object_name IN
    SELECT pubname FROM pg_publication WHERE obj_description(oid, 'pg_publication') = 'userhooks'
  LOOP
    EXECUTE format('DROP PUBLICATION %I', object_name);
  END LOOP;
  FOREACH object_name IN ARRAY ARRAY['webhook_subscriptions', 'notifications', 'users']  -- referencing tables first
  LOOP
    IF obj_description(to_regclass('public.' || object_name), 'pg_class') = 'userhooks' THEN
      EXECUTE format('DROP TABLE public.%I', object_name);
    END IF;
  END LOOP;
END
$$;
