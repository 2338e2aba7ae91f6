"""What is on disk around a run: its folder, the lease that keeps two launches apart, and the records of failures."""
