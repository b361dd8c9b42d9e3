"""Policies that do not learn from rewards."""
