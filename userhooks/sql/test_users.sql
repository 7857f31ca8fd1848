-- Create three test users if there are no users.

INSERT INTO public.users (name)
SELECT name
  FROM (VALUES (1, 'User 1'), (2, 'User 2'), (3, 'User 3')) AS test_users (position, name)
 WHERE NOT EXISTS (SELECT FROM public.users)
 ORDER BY position;
