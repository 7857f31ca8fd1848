"""Give every user of an app webhooks for their own rows in Postgres, with Sequin."""
