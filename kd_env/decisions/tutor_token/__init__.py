"""Which tokens stand in the masked slots of a text (Tutor-KD, Kim et al., EMNLP 2022)."""
