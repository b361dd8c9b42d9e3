"""Where the scalars and pictures of a run are shown, beside its own files."""
