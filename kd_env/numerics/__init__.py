"""Arithmetic that knows no model: losses, metrics, calibration, optimisers."""
