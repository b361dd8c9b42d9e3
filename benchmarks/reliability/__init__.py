"""Harnesses that try to break kd-env: kills, damages and odd options; their counts stand in docs/reliability.md."""
