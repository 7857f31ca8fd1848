"""Backfills: read tables for sinks while live changes go on, without gaps or stale rows."""
