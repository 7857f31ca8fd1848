"""What a notebook works with: a lesson's users, traffic, faults, and receivers. Widgets and pictures are in `widgets/` and `plots/`."""
