"""Everything specific to Postgres: the replication protocol, `pgoutput`, types, snapshots, catalogs, and explanations of errors."""
