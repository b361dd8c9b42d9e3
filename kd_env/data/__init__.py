"""What is learned from: tasks and their files, splits, tokens in tables, masks."""
