"""What distilled students are worth once they are fine-tuned."""
