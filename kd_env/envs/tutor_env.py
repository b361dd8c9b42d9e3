"""``kd_env/TutorToken-v0``: a tutor chooses the tokens of the text on which a student learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from kd_env.core.types import FeatureSlice
from kd_env.decisions.tutor_token import features
from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.envs.shells.replicas import EnvState
from kd_env.envs.shells.single import SingleEnv
from kd_env.envs.shells.stacked import StackedEnv, checked
from kd_env.envs.tutor_run import TutorRun


class TutorView:
    """Public attributes of both shells that only read the run."""

    run: TutorRun

    @property
    def problem(self) -> TutorProblem:
        """The problem; share it with ``TutorVectorEnv(problem=...)``."""
        return self.run.problem

    @property
    def decision(self) -> str:
        """What the agent decides: ``tutor_tokens``."""
        return "tutor_tokens"

    @property
    def mode(self) -> str:
        """``joint`` or ``sequential``."""
        return self.run.problem.config.mode

    @property
    def action_view(self) -> str:
        """``native``, ``candidates``, ``discrete`` or ``box``."""
        return self.run.problem.config.action_view

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's components, or of the choices in the discrete view."""
        return self.run.problem.actions.action_names

    @property
    def observation_layout(self) -> dict[str, FeatureSlice]:
        """With ``observation=flat``: where each part stands; empty where parts have names."""
        return features.layout(self.problem) if self.problem.config.observation == "flat" else {}

    @property
    def batch_size(self) -> int:
        """B, rows of a batch."""
        return self.run.problem.config.batch_size

    @property
    def slots(self) -> int:
        """P, slots of a row."""
        return self.run.problem.slots

    @property
    def vocab_size(self) -> int:
        """V, tokens of the vocabulary."""
        return self.run.problem.vocab_size

    @property
    def ordinary_tokens(self) -> np.ndarray:
        """Ids of the vocabulary's ordinary tokens, without the special ones."""
        return self.run.problem.assets.tokens.candidates.copy()

    @property
    def num_candidates(self) -> int:
        """k, listed tokens of a slot."""
        return self.run.problem.num_candidates

    @property
    def hidden_size(self) -> int:
        """H, width of the teacher's hidden states."""
        return self.run.problem.teacher.facts.hidden_size

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The student's L losses."""
        return self.run.problem.loss_names

    @property
    def episode_steps(self) -> int:
        """Steps of an episode with the configured budget."""
        config = self.run.problem.config
        steps = config.budget * (1 if config.mode == "joint" else self.run.problem.slots)
        return steps if config.max_episode_steps is None else min(steps, config.max_episode_steps)

    def log_probabilities(self) -> torch.Tensor:
        """The teacher's log-probabilities of every token at every slot, ``[N, B, P, V]`` on the device of the run.

        For agents that stay near the teacher; made anew at every call and in no observation.
        """
        return self.run.log_probabilities()

    def original_tokens(self) -> torch.Tensor:
        """The tokens of the text at every slot, ``[N, B, P]``; in no observation. For rules that change nothing."""
        return self.run.original_tokens()

    def student_errors(self, tokens: torch.Tensor) -> torch.Tensor:
        """``student_error`` that ``tokens [N, B, P]`` would have, ``[N, B, P]``: one forward pass, no update.

        For baselines that look for difficult tokens; no state changes.
        """
        return self.run.student_errors(tokens)

    def get_state(self) -> EnvState:
        """A deep copy of everything that decides how this environment goes on."""
        return self.run.get_state()

    def set_state(self, state: EnvState) -> None:
        """Restore a state, exactly; it may come from another environment with the same options."""
        self.run.set_state(state)


class TutorEnv(TutorView, SingleEnv):
    """Pre-training distillation in which an agent writes tokens into masked text (Tutor-KD, Kim et al., EMNLP 2022).

    ## Description
    Tokens of a batch are masked and a frozen teacher reads the text. The agent chooses what stands in the masked slots;
    the teacher reads the edited text, and the student learns on it: which tokens are plausible (L_pp), the teacher's
    hidden states and its attention scores. Then the next batch is masked. The defaults are a modified form;
    ``recipe="paper"`` sets those of the released code (:mod:`kd_env.decisions.tutor_token.options` says what differs).

    With ``task`` the rows are those of a task with labels: a masked language model reads the masked row, the agent
    rewrites it, a fine-tuned teacher labels what comes out, and the student learns these labels (``soft_label``). This
    is not in the paper, but its natural extension.

    ## Action Space
    With ``mode=joint`` tokens for all B x P slots, with ``mode=sequential`` for one slot of every row. ``native``: any
    token of the vocabulary; ``candidates``: ranks in the teacher's lists; ``discrete``: one rank for all; ``box``:
    difficulty and share (:mod:`kd_env.decisions.tutor_token.actions`).

    ## Observation Space
    A flat ``Dict`` (:func:`kd_env.decisions.tutor_token.features.space`): the masked text, its slots, the teacher's
    hidden states and most likely tokens there, and the course of the episode.

    ## Starting State
    A student drawn from the seed (or cut from the teacher), the first batch masked.

    ## Reward
    ``tutor`` by default: the mean over slots of ``teacher_recognises`` (p_T(x|X') - p_T(a|X')) and ``student_error``
    (|m - sigmoid(u)|, of the student before the update); per token in ``info``. With ``mode=sequential`` it comes when
    the last slot is filled. With ``task`` they are of whole rows, the same for all slots of one: the teacher's
    confidence in the gold label of the edited row, and the total variation between the label distributions of student
    and teacher. ``gap_closed`` and ``loss_drop`` compare feedback losses before and after the update.

    ## Episode End
    ``terminated``: the budget of student updates is spent, or the student diverged. ``truncated``:
    ``max_episode_steps`` only.

    ## Arguments
    The fields of :class:`kd_env.decisions.tutor_token.options.TutorConfig`, or ``problem`` (shared) with options of the
    decision process.

    ## Version History
    v0: initial version.
    """

    run: TutorRun

    def __init__(self, problem: TutorProblem | None = None, **options: Any) -> None:
        super().__init__(TutorRun.make(problem, options, 1))

    def save_student(self, folder: str | Path, finished: bool = False) -> Path:
        """Write the present student in Hugging Face layout, or with ``finished`` that of the last episode that ended.

        An agent that learns resets an episode in the step that ends it. So the student beside which a tutor has learned
        (the paper's joint training) is written by ``make_agent("tutor", env).learn(env.unwrapped.episode_steps)`` and
        ``env.unwrapped.save_student(folder, finished=True)``.

        Raises:
            ValueError: as :meth:`kd_env.envs.tutor_run.TutorRun.save_student`.
        """
        return self.run.save_student(folder, 0, finished)


class TutorVectorEnv(TutorView, StackedEnv):
    """The decision process of :class:`TutorEnv` for N replicas at once.

    Args:
        num_envs: N.
        problem: a shared problem; options then may only change the decision process.
        autoreset_mode: ``same_step`` or ``disabled``, as in :class:`kd_env.envs.DistillVectorEnv`.
        max_episode_steps: truncates inside.
        options: the fields of :class:`kd_env.decisions.tutor_token.options.TutorConfig`.
    """

    run: TutorRun

    def __init__(
        self,
        num_envs: int = 1,
        problem: TutorProblem | None = None,
        autoreset_mode: str | AutoresetMode = "same_step",
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        mode = checked(num_envs, autoreset_mode, max_episode_steps, options)
        super().__init__(TutorRun.make(problem, options, num_envs), mode)

    def save_student(self, folder: str | Path, replica: int = 0, finished: bool = False) -> Path:
        """Write the student of one replica, as :meth:`TutorEnv.save_student`."""
        return self.run.save_student(folder, replica, finished)
