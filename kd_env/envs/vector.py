"""N students in one process: stacked parameters, one teacher pass for all."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode

from kd_env.envs.run import Run
from kd_env.envs.shells.stacked import StackedEnv, checked
from kd_env.envs.view import RunView
from kd_env.mdp.problem import Problem


class DistillVectorEnv(RunView, StackedEnv):
    """The decision process of :class:`DistillEnv` for N replicas at once.

    Args:
        num_envs: N.
        problem: a shared problem; options then may only change the decision process.
        autoreset_mode: ``same_step`` (a finished replica starts anew within the step; its last observation and info are
            ``infos["final_obs"]`` and ``infos["final_info"]``) or ``disabled`` (finished replicas wait for a reset with
            ``options={"reset_mask": ...}`` and must not be stepped).
        max_episode_steps: truncates inside, since ``gymnasium.make_vec`` applies no TimeLimit to native environments.
        options: the fields of :class:`kd_env.config.environment.EnvConfig`.
    """

    run: Run

    def __init__(
        self,
        num_envs: int = 1,
        problem: Problem | None = None,
        autoreset_mode: str | AutoresetMode = "same_step",
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        mode = checked(num_envs, autoreset_mode, max_episode_steps, options)
        super().__init__(Run.make(problem, options, num_envs), mode)
