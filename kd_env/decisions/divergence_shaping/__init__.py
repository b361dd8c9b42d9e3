"""How soft labels are compared: temperature, and mix of forward and reverse KL."""
