"""An environment whose steps are timed, and which after a while only repeats itself, so that the agent is, too."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium.vector import VectorWrapper

from kd_env.core import trees


class Enough(Exception):
    """Raised out of an agent that would go on for longer than it is watched."""


class ProbedEnv(VectorWrapper[Any, Any, Any, Any]):
    """A vector environment that is real for some seconds.

    Afterwards it gives its last observation and ``info`` again without any work, in episodes of the right length, until
    :class:`Enough`: what passes then is the agent's own time.

    Args:
        env: the real one.
        episode_steps: of it.
        every: steps from one evaluation of the students to the next; a multiple of them is timed where that is short.
        real_seconds: of real steps; one is made in any case.
        agent_seconds: of the agent, after them.
    """

    def __init__(self, env: Any, episode_steps: int, every: int, real_seconds: float, agent_seconds: float) -> None:
        super().__init__(env)
        self.step_seconds: list[float] = []
        """Of the real steps."""
        self.reset_seconds = 0.0
        """Of the first reset."""
        self.agent_seconds = 0.0
        """Of the agent so far."""
        self.steps = 0
        """Of all replicas at once, real or not."""
        self.real = True
        self._length, self._every, self._limits = episode_steps, every, (real_seconds, agent_seconds)
        self._left = time.perf_counter()
        self._last: tuple[Any, dict[str, Any]] = None, {}

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A real reset, the first time."""
        self._told()
        if self._last[0] is None:
            begin = time.perf_counter()
            self._last = self.env.reset(seed=seed, options=options)
            self.reset_seconds = time.perf_counter() - begin
        self._left = time.perf_counter()
        return self._last

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A real step, or the last one again."""
        self._told()
        self.steps += 1
        result = self._step(actions) if self.real else self._again()
        self._left = time.perf_counter()
        return result

    def seconds(self) -> float:
        """What the agent has taken, this moment included; from outside of a step."""
        return self.agent_seconds + time.perf_counter() - self._left

    def _told(self) -> None:
        now = time.perf_counter()
        self.agent_seconds += now - self._left
        if not self.real and self.agent_seconds > self._limits[1]:
            raise Enough

    def _step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        begin = time.perf_counter()
        out = self.env.step(actions)
        self.step_seconds.append(time.perf_counter() - begin)
        info = {key: value for key, value in out[4].items() if not key.removeprefix("_").startswith("final_")}
        self._last = out[0], info
        passed, limit = sum(self.step_seconds), self._limits[0]
        self.real = passed < limit or (len(self.step_seconds) % self._every > 0 and passed < 2 * limit)
        return out

    def _again(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        (observation, info), count = self._last, self.num_envs
        nothing, ended = np.zeros(count, dtype=bool), np.full(count, self.steps % self._length == 0)
        if ended.any():
            final = np.full(count, None, dtype=object)
            for index in range(count):
                final[index] = trees.map_leaves(lambda values: values[index], observation)  # noqa: B023 - called at once
            info = {**info, "final_obs": final, "_final_obs": ended, "final_info": info, "_final_info": ended}
        return observation, np.zeros(count), ended, nothing, info
