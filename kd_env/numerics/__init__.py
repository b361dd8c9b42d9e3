"""Arithmetic that knows no model: losses, calibration, optimisers."""
