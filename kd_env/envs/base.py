"""One student as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from kd_env.envs.run import Run, RunView
from kd_env.problem import Problem
from kd_env.types import Effect


class DistillEnv(RunView, gym.Env[np.ndarray, Any]):
    """Distillation of one student, one step at a time.

    ## Description
    One or several teachers are distilled into a fresh student with a fixed budget of updates. At every step the agent
    says how the knowledge terms (``decision=knowledge_selection``) or the teachers (``teacher_weighting``) count in the
    next updates; the student is updated, and the change of its loss on held-out feedback rows is the reward.

    ## Action Space
    See :class:`kd_env.actions.KnowledgeSelectionActions`: ``native`` (MultiBinary), ``discrete`` or ``box``; and
    :class:`kd_env.actions_teacher.TeacherWeightingActions`: ``native`` (= ``simplex``), ``subset``, ``discrete`` or
    ``box``.

    ## Observation Space
    A flat float32 box; ``observation_layout`` names each feature's slice.

    ## Starting State
    A fresh student drawn from the seed (or cut from a model, with a fresh head), the first batches drawn.

    ## Reward
    ``gap_closed`` by default: ``(e_before - e_after) / D``, measured after the updates that the action caused.

    ## Episode End
    ``terminated``: the budget is spent, or the student diverged. ``truncated``: ``max_episode_steps`` only. Beware:
    ``gymnasium.make(..., max_episode_steps=n)`` keeps that keyword for its own TimeLimit wrapper, of which an
    environment is not told: a reward at the end only (``final_metric``, ``evaluate_every=0``) needs
    ``DistillEnv(max_episode_steps=n)`` or ``gymnasium.make_vec``, which truncate inside.

    ## Arguments
    The fields of :class:`kd_env.config.EnvConfig`, or ``problem`` (shared) with options of the decision process.

    ## Version History
    v0: initial version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        self.run = Run.make(problem, options, 1)
        self.render_mode = self.run.problem.config.render_mode
        self.observation_space = self.run.problem.observation_space
        self.action_space = self.run.problem.actions.space
        self._np_random_seed = -1  # Gymnasium would draw another generator where there is no seed

    @property
    def _np_random(self) -> np.random.Generator:
        # Gymnasium keeps its generator in this attribute; here it is the replica's, so that a state holds it.
        return self.run.generators[0]

    @_np_random.setter
    def _np_random(self, value: np.random.Generator) -> None:
        self.run.generators[0] = value

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options={"budget": n}`` gives it another number of updates."""
        super().reset(seed=seed)
        self.run.reset(np.array([0]), _budget(options))
        return self.run.observation()[0], self._info(self.run.info())

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; refuses to go past the end of an episode."""
        if self.run.state is not None and self.run.ended[0]:
            raise RuntimeError("The episode has ended; call reset() before the next step.")
        out = self.run.step(action if isinstance(action, Effect) else np.asarray(action)[None])
        return (
            out.observation[0],
            float(out.reward[0]),
            bool(out.terminated[0]),
            bool(out.truncated[0]),
            self._info(out.info),
        )

    def render(self) -> str | None:
        """With ``render_mode="ansi"``: one readable line about the last step."""
        return self.run.line(0) if self.render_mode == "ansi" else None

    def save_student(self, folder: str | Path) -> Path:
        """Write the present student in Hugging Face layout."""
        return self.run.save_student(folder, 0)

    @staticmethod
    def _info(info: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: value[0].item() if value.ndim == 1 else value[0] for name, value in info.items()}


def _budget(options: dict[str, Any] | None) -> int | None:
    for name in options or {}:
        if name not in ("budget", "reset_mask"):
            raise ValueError(f"Unknown reset option {name!r}; valid: budget (and reset_mask in vector environments).")
    return (options or {}).get("budget")
