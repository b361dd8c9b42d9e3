"""Students beside which a tutor learns: they are judged where their episodes end."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode

from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.envs.shells.replicas import Transition
from kd_env.envs.shells.stacked import StackedEnv
from kd_env.envs.tutor_env import TutorVectorEnv
from kd_env.envs.tutor_run import TutorRun
from kd_env.evaluation.judging.tutor_dev import Judged
from kd_env.evaluation.judging.tutoring import Tally, TutorResult


class JointEnv(TutorVectorEnv):
    """One student, beside which an agent learns, and which is judged at the end of its only episode.

    For ``learn(episode_steps)``. The student and its data depend on ``seed`` alone, whatever an agent resets with, so
    that students of several agents are pairs. Steps after the end begin another student, which is neither judged nor
    kept.

    Args:
        problem: of the agent, in its view.
        judged: of :func:`kd_env.evaluation.judging.tutor_dev.judged_problems`.
        seed: of the student.
    """

    def __init__(self, problem: TutorProblem, judged: Judged, seed: int) -> None:
        self._joint = _JointRun(problem, judged, seed)
        StackedEnv.__init__(self, self._joint, AutoresetMode.SAME_STEP)

    @property
    def result(self) -> TutorResult | None:
        """Of the student, ``[1]``; None before its end."""
        return self._joint.result


class _JointRun(TutorRun):
    """The run of :class:`JointEnv`: counts the first episode, and judges its student before it is reset."""

    def __init__(self, problem: TutorProblem, judged: Judged, seed: int) -> None:
        super().__init__(problem, 1)
        self.result: TutorResult | None = None
        self._judged, self._seed = judged, seed
        self._tally: Tally | None = None

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
        self._tally = Tally(self._judged, self) if self.result is None else None

    def step(self, actions: object) -> Transition:
        """One step; judged where it ends the episode."""
        if self._tally is None:
            return super().step(actions)
        valid = self._tally.valid()
        out = super().step(actions)
        self._tally.add(out.info, valid)
        if out.terminated[0] or out.truncated[0]:
            self.result, self._tally = self._tally.result(), None
        return out
