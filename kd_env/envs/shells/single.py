"""One replica of a run as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from kd_env.config.process import RENDER_MODES
from kd_env.core import trees
from kd_env.decisions.raw import raw_array
from kd_env.envs.shells.copies import Copied
from kd_env.envs.shells.replicas import Replicas, plain_seed
from kd_env.mdp.state import Effect


class SingleEnv(Copied, gym.Env[Any, Any]):
    """One replica of a run, one step at a time; subclasses say what is decided."""

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012 - Gymnasium's own attribute

    run: Replicas[Any]

    def __init__(self, run: Replicas[Any]) -> None:
        self.run = run
        self.render_mode = run.render_mode
        self.observation_space, self.action_space = run.spaces
        self._np_random_seed = -1  # Gymnasium would draw another generator where there is no seed

    @property
    def _np_random(self) -> np.random.Generator:
        # Gymnasium keeps its generator in this attribute; here it is the replica's, so that a state holds it.
        return self.run.generators[0]

    @_np_random.setter
    def _np_random(self, value: np.random.Generator) -> None:
        self.run.generators[0] = value

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; ``options={"budget": n}`` gives it another number of updates."""
        super().reset(seed=None if seed is None else plain_seed(seed))
        self.run.reset(np.array([0]), budget_of(options))
        return _first(self.run.observation()), self._info(self.run.info())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; refuses to go past the end of an episode."""
        if self.run.state is not None and self.run.ended[0]:
            raise RuntimeError("The episode has ended; call reset() before the next step.")
        out = self.run.step(action if isinstance(action, Effect) else raw_array(action)[None])
        return (
            _first(out.observation),
            float(out.reward[0]),
            bool(out.terminated[0]),
            bool(out.truncated[0]),
            self._info(out.info),
        )

    def render(self) -> Any:
        """With ``render_mode="ansi"`` a line about the last step, with ``"rgb_array"`` a picture of the episode."""
        return self.run.render(0)

    def save_student(self, folder: str | Path, finished: bool = False) -> Path:
        """Write the present student in Hugging Face layout, or with ``finished`` that of the last episode that ended.

        An agent that learns resets an episode in the step that ends it. So the student beside which a tutor has learned
        (Tutor-KD's joint training) is written by ``make_agent("tutor", env).learn(env.unwrapped.episode_steps)`` and
        ``env.unwrapped.save_student(folder, finished=True)``.

        Raises:
            ValueError: a folder that is not empty, or no finished student that was kept.
        """
        return self.run.save_student(folder, 0, finished)

    @staticmethod
    def _info(info: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: value[0].item() if value.ndim == 1 else value[0] for name, value in info.items()}


def _first(observation: Any) -> Any:
    return trees.map_leaves(lambda values: values[0], observation)


def budget_of(options: dict[str, Any] | None, also: str | None = None) -> int | None:
    """The budget that ``reset(options=...)`` asks for; options but this one and ``also`` are refused."""
    for name in options or {}:
        if name not in ("budget", also):
            raise ValueError(f"Unknown reset option {name!r}; valid: budget (and reset_mask in vector environments).")
    return (options or {}).get("budget")
