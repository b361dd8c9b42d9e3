"""The algorithms of Stable-Baselines3, by configuration."""
