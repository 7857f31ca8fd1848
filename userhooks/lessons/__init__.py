"""Lessons: their users, traffic, faults, and receivers. Widgets are in `widgets/`, and charts in `plots/`."""
