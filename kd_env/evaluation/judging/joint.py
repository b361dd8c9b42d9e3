"""The protocol ``joint`` (Tutor-KD as published): the student beside which an agent learns is the one that is judged.

For a policy that learns nothing that is the same as an evaluation on fresh students.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium.vector import AutoresetMode

from kd_env.envs import DistillVectorEnv
from kd_env.envs.run import Run
from kd_env.envs.shells import stored
from kd_env.envs.shells.replicas import Transition
from kd_env.envs.shells.stacked import StackedEnv
from kd_env.evaluation.judging.course import Course, policy_result
from kd_env.evaluation.judging.dev import Split
from kd_env.evaluation.judging.episodes import splits_at_reset
from kd_env.evaluation.judging.results import PolicyResult
from kd_env.evaluation.judging.tables import JudgedTables
from kd_env.mdp.problem import Problem

COURSE = "course"
"""Folder in that of a state."""


class JointEnv(DistillVectorEnv):
    """One student, beside which an agent learns, and which is judged at the end of its only episode.

    For ``learn(episode_steps)``. The student and its data depend on ``seed`` alone, whatever an agent resets with, so
    that students of several agents are pairs. Steps after the end begin another student, which is neither judged nor
    kept.

    Args:
        problem: of the agent, in its view.
        judged: the rows that the student is judged on.
        seed: of the student.
        name: of the agent.
    """

    def __init__(self, problem: Problem, judged: JudgedTables, seed: int, name: str) -> None:
        self._joint = _JointRun(problem, judged, seed, name)
        StackedEnv.__init__(self, self._joint, AutoresetMode.SAME_STEP)

    @property
    def result(self) -> PolicyResult | None:
        """Of the one student; None before its end."""
        return self._joint.result


class _JointRun(Run):
    """The run of :class:`JointEnv`: counts the first episode, and judges its student before it is reset."""

    def __init__(self, problem: Problem, judged: JudgedTables, seed: int, name: str) -> None:
        super().__init__(problem, 1)
        self.result: PolicyResult | None = None
        self._judged, self._seed, self._name = judged, seed, name
        self._judging: Course | None = None
        self._splits: dict[str, Split] = {}

    def seed(self, replica: int, seed: int | None) -> None:
        """The first student has the seed of the run."""
        super().seed(replica, self._seed if self.result is None else seed)

    def reset(self, replicas: np.ndarray, budget: int | None) -> None:
        """Begin the one episode, or another after its end."""
        if self.result is None or not self.finished:
            super().reset(replicas, budget)
        else:
            kept = dict(self.finished)
            super().reset(replicas, budget)
            self.finished = kept
        if self.result is None:
            self._splits = splits_at_reset(self.problem, self._judged, self)
            self._judging = Course(self.problem, self.decision, self._splits, 1)

    def save_state(self, folder: Path) -> None:
        """Write the state, and beside it what its one episode has come to so far.

        Raises:
            ValueError: that episode has not begun, or has ended: its student is judged, and nothing goes on.
        """
        if self._judging is None:
            raise ValueError(
                "The one episode of this environment has not begun, or is over: there is no state to keep."
            )
        super().save_state(folder)
        stored.write_state(folder / COURSE, self._judging.state(), {})

    def load_state(self, folder: Path) -> None:
        """Take over a state that :meth:`save_state` wrote.

        Raises:
            ValueError: no whole state, or one of another problem (what differs is named).
        """
        self.seed(0, self._seed)
        self.reset(np.arange(1), None)  # the scores of the student as it began
        assert self._judging is not None
        super().load_state(folder)
        self._judging.restore(stored.read_state(folder / COURSE, ()))

    def step(self, actions: object) -> Transition:
        """One step; judged where it ends the episode."""
        out = super().step(actions)
        if self._judging is not None:
            everyone = np.ones(1, dtype=bool)
            self._judging.add(out.info, out.reward, everyone)
            if out.terminated[0] or out.truncated[0]:
                self._judging.finish(out.info, self, everyone)
                episodes = [self._judging.ended()]
                said = {"learned": True, "extra_labels": False}
                self.result = policy_result(self._name, episodes, self.problem, self._splits, self.problem, **said)
                self._judging = None
        return out
