"""The inspector, judged over real HTTP in its own process."""
