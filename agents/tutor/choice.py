"""Choices of tokens: how they are drawn, said to the environment and read from its infos."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Choice(NamedTuple):
    """One step's choices of N replicas, to be credited when their text is complete; Q slots."""

    hidden: Tensor  # [N, B, Q, H]
    chosen: Tensor  # [N, B, P]
    written: Tensor  # [N, B, P] bool
    listed: Tensor  # [N, B, Q, k]
    valid: Tensor  # [N, B, Q] bool
    teacher: Tensor  # [N, B, Q, C] log p_T over the choices
    raw: Tensor  # [N, B, Q] what was chosen


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One choice for each slot, ``[..., C] -> [...]``."""
    flat = logits.softmax(-1).flatten(0, -2)
    return torch.multinomial(flat, 1, generator=generator).view(logits.shape[:-1])


def to_env(raw: Tensor) -> NDArray[np.int64]:
    """Tokens on the host, as the environment takes them."""
    return raw.flatten(1).cpu().numpy().astype(np.int64)


def last_infos(infos: dict[str, Any], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Infos of the step itself: where an episode ended they stand in ``final_info``."""
    found = {name: np.array(infos[name]) for name in names}
    if "final_info" in infos:
        ended = infos["_final_info"]
        for name, value in found.items():
            value[ended] = np.asarray(infos["final_info"][name])[ended]
    return found
