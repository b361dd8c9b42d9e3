"""N students in one process: stacked parameters, one teacher pass for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kd_env.envs.base import _budget
from kd_env.envs.run import Run, RunView, seed_list
from kd_env.problem import Problem

_MODES = {"same_step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}


class DistillVectorEnv(RunView, VectorEnv[np.ndarray, Any, np.ndarray]):
    """The decision process of :class:`DistillEnv` for N replicas at once.

    Args:
        num_envs: N.
        problem: a shared problem; options then may only change the decision process.
        autoreset_mode: ``same_step`` (a finished replica starts anew within the step; its last observation and info are
            ``infos["final_obs"]`` and ``infos["final_info"]``) or ``disabled`` (finished replicas wait for a reset with
            ``options={"reset_mask": ...}`` and must not be stepped).
        max_episode_steps: truncates inside, since ``gymnasium.make_vec`` applies no TimeLimit to native environments.
        options: the fields of :class:`kd_env.config.EnvConfig`.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        problem: Problem | None = None,
        autoreset_mode: str | AutoresetMode = "same_step",
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs={num_envs!r} must be a whole number of at least 1.")
        mode = autoreset_mode if isinstance(autoreset_mode, AutoresetMode) else _MODES.get(autoreset_mode)
        if mode not in _MODES.values():
            raise ValueError(f"autoreset_mode={autoreset_mode!r} must be one of {', '.join(_MODES)}.")
        if max_episode_steps is not None:
            options["max_episode_steps"] = max_episode_steps
        self.run = Run.make(problem, options, num_envs)
        self.num_envs = num_envs
        self.metadata = {**type(self).metadata, "autoreset_mode": mode}
        self.autoreset_mode = mode
        self.render_mode = self.run.problem.config.render_mode
        self.single_observation_space = self.run.problem.observation_space
        self.single_action_space = self.run.problem.actions.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes, or those of ``options["reset_mask"]``; ``options["budget"]`` as in ``DistillEnv``."""
        mask = np.ones(self.num_envs, dtype=bool)
        if options is not None and options.get("reset_mask") is not None:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
                raise ValueError(f"options['reset_mask'] must be {self.num_envs} booleans, got {mask!r}.")
            if not mask.any():
                raise ValueError("options['reset_mask'] selects no replica.")
            if self.run.state is None and not mask.all():
                raise ValueError("The first reset must start every replica: leave out options['reset_mask'].")
        budget = _budget(options)
        replicas = np.flatnonzero(mask)
        seeds = seed_list(seed, self.num_envs)
        for index in replicas:
            self.run.seed(int(index), seeds[index])
        self.run.reset(replicas, budget)
        return self.run.observation(), _mark(self.run.info(), mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every replica."""
        if self.autoreset_mode is AutoresetMode.DISABLED and self.run.state is not None and self.run.ended.any():
            raise RuntimeError(
                f"Replicas {np.flatnonzero(self.run.ended).tolist()} have ended; reset them with "
                "options={'reset_mask': ...} before the next step."
            )
        out = self.run.step(actions)
        ended = out.terminated | out.truncated
        everything = np.ones(self.num_envs, dtype=bool)
        info, observation = _mark(out.info, everything), out.observation
        if ended.any() and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for index in np.flatnonzero(ended):
                final_obs[index] = observation[index]
            self.run.reset(np.flatnonzero(ended), None)
            info = {
                **_mark(self._after_reset(out.info, ended), everything),
                "final_obs": final_obs,
                "_final_obs": ended.copy(),
                "final_info": _mark(out.info, ended),
                "_final_info": ended.copy(),
            }
            observation = self.run.observation()
        return observation, out.reward, out.terminated, out.truncated, info

    def render(self) -> tuple[str, ...] | None:
        """With ``render_mode="ansi"``: one line per replica."""
        return tuple(self.run.line(i) for i in range(self.num_envs)) if self.render_mode == "ansi" else None

    def save_student(self, folder: str | Path, replica: int = 0) -> Path:
        """Write the present student of one replica in Hugging Face layout."""
        return self.run.save_student(folder, replica)

    def _after_reset(self, before: dict[str, np.ndarray], ended: np.ndarray) -> dict[str, np.ndarray]:
        """Infos of the new episodes where one began, of the step elsewhere."""
        fresh = self.run.info()
        merged = {"reward_clipped": before["reward_clipped"]}
        for name, value in fresh.items():
            shaped = ended.reshape(-1, *(1,) * (value.ndim - 1))
            merged[name] = np.where(shaped, value, before[name])
        return merged


def _mark(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's convention: every key has a mask that says whose it is."""
    marked: dict[str, Any] = {}
    for name, value in info.items():
        marked[name] = value
        marked[f"_{name}"] = mask.copy()
    return marked
