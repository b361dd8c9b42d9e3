"""Action views of the tutor's environment: from a raw action to one token for every slot.

Every view says a token for each slot of the step: all ``[B, P]`` with ``mode=joint``, those of one slot, ``[B, 1]``,
with ``mode=sequential``. Slots that are not valid take part in the action and say nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from kd_env.core.registry import unknown_name
from kd_env.decisions.raw import checked_actions

Ints = NDArray[np.int64]


class Choices(NamedTuple):
    """What an action may refer to, for the slots of one step. Host arrays; Q slots (P, or 1)."""

    candidates: Ints  # [N, B, Q, k] the teacher's most likely tokens
    log_candidates: np.ndarray  # [N, B, Q, k]
    originals: Ints  # [N, B, Q] tokens of the text
    seeds: list[list[int]]  # N seeds of what a view draws


@dataclass(frozen=True)
class TokenActions(ABC):
    """One action view.

    Attributes:
        batch_size: B.
        slots: Q, slots of one step.
        vocab_size: V.
        num_candidates: k.
    """

    batch_size: int
    slots: int
    vocab_size: int
    num_candidates: int

    @property
    @abstractmethod
    def space(self) -> spaces.Space[Any]:
        """Space of one replica's action."""

    @property
    @abstractmethod
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's components, or of the choices of a discrete space."""

    @abstractmethod
    def tokens(self, actions: NDArray[Any], choices: Choices) -> Ints:
        """Tokens ``[N, B, Q]`` of checked actions ``[N, ...]``."""

    def decode(self, raw: Any, choices: Choices) -> Ints:
        """Tokens ``[N, B, Q]`` of the raw actions of N replicas.

        Raises:
            ValueError: what :func:`kd_env.decisions.raw.checked_actions` refuses.
        """
        return self.tokens(checked_actions(raw, self.space, len(choices.candidates)), choices)

    def _slot_names(self) -> tuple[str, ...]:
        return tuple(f"row{row}_slot{slot}" for row in range(self.batch_size) for slot in range(self.slots))


class NativeActions(TokenActions):
    """Any token of the vocabulary for each slot: ``MultiDiscrete([V] * B * Q)``."""

    @property
    def space(self) -> spaces.MultiDiscrete:
        """One token id a slot, row by row."""
        return spaces.MultiDiscrete(np.full(self.batch_size * self.slots, self.vocab_size))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Row and slot of each component."""
        return self._slot_names()

    def tokens(self, actions: NDArray[Any], choices: Choices) -> Ints:
        """The action itself."""
        return actions.reshape(choices.originals.shape)


class CandidateActions(TokenActions):
    """A rank in the teacher's list for each slot: ``MultiDiscrete([k] * B * Q)``; 0 is its most likely token."""

    @property
    def space(self) -> spaces.MultiDiscrete:
        """One rank a slot, row by row."""
        return spaces.MultiDiscrete(np.full(self.batch_size * self.slots, self.num_candidates))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Row and slot of each component."""
        return self._slot_names()

    def tokens(self, actions: NDArray[Any], choices: Choices) -> Ints:
        """The candidate of each rank."""
        ranks = actions.reshape(*choices.originals.shape, 1)
        return np.take_along_axis(choices.candidates, ranks, axis=-1)[..., 0]


class DiscreteActions(TokenActions):
    """One rank for all slots, ``Discrete(k)``: how far down the teacher's list."""

    @property
    def space(self) -> spaces.Discrete:
        """One rank."""
        return spaces.Discrete(self.num_candidates)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The ranks by name."""
        return tuple(f"rank{rank}" for rank in range(self.num_candidates))

    def tokens(self, actions: NDArray[Any], choices: Choices) -> Ints:
        """The candidate of that rank in every slot."""
        return choices.candidates[np.arange(len(actions)), :, :, actions]


class BoxActions(TokenActions):
    """Two controls, ``Box(-1, 1, (2,))``: how difficult sampled tokens are, and the share of slots that is replaced.

    With the first component d, a token is sampled from the teacher's candidates with probabilities proportional to
    ``p^(1 - 2d)``: -1 prefers its favourites (exponent 3), 0 samples as it believes, 0.5 samples evenly and 1 prefers
    what it finds least likely among them (exponent -1). With the second component g, each slot is replaced with
    probability ``(g + 1) / 2``, and keeps its original token otherwise. What is drawn is a function of the episode's
    seed and of the step.
    """

    @property
    def space(self) -> spaces.Box:
        """Both controls."""
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The controls by name."""
        return "difficulty", "share"

    def tokens(self, actions: NDArray[Any], choices: Choices) -> Ints:
        """Sampled candidates, or the originals."""
        found = np.empty_like(choices.originals)
        for replica, (difficulty, share) in enumerate(actions.astype(np.float64)):
            rng = np.random.default_rng(choices.seeds[replica])
            logits = (1.0 - 2.0 * difficulty) * choices.log_candidates[replica].astype(np.float64)
            noise = rng.gumbel(size=logits.shape)
            ranks = (logits + noise).argmax(-1)[..., None]
            sampled = np.take_along_axis(choices.candidates[replica], ranks, axis=-1)[..., 0]
            replaced = rng.random(sampled.shape) < (share + 1.0) / 2.0
            found[replica] = np.where(replaced, sampled, choices.originals[replica])
        return found


_VIEWS: dict[str, type[TokenActions]] = {
    "native": NativeActions,
    "candidates": CandidateActions,
    "discrete": DiscreteActions,
    "box": BoxActions,
}


def make_token_actions(view: str, *, batch_size: int, slots: int, vocab_size: int, num_candidates: int) -> TokenActions:
    """The action view of a name.

    Raises:
        ValueError: an unknown name.
    """
    if view not in _VIEWS:
        raise ValueError(unknown_name("action view", view, _VIEWS))
    return _VIEWS[view](batch_size, slots, vocab_size, num_candidates)
