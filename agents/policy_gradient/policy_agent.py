"""What agents with a policy network share: one on the whole observation or on every row, its inputs, its folder."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.common import storage
from agents.common.base import AnyEnv, Spaces, check_same_spaces, spaces_of
from agents.common.learner import Learner
from agents.common.networks import Policy
from agents.common.normalizer import ObservationNormalizer
from agents.policy_gradient.row_policy import RowNormalizer, RowPolicy
from agents.policy_gradient.rows import RowLayout, check_same_rows, find_rows, rows_from_json, rows_to_json


class PolicyConfig(Protocol):
    """Options that every such agent has."""

    @property
    def normalize_observations(self) -> bool: ...  # noqa: D102 - documented where the options are
    @property
    def row_shared(self) -> bool | str: ...  # noqa: D102
    @property
    def hidden_sizes(self) -> Sequence[int]: ...  # noqa: D102


class PolicyAgent(Learner):
    """Base of agents with one policy network.

    Arguments as in :class:`agents.common.learner.Learner`, for an env with flat observations, or its :class:`Spaces` or
    rows.

    Raises:
        ValueError: as there, and ``row_shared=True`` where there are no rows.
    """

    def _build(self, env: AnyEnv | Spaces | RowLayout, init: torch.Generator) -> None:
        self.rows = self._find_rows(env)
        self.config = dataclasses.replace(self.config, row_shared=self.rows is not None)
        self.spaces = env if isinstance(env, Spaces) else env.spaces if isinstance(env, RowLayout) else spaces_of(env)
        self.policy = self._make_policy(init).to(self.device)
        self.networks = {"policy.": self.policy}
        self.normalizer = self._make_normalizer()

    def _find_rows(self, env: AnyEnv | Spaces | RowLayout) -> RowLayout | None:
        """The rows that the policy is shared by, None for one policy on the whole observation."""
        return find_rows(env, self.config.row_shared)

    @abstractmethod
    def _make_policy(self, init: torch.Generator) -> Policy | RowPolicy:
        """The policy, with weights from ``init``."""

    def _policy_of(
        self, hidden: Sequence[int], log_std_init: float, init: torch.Generator, *, use_others: bool = True
    ) -> Policy | RowPolicy:
        """A policy of these hidden layers, on every row where there are rows; ``use_others`` as in ``RowPolicy``."""
        if self.rows is not None:
            return RowPolicy(self.rows, hidden, log_std_init, init, use_others=use_others)
        return Policy(int(self.spaces.observation.shape[0]), self.spaces.action, hidden, log_std_init, init)

    def _make_normalizer(self) -> ObservationNormalizer | RowNormalizer:
        if self.rows is not None:
            return RowNormalizer(self.rows)
        return ObservationNormalizer(int(self.spaces.observation.shape[0]))

    def _inputs(self, observations: NDArray[np.float32]) -> Tensor:
        values = self.normalizer(observations) if self.config.normalize_observations else observations
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    # -- saving

    def _interface(self) -> dict[str, Any]:
        return super()._interface() | ({} if self.rows is None else {"rows": rows_to_json(self.rows)})

    @classmethod
    def _saved_interface(cls, header: dict[str, Any]) -> Spaces | RowLayout:
        pair = storage.spaces_from_json(header["spaces"])
        return rows_from_json(header["rows"], pair) if "rows" in header else pair

    @classmethod
    def _check_fits(cls, saved: Spaces | RowLayout, env: AnyEnv) -> None:
        """Spaces, or the rows of a policy that is shared by them, which fits any batch size."""
        if isinstance(saved, RowLayout):
            check_same_rows(saved, env)
        else:
            check_same_spaces(saved, env)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {**super()._tensors(), "normalizer": self.normalizer.state()}

    def _restore_policy(self, folder: Path) -> None:
        super()._restore_policy(folder)
        self.normalizer.restore(storage.read_tensors(folder / "normalizer.safetensors"))
