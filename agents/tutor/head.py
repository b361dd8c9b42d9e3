"""The tutor's network, and what it has to know of the environment whose slots it fills."""

from __future__ import annotations

from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.common.base import AnyEnv, decision_name, inner_env

VIEWS = ("native", "candidates")


class TextSizes(NamedTuple):
    """What the tutor has to know of its environment."""

    rows: int  # B
    slots: int  # P
    hidden_size: int  # H
    vocab_size: int  # V
    num_candidates: int  # k
    sequential: bool
    candidates: bool  # whether actions are ranks in the teacher's lists


def text_sizes(env: AnyEnv) -> TextSizes:
    """What the tutor has to know of ``env``.

    Raises:
        ValueError: an environment without slots, or a view in which no token is chosen for each.
    """
    base = inner_env(env)
    if decision_name(env) != "tutor_token":
        raise ValueError(f"The tutor fills slots of text, and {env} has none; make a kd_env/TutorToken-v0.")
    space = getattr(env, "single_observation_space", env.observation_space)
    if not isinstance(space, spaces.Dict):
        raise ValueError("The tutor reads tokens and slots by name; make the env with observation='dict'.")
    if base.action_view not in VIEWS:
        raise ValueError(
            f"The tutor chooses a token for each slot, which the action view {base.action_view!r} cannot say; make the "
            f"env with action_view={VIEWS[0]!r} or {VIEWS[1]!r}."
        )
    return TextSizes(
        base.batch_size,
        base.slots,
        base.hidden_size,
        base.vocab_size,
        base.num_candidates,
        base.mode == "sequential",
        base.action_view == "candidates",
    )


class TutorHead(nn.Module):
    """Logits over the vocabulary and a value for each slot, from the teacher's hidden states.

    Args:
        sizes: of the environment.
        generator: of the initial weights: normal with deviation 0.02, biases 0.
    """

    def __init__(self, sizes: TextSizes, generator: torch.Generator) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.dense, self.decoder = nn.Linear(width, width), nn.Linear(width, sizes.vocab_size)
        self.norm = nn.LayerNorm(width)
        self.value = nn.Linear(width, 1)
        self.context = nn.Embedding(sizes.vocab_size, width) if sizes.sequential else None
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.02, generator=generator)
                elif not name.startswith("norm."):
                    parameter.zero_()

    def forward(self, hidden: Tensor, chosen: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[..., Q, V]`` and values ``[..., Q]``.

        Args:
            hidden: ``[..., Q, H]`` teacher's hidden states at the slots of this step.
            chosen: ``[..., P]`` tokens of the row, any value where none is chosen yet.
            written: ``[..., P]`` bool, where one is.
        """
        if self.context is not None:
            known = self.context(torch.where(written, chosen, 0)) * written[..., None]
            mean = known.sum(-2) / written.sum(-1, keepdim=True).clamp(min=1)
            hidden = hidden + mean[..., None, :]
        features = self.norm(F.gelu(self.dense(hidden)))
        return self.decoder(features), self.value(features).squeeze(-1)
