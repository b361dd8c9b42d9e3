"""What both shells share: N replicas with their generators, stepped by the pure functions of :mod:`kd_env.mdp`."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from torch import Tensor

from kd_env.config.environment import EnvConfig
from kd_env.data.tables import Table
from kd_env.decisions.base import Decision
from kd_env.decisions.options import env_config
from kd_env.decisions.raw import checked_actions
from kd_env.envs.build import build_problem
from kd_env.envs.process import with_options
from kd_env.envs.shells import stored
from kd_env.envs.shells.course import Panels
from kd_env.envs.shells.replicas import Replicas
from kd_env.mdp import passes, transition
from kd_env.mdp.problem import Problem
from kd_env.mdp.rewards import gap_scale
from kd_env.mdp.state import DistillState, Effect, TeacherState
from kd_env.models.export import write_student

_OF_THE_MACHINE = frozenset({"micro_batch_size", "activation_checkpointing", "data_parallel"})
"""Options that change nothing but rounding: a state goes on with others."""


class Run(Replicas[DistillState]):
    """N replicas of one problem."""

    problem: Problem

    def __init__(self, problem: Problem, num_replicas: int) -> None:
        super().__init__(num_replicas, problem.device)
        dropout = problem.config.dropout
        if num_replicas > 1 and dropout:
            raise ValueError(
                f"{dropout} needs single environments: stacked replicas have no generator each. Set "
                f"{dropout.split('=')[0]}=0 or use vectorization=processes."
            )
        if num_replicas > 1 and problem.config.activation_checkpointing:
            raise ValueError(
                f"activation_checkpointing=True needs single environments, and {num_replicas} students are stacked; "
                "set num_envs=1 or vectorization='processes', or leave it out."
            )
        self.problem = problem
        self.finished: dict[int, dict[str, Tensor]] = {}
        """Students of the replicas' last episodes that ended and were reset, where the decision has them kept."""
        self._scratch: dict[str, Tensor] = {}

    @classmethod
    def make(cls, problem: Problem | None, options: Mapping[str, Any], num_replicas: int) -> Run:
        """A run of a given problem (with other options of the decision process) or of a new one."""
        if problem is None:
            return cls(build_problem(env_config(**options)), num_replicas)
        if not isinstance(problem, Problem):
            raise ValueError(f"problem must come from build_problem, got {type(problem).__name__}.")
        return cls(with_options(problem, **options) if options else problem, num_replicas)

    @property
    def decision(self) -> Decision:
        """What the agent decides."""
        decision = self.problem.decision
        assert isinstance(decision, Decision)  # the problem knows less of it, since it stands below
        return decision

    @property
    def spec(self) -> str:
        """Hash of the problem: states travel between environments of the same one."""
        text = json.dumps(list(self._about().values()), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _about(self) -> dict[str, Any]:
        problem = self.problem
        plain = {**problem.config.to_dict(), "render_mode": None, "show_progress": False, "cache_dir": None}
        plain = {name: value for name, value in plain.items() if name not in _OF_THE_MACHINE}
        reader = problem.assets.reader
        models = [*(t.identity for t in problem.teachers), *([reader.identity] if reader is not None else [])]
        return {"options": plain, "rows": problem.fingerprint, "models": models}

    @property
    def floor(self) -> float:
        """The reference teacher's loss ``e_T``."""
        return self.problem.teacher_loss

    @property
    def spaces(self) -> tuple[Space[Any], Space[Any]]:
        """Spaces of one replica's observation and action."""
        return self.decision.observation_space(self.problem), self.decision.action_space

    def initial(self, seeds: Sequence[int], budgets: Sequence[int]) -> DistillState:
        """The start of one episode per seed."""
        return transition.initial(self.problem, seeds, budgets)

    def advance(self, before: DistillState, actions: Any) -> tuple[DistillState, np.ndarray, np.ndarray]:
        """The state after a step, its rewards, and whether they were clipped."""
        # A rule may say its effect itself, where no action expresses it (MT-BERT's weights do not sum to one).
        effect = actions if isinstance(actions, Effect) else self._effect(before, actions)
        said = _numbers(effect) if effect is actions else [np.asarray(actions)]
        self.problem.ranks.check_same("actions or losses", *(part.tobytes() for part in (before.loss, *said)))
        check_replicas(effect, self.num_replicas)
        after = transition.transition(self.problem, before, effect, self._scratch)
        return after, *transition.reward(self.problem, before, after)

    def reset(self, replicas: np.ndarray, budget: int | None) -> None:
        """As in :class:`Replicas`; students of episodes that have ended are kept where the decision wants it."""
        if self.state is not None and self.decision.keeps_finished:
            for replica in (int(index) for index in replicas if self.ended[index]):
                params = self.started().params.items()
                self.finished[replica] = {name: p[replica].detach().cpu().clone() for name, p in params}
        super().reset(replicas, budget)

    def _effect(self, before: DistillState, actions: Any) -> Effect:
        raw = checked_actions(actions, self.decision.action_space, self.num_replicas)
        return self.decision.apply(self.problem, before, raw)

    def save_state(self, folder: Path) -> None:
        """Write the state, and the students of episodes that have ended where the decision has them kept."""
        finished = {str(replica): params for replica, params in self.finished.items()}
        stored.write_state(folder, (self.shown_state(), finished), self._plain_about())

    def load_state(self, folder: Path) -> None:
        """Take over a state that :meth:`save_state` wrote.

        Raises:
            ValueError: no whole state, or one of another problem (what differs is named).
        """
        there, here = stored.read_about(folder), self._plain_about()
        there["options"] = {**_defaults(here["options"]), **there.get("options", {})}  # earlier versions had fewer
        if there != here:
            differences = ", ".join(_differences(there, here))
            raise ValueError(f"The state in {folder} is of another problem: {differences}.")
        if self.state is None:
            self.reset(np.arange(self.num_replicas), None)  # a state of this problem says of which types a state is
        saved, finished = stored.read_state(folder, (self.get_state(), {}))
        self.set_state(saved._replace(spec=self.spec))  # a hash of what was compared above
        self.finished = {int(replica): params for replica, params in finished.items()}

    def _plain_about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(json.dumps(self._about(), default=str))
        return {**about, "replicas": self.num_replicas}

    def warn_floor(self, loss_reset: float) -> None:
        """Say that the gap is counted down to a floor."""
        warn_floor(self.problem, loss_reset)

    def observation(self) -> Any:
        """Observations of every replica: ``[N, O]`` float32, unless the decision has others."""
        return self.decision.observe(self.problem, self.started())

    def info(self) -> dict[str, np.ndarray]:
        """Fresh host arrays ``[N, ...]`` about the last step; ``gap_closed`` is counted from reset."""
        s, present = self.started(), self.problem.present
        return {
            **self.decision.info(s),
            "gap_closed": (s.loss_reset - s.loss) / s.gap_scale,
            "gap_floored": gap_scale(s.loss_reset, self.problem.teacher_loss)[1],
            "loss": s.loss.copy(),
            "raw_loss": s.raw_loss.copy(),
            "temperature": s.temperature.copy(),
            "feedback_metric": s.metric.copy(),
            "raw_losses": s.raw_losses[:, present],
            "scaled_losses": s.scaled_losses[:, present],
            "weights": s.weights[:, present],
            "update_scale": s.update_scale.copy(),
            "update_norm": s.update_norm.copy(),
            "skipped": s.skipped.copy(),
            "diverged": s.diverged.copy(),
            "updates": s.updates.copy(),
            **_of_teacher(s.teacher),
        }

    def predict(self, table: Table) -> np.ndarray:
        """Logits of every replica's present student, ``[N, R, C]``."""
        return passes.predict(self.problem, self.started().params, table)

    def predict_teacher(self, table: Table) -> np.ndarray:
        """Logits of every replica's present teacher, ``[N, R, C]``; refused where the teacher is frozen."""
        teacher = self.started().teacher
        if teacher is None:
            raise ValueError("The teacher is frozen (teacher_updates='none'): its logits are problem.teacher_logits.")
        return passes.predict(self.problem, teacher.params, table, encoder=self.problem.reference.encoder)

    def save_student(self, folder: str | Path, replica: int, finished: bool = False) -> Path:
        """Write one student in Hugging Face layout; maps to a teacher's width are left out.

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
        return write_student(self.problem.student, params, self.problem.assets.tokenizer, folder)

    def panels(self) -> Panels:
        """Gap and return, the terms' losses and their weights; NaN before the first step."""
        s, present = self.started(), self.problem.present
        begun = np.where(s.steps > 0, 1.0, np.nan)
        losses, weights = (values[:, present] * begun[:, None] for values in (s.raw_losses, s.weights))
        names = self.problem.entry_names
        return {
            "feedback rows": {"gap closed": (s.loss_reset - s.loss) / s.gap_scale, "return": s.returns},
            "losses": dict(zip(names, losses.T, strict=True)),
            "weights": {**dict(zip(names, weights.T, strict=True)), "update scale": s.update_scale * begun},
        }

    def line(self, replica: int) -> str:
        """One readable line about the last step."""
        s = self.started()
        terms = self.problem.entry_names
        weights = " ".join(f"{n}={w:.2f}" for n, w in zip(terms, s.weights[replica][self.problem.present], strict=True))
        losses = " ".join(
            f"{n}={v:.3g}" for n, v in zip(terms, s.raw_losses[replica][self.problem.present], strict=True)
        )
        gap = float((s.loss_reset[replica] - s.loss[replica]) / s.gap_scale[replica])
        words = self.decision.line(s, replica)
        words = f"{words} | " if words else ""
        flag = " DIVERGED" if s.diverged[replica] else " skipped" if s.skipped[replica] and s.steps[replica] else ""
        return (
            f"step {s.steps[replica]:>4} update {s.updates[replica]}/{s.budget[replica]} | weights {weights} "
            f"x{s.update_scale[replica]:.2f} | losses {losses} | {words}feedback loss {s.loss[replica]:.4f} gap closed "
            f"{gap:.3f} "
            f"return {s.returns[replica]:.3f}{flag}"
        )


def _defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the options that have some, as JSON has them."""
    found = {field.name: field.default for field in fields(EnvConfig) if field.name in options}
    return dict(json.loads(json.dumps({name: value for name, value in found.items() if value is not MISSING})))


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ, with both."""
    found = []
    for key in {**here, **there}:
        ours, theirs = here.get(key), there.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += _differences(theirs, ours, f"{prefix}{key}.")
        elif ours != theirs:
            found.append(f"{prefix}{key} {theirs!r} there, {ours!r} here")
    return found


def _of_teacher(teacher: TeacherState | None) -> dict[str, np.ndarray]:
    if teacher is None:
        return {}
    names = ("loss", "influence_ratio", "influence_cosine")
    return {f"teacher_{name}": getattr(teacher, name).copy() for name in names}


def warn_floor(problem: Problem, loss_reset: float) -> None:
    """The warning at construction where the floor of D is active."""
    if problem.config.objective == "text":
        warnings.warn(
            f"The student's loss at reset ({loss_reset:.4f}) is hardly above the least that counts "
            f"({problem.teacher_loss:.4f}); the gap is counted as 5% of the loss at reset.",
            UserWarning,
            stacklevel=3,
        )
        return
    warnings.warn(
        f"The teacher's loss {problem.teacher_loss:.4f} is less than 5% below a fresh student's {loss_reset:.4f}: "
        "the floor of the gap is active, and reports show the loss instead of the gap closed.",
        UserWarning,
        stacklevel=3,
    )


def _numbers(effect: Effect) -> list[np.ndarray]:
    """All numbers that an effect says: ranks may differ in what terms and teachers read beside the weights, too."""
    taught = [] if effect.teacher is None else [effect.teacher.weights, effect.teacher.influence]
    return [effect.weights, effect.update_scale, *(effect.given or {}).values(), *taught]


def check_replicas(effect: Effect, count: int) -> None:
    """Refuse an effect of another number of replicas, with both."""
    if len(effect.weights) != count:
        raise ValueError(
            f"The effect is of {len(effect.weights)} replicas, the environment has {count}; give weights of all."
        )
