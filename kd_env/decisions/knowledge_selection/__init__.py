"""Which knowledge terms count, and how much."""
