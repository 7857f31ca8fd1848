-- Write the whole old row to the WAL for every update and delete of notifications.
--
-- By default, Postgres logs only the primary key of the old row. A delete would then reach Sequin without its user_id, so a sink that
-- filters by user would not receive it. The `changes` of an update would be empty, because its old values would be unknown.
--
-- This has two costs. Updates and deletes write more WAL. And if an update moves a row to another user, `changes` contains the previous
-- user's values, so the filter function rejects such an update for both users.
--
-- The ALTER TABLE takes an exclusive lock, so it runs only if necessary.

DO $$
BEGIN
  IF (SELECT relreplident <> 'f' FROM pg_class WHERE oid = 'public.notifications'::regclass) THEN
    ALTER TABLE public.notifications REPLICA IDENTITY FULL;
  END IF;
END
$$;
