-- Create the three tables of the example app: users, their notifications, and their webhook subscriptions.
--
-- Run this file and the others in one transaction. Running them again changes nothing:
--   psql "$DATABASE_URL" -1 -v ON_ERROR_STOP=1 -f sql/tables.sql -f sql/replica_identity.sql -f sql/publication.sql -f sql/test_users.sql
--
-- Each object created here has the comment 'userhooks'. Only objects with that comment are ever changed or dropped. If your database
-- already has another table with one of these names, this raises an error before anything is written.

DO $$
DECLARE
  foreign_table text;
BEGIN
  SELECT c.relname INTO foreign_table
    FROM pg_class c
   WHERE c.relnamespace = 'public'::regnamespace
     AND c.relname IN ('users', 'notifications', 'webhook_subscriptions')
     AND obj_description(c.oid, 'pg_class') IS DISTINCT FROM 'userhooks'
   ORDER BY c.relname
   LIMIT 1;
  IF foreign_table IS NOT NULL THEN
    RAISE EXCEPTION USING
      ERRCODE = 'UH001',
      MESSAGE = format('The database %I already has a public.%I that userhooks did not create. Nothing was written.', current_database(), foreign_table),
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

-- Postgres does not index foreign keys. Without these indexes, deleting a user would scan the rows of all users. Because the first index
-- includes `id`, a backfill can also read one user's rows in order. They are created only if missing, because even CREATE INDEX IF NOT
-- EXISTS waits for all writers.
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
