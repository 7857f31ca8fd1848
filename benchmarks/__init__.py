"""Benchmarks: scripts that print figures next to a yardstick measured in the same run; none of them is a test."""
