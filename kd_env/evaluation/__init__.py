"""Metrics, statistics, the evaluation protocol and reports. Knows no agents."""
