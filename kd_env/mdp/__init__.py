"""The decision process as pure functions of a state."""
