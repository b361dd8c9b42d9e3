"""Reports of run folders as one HTML file."""
