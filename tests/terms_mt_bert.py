"""The terms of MT-BERT's loss, as its experiments and its transcription have them."""

from __future__ import annotations

from typing import Any

LITERAL_TERMS: list[Any] = [
    "hard_label",
    {"name": "soft_label", "kind": "cross_entropy", "temperature": 1.0, "tau_squared": False},
    {"name": "hidden_states", "embeddings": False, "reduction": "sum", "projection": "always", "projected": "teacher"},
]
