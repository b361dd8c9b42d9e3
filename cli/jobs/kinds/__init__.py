"""What a job does that is another thing for labels than for tokens."""
