-- Create the publication, which lists the table whose changes logical replication sends.
--
-- Its name is userhooks_pub, unless the setting userhooks.publication contains another name:
--   psql "$DATABASE_URL" -1 -v ON_ERROR_STOP=1 -c "SET userhooks.publication = 'my_pub'" -f sql/publication.sql
-- If a publication with that name exists without the comment 'userhooks', this raises an error before anything is written.

DO $$
DECLARE
  pub text := coalesce(nullif(current_setting('userhooks.publication', true), ''), 'userhooks_pub');
  mark text;
BEGIN
  SELECT coalesce(obj_description(oid, 'pg_publication'), '') INTO mark FROM pg_publication WHERE pubname = pub;
  IF mark IS NULL THEN
    EXECUTE format('CREATE PUBLICATION %I', pub);
    EXECUTE format('COMMENT ON PUBLICATION %I IS %L', pub, 'userhooks');
  ELSIF mark <> 'userhooks' THEN
    RAISE EXCEPTION USING
      ERRCODE = 'UH001',
      MESSAGE = format('The database %I already has a publication %I that userhooks did not create. Nothing was written.', current_database(), pub),
      HINT = 'Use an empty database: CREATE DATABASE userhooks; then end DATABASE_URL with /userhooks.';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                  WHERE p.pubname = pub AND r.prrelid = 'public.notifications'::regclass) THEN
    EXECUTE format('ALTER PUBLICATION %I ADD TABLE public.notifications', pub);
  END IF;
END
$$;
