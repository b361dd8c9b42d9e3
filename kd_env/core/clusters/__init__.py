"""Clusters that others operate: connections to them, and the packages that they need."""
