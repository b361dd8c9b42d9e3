"""What the library of encoders is asked for: the only place where it reads folders."""
