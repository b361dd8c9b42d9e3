"""Fine-tuning of classifiers, sets of them, and masked language models."""
