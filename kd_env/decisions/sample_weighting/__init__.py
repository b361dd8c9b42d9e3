"""Which rows of a batch count, for the student or for its teacher."""
