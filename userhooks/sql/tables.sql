-- The three tables of the example app: users, their notifications, and who gets webhooks where.
--
-- Run this file and its neighbours in one transaction; running them again changes nothing:
--   psql "$DATABASE_URL" -1 -v ON_ERROR_STOP=1 -f sql/tables.sql -f sql/replica_identity.sql -f sql/publication.sql -f sql/test_users.sql
--
-- Each object made here carries the comment 'userhooks'. Only objects with that comment are ever written to or dropped, so a table of
-- your own with one of these names is an error, raised before anything is written.

DO $$
DECLARE
  stranger text;
BEGIN
  SELECT c.relname INTO stranger
    FROM pg_class c
   WHERE c.relnamespace = 'public'::regnamespace
     AND c.relname IN ('users', 'notifications', 'webhook_subscriptions')
     AND obj_description(c.oid, 'pg_class') IS DISTINCT FROM 'userhooks'
   ORDER BY c.relname
   LIMIT 1;
  IF stranger IS NOT NULL THEN
    RAISE EXCEPTION USING
      ERRCODE = 'UH001',
      MESSAGE = format('The database %I already has a public.%I that userhooks did not make; nothing was written.', current_database(), stranger),
      HINT = 'Use an empty database: CREATE DATABASE userhooks; then end DATABASE_URL with /userhooks.';
  END IF;
END
$$;

CREATE TABLE IF NOT EXISTS public.users (
  id SERIAL PRIMARY KEY,
  name TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS public.notifications (
  id SERIAL PRIMARY KEY,
  user_id INT REFERENCES public.users(id) ON DELETE CASCADE,
  message TEXT NOT NULL,
  created_at TIMESTAMPTZ DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.webhook_subscriptions (
  id SERIAL PRIMARY KEY,
  user_id INT REFERENCES public.users(id) ON DELETE CASCADE,
  endpoint TEXT NOT NULL,
  sequin_sink_id UUID NOT NULL,
  created_at TIMESTAMPTZ DEFAULT now()
);

-- A foreign key has no index of its own: without these, deleting a user looks through all rows of all users. With `id` in it, the first one
-- also lets a backfill read one user's rows in order. Made only when missing, since even CREATE INDEX IF NOT EXISTS waits for all writers.
DO $$
BEGIN
  IF to_regclass('public.notifications_user_id_id_idx') IS NULL THEN
    CREATE INDEX notifications_user_id_id_idx ON public.notifications (user_id, id);
  END IF;
  IF to_regclass('public.webhook_subscriptions_user_id_idx') IS NULL THEN
    CREATE INDEX webhook_subscriptions_user_id_idx ON public.webhook_subscriptions (user_id);
  END IF;
END
$$;

COMMENT ON TABLE public.users IS 'userhooks';
COMMENT ON TABLE public.notifications IS 'userhooks';
COMMENT ON TABLE public.webhook_subscriptions IS 'userhooks';
