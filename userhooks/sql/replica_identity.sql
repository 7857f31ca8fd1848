-- Write the whole old row to the WAL for every update and delete of notifications.
--
-- By default, Postgres logs only the primary key of the old row. A delete would then reach Sequin without its user_id, so no sink with a
-- filter by user would receive it. Nor could an update say what changed, so `changes` would be empty.
-- The cost: updates and deletes write more WAL, and an update that moves a row to another user has the previous user's values in
-- `changes`. The filter function therefore rejects such an update for both users.
--
-- The ALTER TABLE takes an exclusive lock, so it runs only if it is needed.

DO $$
BEGIN
  IF (SELECT relreplident <> 'f' FROM pg_class WHERE oid = 'public.notifications'::regclass) THEN
    ALTER TABLE public.notifications REPLICA IDENTITY FULL;
  END IF;
END
$$;
