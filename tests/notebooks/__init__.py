"""Tools and guards for the notebooks: run and store them, keep the stored form small and honest."""
