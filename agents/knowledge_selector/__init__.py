"""KS: an actor-critic of knowledge selection, ours and as published."""
