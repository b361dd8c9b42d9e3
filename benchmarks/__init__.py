"""Benchmarks of the source checkout; ``kd-env bench`` lists and runs them."""
