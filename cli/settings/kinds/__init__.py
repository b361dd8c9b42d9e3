"""What settings say that is another thing for labels than for tokens."""
