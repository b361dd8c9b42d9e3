"""What an agent decides: one folder for each decision."""
