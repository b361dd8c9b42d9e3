"""What an evaluation keeps while it runs, so that it goes on where it was stopped."""
