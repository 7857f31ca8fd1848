"""Reading tables for sinks, beside live changes and exactly once."""
