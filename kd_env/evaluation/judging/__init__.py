"""Episodes of policies on evaluation seeds, and their students on dev rows."""
