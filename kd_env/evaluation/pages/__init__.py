"""The report of a study as one HTML file, with every figure and table beside it."""
