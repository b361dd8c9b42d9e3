"""The algorithms of Stable-Baselines3: their actions, views and defaults."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

from agents.common.base import ActionSpace, AnyEnv, Spaces, inner_env, unknown_name

BOX, DISCRETE, MULTI_DISCRETE, MULTI_BINARY = "Box", "Discrete", "MultiDiscrete", "MultiBinary"


ALL = (BOX, DISCRETE, MULTI_DISCRETE, MULTI_BINARY)

COMMON_VIEWS = ((BOX, "box"), (DISCRETE, "discrete"), (MULTI_DISCRETE, "native"), (MULTI_BINARY, "native"))
"""Of an env that does not say which it has."""


class Algorithm(NamedTuple):
    """Where an algorithm is found and what it can do."""

    package: str
    class_name: str
    actions: tuple[str, ...]
    family: str  # on, off (policy) or ars
    policy: str = "MlpPolicy"


ALGORITHMS = {
    "ppo": Algorithm("stable_baselines3", "PPO", ALL, "on"),
    "a2c": Algorithm("stable_baselines3", "A2C", ALL, "on"),
    "dqn": Algorithm("stable_baselines3", "DQN", (DISCRETE,), "off"),
    "sac": Algorithm("stable_baselines3", "SAC", (BOX,), "off"),
    "td3": Algorithm("stable_baselines3", "TD3", (BOX,), "off"),
    "ddpg": Algorithm("stable_baselines3", "DDPG", (BOX,), "off"),
    "trpo": Algorithm("sb3_contrib", "TRPO", ALL, "on"),
    # Its buffer hands MultiBinary actions to the loss as int8, which raises (sb3-contrib 2.9).
    "recurrentppo": Algorithm("sb3_contrib", "RecurrentPPO", (BOX, DISCRETE, MULTI_DISCRETE), "on", "MlpLstmPolicy"),
    "maskableppo": Algorithm("sb3_contrib", "MaskablePPO", (DISCRETE, MULTI_DISCRETE, MULTI_BINARY), "on"),
    "qrdqn": Algorithm("sb3_contrib", "QRDQN", (DISCRETE,), "off"),
    "tqc": Algorithm("sb3_contrib", "TQC", (BOX,), "off"),
    "crossq": Algorithm("sb3_contrib", "CrossQ", (BOX,), "off"),
    "ars": Algorithm("sb3_contrib", "ARS", (BOX, DISCRETE), "ars"),
}


EXCLUDED = {"her": "it is a replay buffer for goal-conditioned observations, which a flat observation has not"}


def algorithm(name: str) -> Algorithm:
    """The entry of an algorithm.

    Raises:
        ValueError: an unknown name (with near matches), one that is excluded (with the reason), or one whose package is
            not installed (with the command that installs it).
    """
    if name in EXCLUDED:
        raise ValueError(f"sb3/{name} is not offered: {EXCLUDED[name]}.")
    if name not in ALGORITHMS:
        raise ValueError(unknown_name("SB3 algorithm", name, ALGORITHMS))
    entry = ALGORITHMS[name]
    if importlib.util.find_spec(entry.package) is None:
        raise ValueError(
            f"sb3/{name} needs {entry.package}; install it with: pip install {entry.package.replace('_', '-')}"
        )
    return entry


def check_actions(name: str, space: ActionSpace, env: AnyEnv | Spaces | None = None) -> None:
    """Raise ``ValueError`` naming the action view that works where the algorithm cannot take ``space`` (of ``env``)."""
    entry = algorithm(name)
    kind = type(space).__name__
    base = None if env is None or isinstance(env, Spaces) else inner_env(env)
    views = _views(base)
    hints = getattr(getattr(base, "decision", None), "view_hints", {})
    also = {view: f" and {hints[view]}" if view in hints else "" for view in views.values()}
    words = {action: f"action_view='{view}'{also[view]}" for action, view in views.items()}
    if kind not in entry.actions:
        raise ValueError(
            f"sb3/{name} takes only {' or '.join(entry.actions)} actions, but the env has {space}; "
            f"make the env with {_any_of(entry, words)}."
        )
    refusals = getattr(getattr(base, "decision", None), "output_refusal", {})
    if (needs := refusals.get(getattr(base, "action_view", None))) is not None:
        raise ValueError(f"sb3/{name} would need {needs} ({space}); make the env with {_any_of(entry, words)}.")


def _views(base: Any) -> dict[str, str]:
    """The first action view for each kind of action space."""
    views: dict[str, str] = {}
    for kind, view in getattr(getattr(base, "decision", None), "views", COMMON_VIEWS):
        views.setdefault(kind, view)
    return views


def _any_of(entry: Algorithm, words: Mapping[str, str]) -> str:
    return " or ".join(dict.fromkeys(words[action] for action in entry.actions if action in words))


def defaults(name: str, count: int, length: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters for short episodes, overridden by ``given``.

    Args:
        name: the algorithm.
        count: replicas N.
        length: steps of an episode, None if unknown (then 40).
        given: the user's.

    Raises:
        ValueError: a ``batch_size`` that does not divide a rollout of PPO's kind.
    """
    family, length = algorithm(name).family, length or 40
    if family == "ars":
        # Each replica ends one episode a candidate; with fewer, the others' steps would be thrown away.
        return {"n_eval_episodes": count, **given}
    if family == "on":
        values = {"gamma": 1.0, "n_steps": length, **given}
        total = values["n_steps"] * count
        if name != "a2c":
            limit = max(64, total // 4)
            values.setdefault("batch_size", max(d for d in range(1, min(limit, total) + 1) if total % d == 0))
            if total % values["batch_size"]:
                raise ValueError(
                    f"batch_size={values['batch_size']} does not divide the rollout of n_steps x replicas = "
                    f"{values['n_steps']} x {count} = {total} steps; choose a divisor."
                )
        return values
    values = {"gamma": 1.0, "buffer_size": 100_000, "learning_starts": max(100, length * count)}
    # One update for every four transitions, whatever the number of replicas; SB3's default is one for N of them.
    values |= {"gradient_steps": max(1, count // 4)}
    if name in ("dqn", "qrdqn"):
        # SB3 waits 10,000 steps before the first copy, longer than many trainings here.
        values |= {"train_freq": 1, "target_update_interval": max(500, count), "exploration_fraction": 0.3}
    if name in ("td3", "ddpg"):
        # Their policies are deterministic: without noise nothing is explored.
        values |= {"action_noise_std": 0.1}
    return {**values, **given}
