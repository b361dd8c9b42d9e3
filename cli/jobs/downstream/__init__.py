"""Students that are fine-tuned on tasks after their distillation, and compared."""
