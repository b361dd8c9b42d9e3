"""Results as tables, pictures and words."""
