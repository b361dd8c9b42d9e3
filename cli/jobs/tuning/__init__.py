"""Parts of ``kd-env tune``."""
