"""What both shells show of their run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kd_env.core.types import FeatureSlice
from kd_env.data.tables import Table
from kd_env.decisions.base import Decision
from kd_env.envs.run import Run
from kd_env.envs.shells.replicas import EnvState
from kd_env.mdp.influence.rows import row_influence
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState


class RunView:
    """Public attributes of both shells that only read the run."""

    run: Run

    def __getattr__(self, name: str) -> Any:
        """What the decision shows beside what every environment has (``Decision.attributes``)."""
        run = self.__dict__.get("run")
        if run is not None and name in run.decision.attributes:
            return run.decision.attributes[name](run.problem, self._present)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _present(self) -> DistillState:
        """The state that these attributes are functions of."""
        return self.run.started()

    @property
    def problem(self) -> Problem:
        """The distillation problem; share it with ``DistillVectorEnv(problem=...)``."""
        return self.run.problem

    @property
    def observation_layout(self) -> dict[str, FeatureSlice]:
        """Where each named feature stands in the last axis of an observation."""
        return self.decision.observation_layout(self.run.problem)

    @property
    def term_names(self) -> tuple[str, ...]:
        """The K knowledge terms."""
        return self.run.problem.term_names

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The T teachers."""
        return self.run.problem.teacher_names

    @property
    def reference_teacher(self) -> str:
        """Name of the best single teacher on the selection split, whose loss is ``e_T``."""
        return self.run.problem.reference.name

    @property
    def decision(self) -> Decision:
        """What the agent decides: its name, its action views, and how rules say weights (``encode``, ``effect``)."""
        return self.run.decision

    @property
    def weighting(self) -> str:
        """What one weight holds for: ``batch`` or ``sample``."""
        return self.run.problem.config.weighting

    @property
    def teacher_updates(self) -> str:
        """How the teacher learns: ``none``, ``prokt`` or ``weighted``."""
        return self.run.problem.config.teacher_updates

    @property
    def num_labels(self) -> int:
        """C, classes of the task; 1 in regression."""
        return self.run.problem.task.num_labels

    @property
    def batch_size(self) -> int:
        """B, rows of a batch."""
        return self.run.problem.config.batch_size

    @property
    def row_features(self) -> tuple[str, ...]:
        """Features of shape ``(B, n)`` that describe single rows of the next batch."""
        return tuple(name for name, feature in self.run.problem.features.items() if feature.per_row)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's components, or of the choices in the discrete view."""
        return self.decision.action_names

    @property
    def action_view(self) -> str:
        """``native``, ``discrete`` or ``box``, and where teachers or rows are weighed ``simplex`` or ``subset``."""
        return self.run.problem.config.action_view

    @property
    def episode_steps(self) -> int:
        """Steps of an episode with the configured budget."""
        config = self.run.problem.config
        steps = self.decision.episode_steps(self.run.problem)
        return steps if config.max_episode_steps is None else min(steps, config.max_episode_steps)

    def row_influence(self) -> np.ndarray:
        """Drop of the feedback loss per unit of weight of each row of the next batch, ``[N, B]`` float64.

        A function of the present state, which it does not change; see :func:`kd_env.mdp.influence.rows.row_influence`.

        Raises:
            RuntimeError: before the first reset.
            ValueError: fewer feedback rows are evaluated than ``influence.rows`` wants.
        """
        return row_influence(self.run.problem, self.run.started())

    def get_state(self) -> EnvState:
        """A deep copy of everything that decides how this environment goes on."""
        return self.run.get_state()

    def set_state(self, state: EnvState) -> None:
        """Restore a state, exactly; it may come from another environment with the same options.

        Counters of wrappers around the environment (Gymnasium's TimeLimit) are not part of the state.
        """
        self.run.set_state(state)

    def save_state(self, folder: str | Path) -> None:
        """Write a state to disk: a folder of safetensors and JSON, which replaces an older one of the same name.

        Raises:
            RuntimeError: before the first reset.
            ValueError: the folder holds something else.
        """
        self.run.save_state(Path(folder))

    def load_state(self, folder: str | Path) -> None:
        """Restore a state from disk, exactly; it may come from another process and another device.

        Raises:
            ValueError: no state, a damaged one, or one of other options, rows or models, which are named.
        """
        self.run.load_state(Path(folder))

    def predict(self, table: Table) -> np.ndarray:
        """Logits of the present students on a table (``problem.tokenize``), ``[N, R, C]``."""
        return self.run.predict(table)

    def predict_teacher(self, table: Table) -> np.ndarray:
        """Logits of the teachers that learn beside the present students, ``[N, R, C]``.

        Raises:
            ValueError: the teacher is frozen.
        """
        return self.run.predict_teacher(table)
