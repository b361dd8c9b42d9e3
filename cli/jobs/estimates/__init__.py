"""How long a job takes and how much memory it needs, said before it runs."""
