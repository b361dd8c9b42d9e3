"""N replicas of the tutor's environment with their generators, stepped by the pure functions of ``dynamics``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_env.decisions.tutor_token import features, reading
from kd_env.decisions.tutor_token import text as dynamics
from kd_env.decisions.tutor_token.corpus.text import build_tutor_problem
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.problem import TutorProblem, warn_floor
from kd_env.decisions.tutor_token.process import with_tutor_options
from kd_env.decisions.tutor_token.state import TutorState
from kd_env.envs.shells.course import Panels
from kd_env.envs.shells.replicas import Replicas
from kd_env.mdp.rewards import gap_scale
from kd_env.models.export import write_student


class TutorRun(Replicas[TutorState]):
    """N replicas of one problem."""

    problem: TutorProblem

    def __init__(self, problem: TutorProblem, num_replicas: int) -> None:
        dropout = problem.config.student_config.dropout
        if num_replicas > 1 and dropout > 0:
            raise ValueError(
                f"student.dropout={dropout} needs single environments: stacked students have no generator per replica. "
                "Set student.dropout=0 or num_envs=1."
            )
        super().__init__(num_replicas, problem.device)
        self.problem = problem
        self.finished: dict[int, dict[str, torch.Tensor]] = {}

    @classmethod
    def make(cls, problem: TutorProblem | None, options: Mapping[str, Any], num_replicas: int) -> TutorRun:
        """A run of a given problem (with other options of the decision process) or of a new one."""
        if problem is None:
            return cls(build_tutor_problem(TutorConfig.from_kwargs(**options)), num_replicas)
        if not isinstance(problem, TutorProblem):
            raise ValueError(f"problem must come from build_tutor_problem, got {type(problem).__name__}.")
        return cls(with_tutor_options(problem, **options) if options else problem, num_replicas)

    @property
    def spec(self) -> str:
        """Hash of the problem: states travel between environments of the same one."""
        plain = {**self.problem.config.to_dict(), "render_mode": None}
        text = json.dumps([plain, self.problem.fingerprint], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def floor(self) -> float:
        """The least feedback loss."""
        return self.problem.loss_floor

    def initial(self, seeds: Sequence[int], budgets: Sequence[int]) -> TutorState:
        """The start of one episode per seed."""
        return dynamics.initial(self.problem, seeds, budgets)

    def advance(self, before: TutorState, actions: Any) -> tuple[TutorState, np.ndarray, np.ndarray]:
        """The state after a step, its rewards, and whether they were clipped."""
        tokens = self.problem.actions.decode(actions, dynamics.choices(self.problem, before))
        after = dynamics.transition(self.problem, before, tokens)
        return after, *dynamics.reward(self.problem, before, after)

    def reset(self, replicas: np.ndarray, budget: int | None) -> None:
        """As in :class:`Replicas`; the students of episodes that have ended are kept for :meth:`save_student`."""
        if self.state is not None:
            for replica in (int(index) for index in replicas if self.ended[index]):
                params = self.started().params.items()
                self.finished[replica] = {name: p[replica].detach().cpu().clone() for name, p in params}
        super().reset(replicas, budget)

    def warn_floor(self, loss_reset: float) -> None:
        """Say that the gap is counted down to a floor."""
        warn_floor(self.problem, loss_reset)

    def observation(self) -> dict[str, np.ndarray] | np.ndarray:
        """Arrays ``[N, ...]`` by name, or ``[N, O]`` with ``observation=flat``."""
        return features.observe(self.problem, self.started())

    def info(self) -> dict[str, np.ndarray]:
        """Fresh host arrays ``[N, ...]``; those of tokens are about the last update, row by row and slot by slot.

        ``dropped_slots`` is about the text that is to be filled.
        """
        s = self.started()
        tokens = {name: value.copy() for name, value in s.token_rewards._asdict().items()}
        return {
            **tokens,
            "tokens": s.tokens.copy(),
            "originals": s.originals.copy(),
            "gap_closed": (s.loss_reset - s.loss) / s.gap_scale,
            "gap_floored": gap_scale(s.loss_reset, self.problem.loss_floor)[1],
            "loss": s.loss.copy(),
            "losses": s.losses.copy(),
            "update_norm": s.update_norm.copy(),
            "updated": s.updated.copy(),
            "dropped_slots": s.dropped.copy(),
            "diverged": s.diverged.copy(),
            "updates": s.updates.copy(),
        }

    def log_probabilities(self) -> torch.Tensor:
        """The teacher's log-probabilities over the vocabulary at every slot, ``[N, B, P, V]`` on the device."""
        view = self.started().view
        with torch.no_grad():
            logits = self.problem.teacher.decode(view.features)
            return logits - view.log_partition[..., None]

    def original_tokens(self) -> torch.Tensor:
        """Tokens of the text at the slots, ``[N, B, P]`` on the device."""
        s = self.started()
        return torch.as_tensor(dynamics.originals(self.problem, s.rows, s.positions), device=self.problem.device)

    def student_errors(self, tokens: torch.Tensor) -> torch.Tensor:
        """``student_error`` that ``tokens [N, B, P]`` would have."""
        s = self.started()
        return reading.student_errors(self.problem, s.params, s.rows, s.positions, s.valid, s.base, tokens)

    def save_student(self, folder: str | Path, replica: int, finished: bool = False) -> Path:
        """Write one student in Hugging Face layout; the map to the teacher's width is left out.

        Args:
            folder: new or empty.
            replica: which.
            finished: that of the replica's last episode that ended and was reset, which an autoreset does at once; else
                the present one.

        Raises:
            ValueError: no such replica, a folder that is not empty, or no episode that ended.
        """
        self.check_replica(replica)
        if finished and replica not in self.finished:
            raise ValueError(
                f"No episode of replica {replica} has ended and been reset; leave finished out for its present student."
            )
        params = self.finished[replica] if finished else {n: p[replica] for n, p in self.started().params.items()}
        params = {name: p for name, p in params.items() if name != reading.PROJECTION}
        return write_student(self.problem.student, params, self.problem.assets.tokenizer, folder)

    def panels(self) -> Panels:
        """Gap and return, and the student's losses; NaN before the first step."""
        s = self.started()
        losses = s.losses * np.where(s.steps > 0, 1.0, np.nan)[:, None]
        return {
            "feedback rows": {"gap closed": (s.loss_reset - s.loss) / s.gap_scale, "return": s.returns},
            "losses": dict(zip(self.problem.loss_names, losses.T, strict=True)),
        }

    def line(self, replica: int) -> str:
        """One readable line about the last step."""
        s, problem = self.started(), self.problem
        losses = " ".join(f"{n}={v:.3g}" for n, v in zip(problem.loss_names, s.losses[replica], strict=True))
        gap = float((s.loss_reset[replica] - s.loss[replica]) / s.gap_scale[replica])
        parts = {name: float(value[replica].mean()) for name, value in s.token_rewards._asdict().items()}
        tokens = " ".join(f"{name}={value:.3f}" for name, value in parts.items())
        return (
            f"step {s.steps[replica]:>4} update {s.updates[replica]}/{s.budget[replica]} slot {s.filled[replica]} | "
            f"losses {losses} | {tokens} | feedback loss {s.loss[replica]:.4f} gap closed {gap:.3f} return "
            f"{s.returns[replica]:.3f}{' DIVERGED' if s.diverged[replica] else ''}"
        )
