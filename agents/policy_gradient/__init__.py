"""Policies that learn from their own rollouts."""
