"""Agents of a tutor's environment: the defaults with which they learn in time, and refusals of those that would not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.settings.controls import agent_options
from cli.settings.kinds.base import Settings
from kd_env.config.environment import EnvConfig

_WHOLE_EPISODES = ("pgpe", "reinforce", "sb3/ars", "searched", "teacher_selector")
"""Agents that learn from whole episodes only."""
_ROLLOUT = 32
"""Steps of a rollout with ``protocol=joint``, or the next smaller number that divides the episode."""


def total_steps(c: Mapping[str, Any], env: Any) -> int:
    """Environment steps of a training: with ``protocol=joint`` those of the one episode.

    Raises:
        ValueError: another number is given.
    """
    total = c["total_timesteps"]
    if c["env"]["protocol"] != "joint":
        return int(total)
    steps = int(env.episode_steps)
    if total not in (None, steps):
        raise ValueError(
            f"total_timesteps={total}, but with env.protocol=joint the training is one episode of env.budget="
            f"{c['env']['budget']} updates, which are {steps} steps: leave total_timesteps out, and set env.budget to "
            "the updates that the student is to have."
        )
    return steps


def learning_options(settings: Settings[EnvConfig], env: Any) -> dict[str, Any]:
    """Hyper-parameters of the agent in an environment: the given ones, and what makes others learn in time.

    Raises:
        ValueError: an agent that cannot learn under the protocol.
    """
    from agents.sb3.algorithms import ALGORITHMS

    c, name = settings.resolved, settings.agent.name
    options = dict(settings.agent.options)
    family = ALGORITHMS[name[4:]].family if name.startswith("sb3/") else ""
    if c["env"]["protocol"] == "joint":
        options = {**_while_acting(name, options, env.episode_steps, family), **options}
    if family == "off":
        # Observations are long: room for SB3's 100,000 of them may be more than there is memory.
        options.setdefault("buffer_size", min(100_000, total_steps(c, env)))
    return {**options, **agent_options(c["control"], c["seed"])}


def _while_acting(name: str, given: Mapping[str, Any], total: int, family: str) -> dict[str, Any]:
    """Defaults with which an agent learns while its one episode of ``total`` steps goes on."""
    if name in _WHOLE_EPISODES:
        raise ValueError(
            f"{name} learns from whole episodes, and with env.protocol=joint there is one, whose student would be "
            "finished before anything is learned. Use env.protocol=frozen, or another agent."
        )
    if family == "off":
        early = max(1, min(100, total // 10))
        copies = {"target_update_interval": early} if name in ("sb3/dqn", "sb3/qrdqn") else {}
        return {"learning_starts": early, **copies}
    if name == "actor_critic" or family == "on":
        parts = [part for part in range(2, min(_ROLLOUT, total - 1) + 1) if total % part == 0]
        if not parts and "n_steps" not in given:
            raise ValueError(
                f"{name} learns from rollouts, and the {total} steps of the one episode of env.protocol=joint have no "
                f"divisor from 2 to {_ROLLOUT}: choose another env.budget, as {total + 32 - total % 32}."
            )
        return {"n_steps": max(parts)} if parts else {}
    return {}


def check_learns(settings: Settings[EnvConfig], env: Any, *, steps_known: bool = True) -> None:
    """Refuse an agent that does not fit, or would learn nothing (with ``protocol=joint`` before its student is
    finished).

    Args:
        settings: of the run.
        env: the environment, or a probe of it.
        steps_known: whether ``env.episode_steps`` is right.

    Raises:
        ValueError: that, or a number of steps that is not that of the one episode.
    """
    from agents import make_agent

    c, name = settings.resolved, settings.agent.name
    joint = c["env"]["protocol"] == "joint"
    if joint and not steps_known:
        options = {**settings.agent.options, **agent_options(c["control"], c["seed"])}
        make_agent(name, env, seed=c["seed"], device="cpu", **options)
        return
    total = total_steps(c, env)
    agent = make_agent(name, env, seed=c["seed"], device="cpu", **learning_options(settings, env))
    for owner, key in (("config", "warmup_steps"), ("model", "learning_starts")):
        steps = getattr(getattr(agent, owner, None), key, 0)
        if 0 < total <= steps and c["control"] != "untrained":
            remedy = "env.budget" if joint else "total_timesteps"
            raise ValueError(
                f"{'' if joint else 'total_timesteps='}{total}{' steps' if joint else ''} ends within the {steps} "
                f"random steps that {name} begins with: nothing would be learned. Set {remedy} above {steps}, or "
                f"agent.options.{key} lower."
            )
    rollout = getattr(
        getattr(agent, "model", None), "n_steps", getattr(getattr(agent, "config", None), "n_steps", None)
    )
    if joint and isinstance(rollout, int) and (total % rollout or rollout >= total):
        raise ValueError(
            f"The agent {name} learns after every n_steps={rollout} steps, but the one episode of env.protocol=joint "
            f"has {total}: choose a divisor of {total} that is below it, or another env.budget."
        )
