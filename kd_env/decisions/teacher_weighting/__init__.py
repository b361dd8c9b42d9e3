"""Which teachers count, for a batch or for single rows."""
