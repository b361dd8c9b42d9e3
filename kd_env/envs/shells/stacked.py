"""N replicas of a run in one process: Gymnasium's vector interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kd_env.config.process import RENDER_MODES
from kd_env.core import trees
from kd_env.envs.shells.copies import Copied
from kd_env.envs.shells.replicas import Replicas
from kd_env.envs.shells.single import budget_of

_MODES = {"same_step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}


class StackedEnv(Copied, VectorEnv[Any, Any, np.ndarray]):
    """N replicas of a run; subclasses say what is decided."""

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    run: Replicas[Any]

    def __init__(self, run: Replicas[Any], mode: AutoresetMode) -> None:
        self.run = run
        self.num_envs = run.num_replicas
        self.metadata = {**type(self).metadata, "autoreset_mode": mode}
        self.autoreset_mode = mode
        self.render_mode = run.render_mode
        self.single_observation_space, self.single_action_space = run.spaces
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
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
        budget = budget_of(options, "reset_mask")
        replicas = np.flatnonzero(mask)
        seeds = seed_list(seed, self.num_envs)
        for index in replicas:
            self.run.seed(int(index), seeds[index])
        self.run.reset(replicas, budget)
        return self.run.observation(), _mark(self.run.info(), mask)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
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
                final_obs[index] = trees.map_leaves(lambda values: values[index], observation)  # noqa: B023 - called at once
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

    def render(self) -> tuple[Any, ...] | None:
        """One line (``render_mode="ansi"``) or picture (``"rgb_array"``) per replica."""
        return None if self.render_mode is None else tuple(self.run.render(i) for i in range(self.num_envs))

    def arguments(self) -> dict[str, Any]:
        """Keywords that make this environment again."""
        return {**super().arguments(), "num_envs": self.num_envs, "autoreset_mode": self.autoreset_mode}

    def save_student(self, folder: str | Path, replica: int = 0, finished: bool = False) -> Path:
        """Write the student of one replica, as :meth:`kd_env.envs.shells.single.SingleEnv.save_student`."""
        return self.run.save_student(folder, replica, finished)

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


def checked(
    num_envs: int, autoreset_mode: str | AutoresetMode, max_episode_steps: int | None, options: dict[str, Any]
) -> AutoresetMode:
    """The mode, after checks of what every stacked environment takes; the time limit joins the ``options``.

    Raises:
        ValueError: no whole number of replicas, or an unknown mode.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise ValueError(f"num_envs={num_envs!r} must be a whole number of at least 1.")
    mode = autoreset_mode if isinstance(autoreset_mode, AutoresetMode) else _MODES.get(autoreset_mode)
    if mode is None or mode not in _MODES.values():
        raise ValueError(f"autoreset_mode={autoreset_mode!r} must be one of {', '.join(_MODES)}.")
    if max_episode_steps is not None:
        options["max_episode_steps"] = max_episode_steps
    return mode


def seed_list(seed: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """One seed per replica: int -> seed + i, a list as it is, None -> None."""
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + index for index in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed has {len(seed)} entries for {count} replicas; give one each, or one number.")
    return list(seed)
