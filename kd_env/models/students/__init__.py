"""Students as their options describe them: fresh, cut from another encoder's blocks, or pre-trained."""
