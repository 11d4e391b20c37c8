"""A run on disk: its folder, its records, and the one table of the metrics that are written there."""
