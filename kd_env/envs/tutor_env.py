"""``kd_env/TutorToken-v0``: a tutor chooses the tokens of the text on which a student learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from kd_env.decisions.tutor_token import text
from kd_env.decisions.tutor_token.decision import TutorToken
from kd_env.envs.env import DistillEnv
from kd_env.envs.run import Run
from kd_env.envs.vector import DistillVectorEnv
from kd_env.mdp.problem import Problem


class TokenView:
    """What both shells show of the text that is filled, for agents and rules that write tokens."""

    run: Run

    @property
    def mode(self) -> str:
        """``joint`` or ``sequential``."""
        return self.run.problem.config.mode

    @property
    def slots(self) -> int:
        """P, slots of a row."""
        return self.run.problem.reader.slots

    @property
    def vocab_size(self) -> int:
        """V, tokens of the vocabulary."""
        return self.run.problem.reader.model.facts.vocab_size

    @property
    def ordinary_tokens(self) -> np.ndarray:
        """Ids of the vocabulary's ordinary tokens, without the special ones."""
        return self.run.problem.reader.tokens.candidates.copy()

    @property
    def num_candidates(self) -> int:
        """k, listed tokens of a slot."""
        return self.run.problem.config.num_candidates

    @property
    def hidden_size(self) -> int:
        """H, width of the teacher's hidden states."""
        return self.run.problem.reader.model.facts.hidden_size

    def log_probabilities(self) -> torch.Tensor:
        """The teacher's log-probabilities of every token at every slot, ``[N, B, P, V]`` on the device of the run.

        For agents that stay near the teacher; made anew at every call and in no observation.
        """
        decision = self.run.decision
        assert isinstance(decision, TutorToken)
        return decision.log_probabilities(self.run.problem, self.run.started())

    def original_tokens(self) -> torch.Tensor:
        """The tokens of the text at every slot, ``[N, B, P]``; in no observation. For rules that change nothing."""
        state = self.run.started()
        tokens = text.originals(self.run.problem, state.next_rows[:, 0], state.decision_state.positions)
        return torch.as_tensor(tokens, device=self.run.problem.device)

    def student_errors(self, tokens: torch.Tensor) -> torch.Tensor:
        """``student_error`` that ``tokens [N, B, P]`` would have, ``[N, B, P]``: one forward pass, no update.

        For baselines that look for difficult tokens; no state changes.
        """
        return text.student_errors(self.run.problem, self.run.started(), tokens)


class TutorTokenEnv(TokenView, DistillEnv):
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
    As in :class:`kd_env.envs.env.DistillEnv`, with the short forms of
    :func:`kd_env.decisions.tutor_token.options.written_out`.

    ## Version History
    v0: initial version.
    """

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(problem, **{"decision": "tutor_token", **options})

    def save_student(self, folder: str | Path, finished: bool = False) -> Path:
        """Write the present student in Hugging Face layout, or with ``finished`` that of the last episode that ended.

        An agent that learns resets an episode in the step that ends it. So the student beside which a tutor has learned
        (the paper's joint training) is written by ``make_agent("tutor", env).learn(env.unwrapped.episode_steps)`` and
        ``env.unwrapped.save_student(folder, finished=True)``.

        Raises:
            ValueError: as :meth:`kd_env.envs.run.Run.save_student`.
        """
        return self.run.save_student(folder, 0, finished)


class TutorTokenVectorEnv(TokenView, DistillVectorEnv):
    """The decision process of :class:`TutorTokenEnv` for N replicas at once; arguments as of its base."""

    def __init__(
        self,
        num_envs: int = 1,
        problem: Problem | None = None,
        autoreset_mode: str | AutoresetMode = "same_step",
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        options = {"decision": "tutor_token", **options}
        super().__init__(num_envs, problem, autoreset_mode, max_episode_steps, **options)

    def save_student(self, folder: str | Path, replica: int = 0, finished: bool = False) -> Path:
        """Write the student of one replica, as :meth:`TutorTokenEnv.save_student`."""
        return self.run.save_student(folder, replica, finished)
