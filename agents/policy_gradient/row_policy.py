"""A policy and a value network that are shared by all rows of a batch, for envs that decide about each row.

One network is applied to every row: it reads the features of that row and those that belong to no row, and gives the
distribution of that row's P action components. A gate, where the action has one, is one more output, of a network on
the other features and the mean over the rows; the value network reads the same. No parameter knows the batch size, so
a trained policy acts, and goes on learning, at any other.

Log-probabilities and entropies of an action are *sums* over its rows. All rows share one advantage, so each row's own
part of the reward comes with the noise of the B - 1 others: where rows matter equally, a row's signal in a normalised
advantage is ``1 / sqrt(B)``. The gradient of the shared weights sums B of them, and so does its noise: a step teaches
about as much as one with a single row would, not B times as much. An entropy bonus has no such noise and weighs
``sqrt(B)`` times more beside it: lower ``ent_coef`` at large B.

Shape letters as in :mod:`agents.policy_gradient.rows`; N is any number of leading axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import Array
from agents.common.networks import ActionHead, make_head, mlp
from agents.common.normalizer import ObservationNormalizer
from agents.policy_gradient.rows import RowLayout


class RowHead(ActionHead):
    """The distribution of one row's components, for all rows independently, and that of the gate."""

    def __init__(self, layout: RowLayout, log_std_init: float) -> None:
        super().__init__()
        structure = layout.structure
        self.row = make_head(structure.action, log_std_init)
        self.gate = None if structure.gate is None else make_head(structure.gate, log_std_init)
        self._batch_size = layout.batch_size
        self.num_outputs = layout.batch_size * self.row.num_outputs + (0 if self.gate is None else 1)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[N, B, P]`` and the gate ``[N, 1]`` (``[N, 0]`` without one)."""
        count = values.shape[-1] - (0 if self.gate is None else 1)
        return values[..., :count].unflatten(-1, (self._batch_size, -1)), values[..., count:]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Rows first, then the gate."""
        rows, gate = self._split(outputs)
        drawn = self.row.sample(rows, generator).flatten(-2)
        return drawn if self.gate is None else torch.cat([drawn, self.gate.sample(gate, generator)], dim=-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """Most probable components of each row, and of the gate."""
        rows, gate = self._split(outputs)
        best = self.row.mode(rows).flatten(-2)
        return best if self.gate is None else torch.cat([best, self.gate.mode(gate)], dim=-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Sum over the rows, and the gate."""
        (rows, gate), (row_actions, gate_action) = self._split(outputs), self._split(actions)
        total = self.row.log_prob(rows, row_actions).sum(-1)
        return total if self.gate is None else total + self.gate.log_prob(gate, gate_action)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Sum over the rows, and the gate."""
        rows, gate = self._split(outputs)
        total = self.row.entropy(rows).sum(-1)
        return total if self.gate is None else total + self.gate.entropy(gate)

    def to_env(self, actions: Tensor) -> Array:
        """Row-major components, the gate behind them."""
        rows, gate = self._split(actions)
        taken = self.row.to_env(rows)
        flat = taken.reshape(*taken.shape[:-2], -1)
        return flat if self.gate is None else np.concatenate([flat, self.gate.to_env(gate)], axis=-1)


class RowView(nn.Module):
    """Cuts flat observations into rows and the rest."""

    rows: Tensor
    others: Tensor

    def __init__(self, layout: RowLayout) -> None:
        super().__init__()
        # Not persistent: they depend on the batch size, which a saved policy must not.
        self.register_buffer("rows", torch.from_numpy(layout.row_index), persistent=False)
        self.register_buffer("others", torch.from_numpy(layout.other_index), persistent=False)
        self.row_size, self.other_size = layout.row_index.shape[1], len(layout.other_index)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[N, B, R]`` and the rest ``[N, G]`` of observations ``[N, O]``."""
        return observations[..., self.rows], observations[..., self.others]

    def pooled(self, observations: Tensor) -> Tensor:
        """The rest and the mean over the rows, ``[N, G + R]``."""
        rows, others = self(observations)
        return torch.cat([others, rows.mean(-2)], dim=-1)


class RowPolicy(nn.Module):
    """An actor with one network for every row.

    Args:
        layout: rows of the env.
        hidden: sizes of the hidden layers; empty for a linear (logistic) policy.
        log_std_init: first log standard deviation of Gaussians, which all rows share.
        generator: source of the initial weights.
        use_others: whether a row's outputs depend on the features that belong to no row.
    """

    def __init__(
        self,
        layout: RowLayout,
        hidden: Sequence[int],
        log_std_init: float,
        generator: torch.Generator,
        *,
        use_others: bool = True,
    ) -> None:
        super().__init__()
        self.head = RowHead(layout, log_std_init)
        self.view = RowView(layout)
        self._use_others = use_others
        other_size = self.view.other_size if use_others else 0
        size = self.view.row_size + other_size
        self.network = mlp(size, hidden, self.head.row.num_outputs, output_gain=0.01, generator=generator)
        self.gate = None
        if self.head.gate is not None:
            pooled = self.view.row_size + self.view.other_size
            self.gate = mlp(pooled, hidden, 1, output_gain=0.01, generator=generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Outputs ``[N, B * P (+ 1)]`` that describe the distribution at ``observations [N, O]``."""
        rows, others = self.view(observations)
        if self._use_others:
            beside = others.unsqueeze(-2).expand(*rows.shape[:-1], self.view.other_size)
            rows = torch.cat([rows, beside], dim=-1)
        outputs: Tensor = self.network(rows).flatten(-2)
        if self.gate is None:
            return outputs
        return torch.cat([outputs, self.gate(self.view.pooled(observations))], dim=-1)


class RowValue(nn.Module):
    """A value network on the other features and the mean over the rows."""

    def __init__(self, layout: RowLayout, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.view = RowView(layout)
        size = self.view.row_size + self.view.other_size
        self.network = mlp(size, hidden, 1, output_gain=1.0, generator=generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Values ``[N, 1]`` of observations ``[N, O]``."""
        values: Tensor = self.network(self.view.pooled(observations))
        return values


class RowNormalizer:
    """:class:`agents.common.normalizer.ObservationNormalizer` with one set of moments for all rows of a column."""

    def __init__(self, layout: RowLayout) -> None:
        self._rows_at, self._others_at = layout.row_index, layout.other_index
        self.rows = ObservationNormalizer(layout.row_index.shape[1])
        self.others = ObservationNormalizer(len(layout.other_index))

    def update(self, observations: NDArray[np.float32]) -> None:
        """Take observations ``[N, O]`` into the moments."""
        self.rows.update(observations[..., self._rows_at])
        self.others.update(observations[..., self._others_at])

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised observations of the same shape, float32."""
        normalized = np.empty(observations.shape, dtype=np.float32)
        normalized[..., self._rows_at] = self.rows(observations[..., self._rows_at])
        normalized[..., self._others_at] = self.others(observations[..., self._others_at])
        return normalized

    def state(self) -> dict[str, Tensor]:
        """The moments as tensors, exact."""
        return storage.with_prefix("rows.", self.rows.state()) | storage.with_prefix("others.", self.others.state())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.rows.restore(storage.part(state, "rows."))
        self.others.restore(storage.part(state, "others."))
