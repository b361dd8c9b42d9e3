"""The rows of masked text: each text a padded row in memory, or packed rows in files."""
