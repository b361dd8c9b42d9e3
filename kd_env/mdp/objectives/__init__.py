"""What students learn and by what they are judged: labels of a task, or masked text."""
