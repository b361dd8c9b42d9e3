"""Negative controls: trainings that can have learned nothing, so that what an agent gains can be set beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.registry import unknown_name
from kd_env.knowledge import TERMS, reads_teacher

INTERVENTIONS = ("open_loop", "forced")
"""On a trained policy, judged beside it (:mod:`kd_env.evaluation.judging.interventions`)."""

CONTROLS = {
    "none": "no control",
    "shuffled_reward": "rewards permuted over the replicas and steps of each rollout before the agent learns from them",
    "teacher_is_student": "every teacher signal is the student's own; reward loss_drop, without the term hard_label",
    "shuffled_feedback": "labels of the evaluated feedback rows permuted: reward, features and influence see no truth",
    "untrained": "the networks as they were drawn, without training",
}


def check_control(name: Any, rule: bool) -> None:
    """Refuse an unknown control, and one that says nothing about a rule.

    Args:
        name: value of ``control``.
        rule: whether the agent of the run is a rule.

    Raises:
        ValueError: with the valid names.
    """
    if not isinstance(name, str) or name not in CONTROLS:
        raise ValueError(unknown_name("control", str(name), CONTROLS))
    if rule and name in ("shuffled_reward", "untrained"):
        raise ValueError(f"control={name} is about training, and a rule has none; choose an agent that learns.")


def controlled_env(env: Mapping[str, Any], control: str) -> dict[str, Any]:
    """The environment's options under ``control=teacher_is_student`` or ``shuffled_feedback``; others change nothing.

    Raises:
        ValueError: no term is left, or the teacher is needed for the observation.
    """
    if control == "shuffled_feedback":
        return {**env, "feedback_labels": "shuffled"}
    if control != "teacher_is_student":
        return dict(env)
    names = [term["name"] if isinstance(term, Mapping) else term for term in env["terms"]]
    terms = [term for term, name in zip(env["terms"], names, strict=True) if reads_teacher(TERMS[name])]
    if not terms:
        raise ValueError(
            f"control=teacher_is_student leaves out terms without a teacher, and no other term is in env.terms={names}."
        )
    return {**env, "terms": terms, "reward": "loss_drop", "teacher_source": "student"}


def read_interventions(given: Any) -> tuple[str, ...] | None:
    """Names of interventions on the agent's policy as ``evaluation.interventions`` gives them; None: auto.

    Raises:
        ValueError: no list, or an unknown name.
    """
    if given == "auto":
        return None
    if not isinstance(given, list):
        raise ValueError(f"evaluation.interventions={given!r} must be auto or a list of {', '.join(INTERVENTIONS)}.")
    for name in given:
        if name not in INTERVENTIONS:
            raise ValueError(unknown_name("intervention in evaluation.interventions:", name, INTERVENTIONS))
    return tuple(dict.fromkeys(given))


class RewardShuffle:
    """Permutes the rewards ``[T, N]`` of a rollout over steps and replicas, with a generator of its own."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng([seed, 1])

    def __call__(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same rewards in another order; the shape stays."""
        return self._generator.permutation(rewards.ravel()).reshape(rewards.shape)

    def state(self) -> dict[str, Any]:
        """Where the generator stands, so that a training that goes on permutes as one without a stop."""
        return dict(self._generator.bit_generator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._generator.bit_generator.state = dict(state)


def agent_options(control: str, seed: int) -> dict[str, Any]:
    """What the control adds to the options of an agent that learns."""
    return {"reward_transform": RewardShuffle(seed)} if control == "shuffled_reward" else {}
