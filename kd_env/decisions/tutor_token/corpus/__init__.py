"""From options to text that is masked and edited: train rows, teachers, students."""
