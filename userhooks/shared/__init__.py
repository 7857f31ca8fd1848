"""What several of the programs need: connecting to Postgres, being a child process, JSON, waiting, percentiles. No HTTP pages, no
decisions.
"""
