"""The influence of samples: how much each lowers the loss on feedback rows, by a step that is only looked at."""
