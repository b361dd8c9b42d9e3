"""Run folders, worker processes and what is shown while they work."""
