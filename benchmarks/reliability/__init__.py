"""Harnesses that try to break kd-env; their counts stand in docs/reliability.md."""
