"""One plug-in of each kind for kd-env; the entry points in ``pyproject.toml`` name them."""
