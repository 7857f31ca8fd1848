"""What Postgres says and how: the replication protocol, `pgoutput`, types, snapshots, catalogs, and its errors in words."""
