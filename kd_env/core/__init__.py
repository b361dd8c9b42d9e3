"""Values and small tools that know no distillation."""
