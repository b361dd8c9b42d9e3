"""Harnesses that try to break what is written and read again: kills and damages, counted."""
