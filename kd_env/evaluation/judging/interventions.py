"""Interventions on a learned policy, judged beside it on the same seeds: what it owes to looking, and to each part of
what it does. Nothing is trained for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from kd_env.config.environment import EnvConfig
from kd_env.decisions.base import MULTI_BINARY, Decision
from kd_env.decisions.catalog import in_view, make_decision
from kd_env.decisions.raw import checked_actions
from kd_env.envs import DistillVectorEnv
from kd_env.evaluation.judging.contenders import Contender, Policy
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import Effect

INTERVENTIONS = {
    "open_loop": "the mean schedule that was learned, replayed without looking",
    "forced": "each component of the action on, and off, in turn; of rows the mean weight for each of them",
}
STUDENTS = 8
"""Whose schedules are averaged."""
CONSTANT = "constant"
_NONE, _ALL = "none", "all"
"""First and last choice of discrete views whose choices between them are one component each."""


def interventions_of(names: Sequence[str], decision: Decision, config: EnvConfig) -> tuple[str, ...]:
    """The single interventions that some names stand for: ``open_loop``, ``constant``, ``<component> on`` or ``off``.

    ``forced`` of rows is ``constant``, since rows are exchangeable; a gate is never off, which would train nothing.

    Args:
        names: of :data:`INTERVENTIONS`.
        decision: what the policy decides.
        config: the options of its environment.

    Raises:
        ValueError: ``forced``, and actions that have no components which are on or off.
    """
    found = ["open_loop"] if "open_loop" in names else []
    if "forced" not in names:
        return tuple(found)
    if config.weighting == "sample":
        return (*found, CONSTANT)
    parts = decision.action_names
    if isinstance(decision.action_space, spaces.Discrete):
        has_sets = any(kind == MULTI_BINARY for kind, _ in decision.views)
        parts = parts[1:-1] if has_sets and (parts[0], parts[-1]) == (_NONE, _ALL) else ()
    elif not isinstance(decision.action_space, spaces.Box | spaces.MultiBinary):
        parts = ()
    if not parts:
        raise ValueError(
            f"The intervention 'forced' needs actions whose components are on or off, which decision={decision.name!r} "
            f"has not in action_view={decision.view!r}; leave it out."
        )
    forced = [f"{part} {state}" for part in parts for state in ("on", "off")]
    return (*found, *(name for name in forced if name != "gate off"))


def intervened(
    contender: Contender, of: str, what: str, problem: Problem, seeds: Sequence[int], deterministic: bool
) -> Contender:
    """A learned policy under one intervention, as a contender that is neither learned nor a rule.

    Args:
        contender: the policy.
        of: its name.
        what: one of :func:`interventions_of`.
        problem: that it acts in.
        seeds: of the students on which a schedule is recorded; other ones than those of the evaluation.
        deterministic: whether the policy's most likely actions are recorded.
    """

    def factory(env: DistillVectorEnv) -> Policy:
        policy = contender.factory(env)
        if what == "open_loop":
            return Replay(recorded_schedule(policy, problem, seeds, deterministic))
        return Forced(env, policy, what)

    return replace(contender, factory=factory, learned=False, intervention=what, of=of)


class Replay:
    """The same actions for every student, by the step of its episode; the last one again after their end.

    Args:
        schedule: ``[steps, ...]`` raw actions.
    """

    def __init__(self, schedule: NDArray[Any]) -> None:
        self.schedule = schedule

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """The actions of the step at which each student is, and the next step."""
        steps = np.zeros(len(observation), dtype=np.int64) if state is None else state
        if episode_start is not None:
            steps = np.where(episode_start, 0, steps)
        return self.schedule[np.minimum(steps, len(self.schedule) - 1)], steps + 1


class Forced:
    """A policy of whose actions one component is set.

    Args:
        env: in which it acts.
        policy: the policy.
        what: ``constant``, ``<component> on`` or ``<component> off``.
    """

    def __init__(self, env: DistillVectorEnv, policy: Policy, what: str) -> None:
        self._env, self._policy, self._what = env, policy, what
        self._part, _, state = what.rpartition(" ")
        self._on = state == "on"
        decision, config = env.decision, env.problem.config
        self._place = -1 if what == CONSTANT else decision.action_names.index(self._part)
        self._sets: Decision | None = None
        if what != CONSTANT and isinstance(decision.action_space, spaces.Discrete):
            view = next(view for kind, view in decision.views if kind == MULTI_BINARY)
            self._sets = make_decision(in_view(config, view), decision.parts)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """The policy's actions with the component as it is to be, or their effect."""
        actions, memory = self._policy.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic
        )
        return self._changed(actions), memory

    def _changed(self, actions: Any) -> Any:
        env, space = self._env, self._env.single_action_space
        raw = checked_actions(actions, space, env.num_envs)
        if self._what == CONSTANT:
            return _constant(env.decision.apply(env.problem, env.run.started(), raw))
        if self._sets is not None:
            count = len(env.decision.action_names) - 2
            chosen = np.vstack([np.zeros(count), np.eye(count), np.ones(count)]).astype(np.int8)[raw]
            chosen[:, self._place - 1] = self._on
            return self._sets.apply(env.problem, env.run.started(), chosen)
        changed = np.array(raw)
        if isinstance(space, spaces.Box):
            changed[:, self._place] = (space.high if self._on else space.low)[self._place]
        else:
            changed[:, self._place] = self._on
        return changed


def _constant(effect: Effect) -> Effect:
    """The effect with the mean weight of each batch, and the mean of what is given to terms, for each of its rows."""
    teacher, given = effect.teacher, effect.given
    if teacher is not None:
        teacher = teacher._replace(weights=_same(teacher.weights))
    if given is not None:
        given = {name: _same(values) if values.ndim > 1 else values for name, values in given.items()}
    return effect._replace(weights=_same(effect.weights), teacher=teacher, given=given)


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return np.broadcast_to(values.mean(axis=-1, keepdims=True), values.shape).copy()


def recorded_schedule(policy: Policy, problem: Problem, seeds: Sequence[int], deterministic: bool) -> NDArray[Any]:
    """What a policy does on average at every step of an episode: raw actions ``[steps, ...]``.

    Of numbers the mean over students, of choices and bits the most frequent action; equally frequent ones by their
    order, the last of them. Where one action is made for each row, over the rows of the batches, too.

    Args:
        policy: the policy.
        problem: that it acts in.
        seeds: of the students; their episodes are not judged.
        deterministic: passed to ``predict``.
    """
    together = [[seed] for seed in seeds] if problem.config.dropout else [list(seeds)]  # stacked ones have no dropout
    played: list[list[NDArray[Any]]] = []
    for group in together:
        for step, actions in enumerate(_played(policy, problem, group, deterministic)):
            if step == len(played):
                played.append([])
            played[step].append(actions)
    env = DistillVectorEnv(1, problem=problem)
    decision = env.decision
    rows = problem.config.batch_size if _acts_by_row(decision, problem.config) else 1
    space = env.single_action_space
    env.close()
    return np.stack([_mean(np.concatenate(each), space, rows) for each in played])


def _acts_by_row(decision: Decision, config: EnvConfig) -> bool:
    """Whether actions have components for every row of the batch, one row after another, and a gate behind them."""
    return config.weighting == "sample" and decision.weights_per_row > 0 and not decision.shared_refusal


def _played(policy: Policy, problem: Problem, seeds: Sequence[int], deterministic: bool) -> list[NDArray[Any]]:
    """Raw actions of the students that still run, ``[n, ...]`` of every step."""
    env = DistillVectorEnv(len(seeds), problem=problem, autoreset_mode="disabled")
    observations, _ = env.reset(seed=list(seeds))
    starts, running = np.ones(len(seeds), dtype=bool), np.ones(len(seeds), dtype=bool)
    memory, found = None, []
    while running.any():
        actions, memory = policy.predict(observations, state=memory, episode_start=starts, deterministic=deterministic)
        found.append(np.asarray(actions)[running])
        observations, _, terminations, truncations, _ = env.step(actions)
        starts = terminations | truncations
        running &= ~starts
        if starts.any() and running.any():
            observations, _ = env.reset(options={"reset_mask": starts})
    env.close()
    return found


def _mean(actions: NDArray[Any], space: spaces.Space[Any], rows: int) -> NDArray[Any]:
    """The mean, or the most frequent, of actions ``[n, ...]`` of a space with components for so many rows."""
    parts = np.split(actions, [actions.shape[-1] // rows * rows], axis=-1) if rows > 1 else [actions]
    parts[0] = parts[0].reshape(len(actions) * rows, -1)
    means = [_typical(part, space) for part in parts if part.size]
    whole = np.concatenate([np.tile(means[0], rows), *means[1:]])
    return np.asarray(whole.reshape(space.shape), dtype=space.dtype)


def _typical(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    if isinstance(space, spaces.Box):
        return np.asarray(np.clip(actions.mean(axis=0), space.low.min(), space.high.max()))
    values, counts = np.unique(actions, axis=0, return_counts=True)
    return np.asarray(values[np.flatnonzero(counts == counts.max())[-1]])
