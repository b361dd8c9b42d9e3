"""Files of rows: where those of a split lie, what is in them, and what their labels say."""
