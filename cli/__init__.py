"""The command line: the only place, beside ``train_agent.py``, that brings kd_env and agents together."""
