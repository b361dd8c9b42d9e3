"""Intervals, tests and verdicts over trainings and evaluation seeds."""
