"""The command line: the only place, beside ``train_agent.py``, that brings kd_env and agents together."""

MODULE = f"{__name__}.main"
"""What a process of its own runs. Installed, the package has another name than in a checkout (setup.py)."""
