"""Rules that weigh teachers, by what they look at."""
