-- Put the whole old row into the WAL for every update and delete of notifications.
--
-- By default Postgres logs only the primary key of the old row. A delete would then reach Sequin without its user_id, so no sink that is
-- filtered by user would ever see it; and an update could not say what changed, so `changes` would be empty.
-- The price: updates and deletes write more WAL, and an update that moves a row to another user carries the old owner's values in
-- `changes` (the filter function therefore lets such an update through to neither of the two).
--
-- It takes an exclusive lock, hence only when it is needed.

DO $$
BEGIN
  IF (SELECT relreplident <> 'f' FROM pg_class WHERE oid = 'public.notifications'::regclass) THEN
    ALTER TABLE public.notifications REPLICA IDENTITY FULL;
  END IF;
END
$$;
