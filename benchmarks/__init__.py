"""Benchmarks: scripts that print figures beside a yardstick of the same run; nothing here is a test."""
