"""Replicas in other processes, here or on the actors of a Ray cluster."""
