"""The student of finished runs that is shipped: its choice, its files, what it costs, and its card."""
