"""What the agent sees: features by name, and their layout in one flat vector."""
