"""A teacher that learns beside its student: its gradient, and its update."""
