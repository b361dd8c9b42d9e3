"""Parts of ``kd-env study``."""
