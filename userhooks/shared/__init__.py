"""Code that several programs share: connecting to Postgres, running as a child process, JSON, waiting, and percentiles."""
