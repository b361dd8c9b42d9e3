"""Agents by name: ours, ``sb3/<name>`` and the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agents.common import storage
from agents.common.base import Agent, AnyEnv, as_path, unknown_name
from agents.knowledge_selector.agent import KnowledgeSelector
from agents.knowledge_selector.published import PublishedSelector
from agents.policy_gradient.actor_critic import ActorCritic
from agents.policy_gradient.parameter_exploring import ParameterExploring
from agents.policy_gradient.reinforce import Reinforce
from agents.policy_gradient.teacher_selector import TeacherSelector
from agents.rules.catalog import GROUP as RULES_GROUP
from agents.rules.catalog import RULES, add_rules, make_rule, rule_class
from agents.rules.searched import Searched
from agents.sb3.agent import SB3Agent, make_sb3
from agents.sb3.algorithms import ALGORITHMS, algorithm
from agents.tutor.agent import Tutor
from kd_files.plugins import add_plugins, check_loads, subclass_of

GROUP = "kd_env.agents"
PREFIX = "sb3/"

AGENTS: dict[str, type[Any]] = {
    "reinforce": Reinforce,
    "actor_critic": ActorCritic,
    "pgpe": ParameterExploring,
    "knowledge_selector": KnowledgeSelector,
    "knowledge_selector_published": PublishedSelector,
    "teacher_selector": TeacherSelector,
    "tutor": Tutor,
    "searched": Searched,
}
"""Agents that learn, without SB3's: classes called as ``cls(env, seed=..., device=..., **options)``, with ``load``."""

Kind = Literal["agent", "sb3", "rule"]


def agent_names() -> tuple[str, ...]:
    """Every name that :func:`make_agent` takes."""
    add_plugins(AGENTS, GROUP, subclass_of(object))
    add_rules()
    return (*sorted(AGENTS), *(PREFIX + name for name in sorted(ALGORITHMS)), *sorted(RULES))


def agent_kind(name: str) -> Kind:
    """Whether a name is an ``agent`` of ours (or a plug-in's), an ``sb3`` algorithm or a ``rule``.

    Raises:
        ValueError: an unknown name, with near matches; an SB3 algorithm whose package is not installed.
    """
    if name.startswith(PREFIX):
        algorithm(name.removeprefix(PREFIX))
        return "sb3"
    names = agent_names()
    if name in AGENTS:
        return "agent"
    if name in RULES:
        return "rule"
    for kind, group in (("agent", GROUP), ("rule", RULES_GROUP)):
        check_loads(group, kind, name)
    raise ValueError(unknown_name("agent", name, names))


def make_agent(name: str, env: AnyEnv, *, seed: int, device: str = "cpu", **options: Any) -> Agent:
    """An agent by name.

    Args:
        name: one of :func:`agent_names`.
        env: gymnasium env or vector env (``autoreset_mode=SAME_STEP``) with a flat Box observation.
        seed: of everything random in the agent, and of the env's first reset.
        device: of its networks; rules have none and run anywhere.
        **options: the agent's own; ``reward_transform`` for agents that learn from rollouts.

    Raises:
        ValueError: an unknown name or option (with near matches), a value outside its range, or an env whose actions
            the agent cannot take (with the action view that works).
    """
    kind = agent_kind(name)
    if kind == "sb3":
        return make_sb3(name.removeprefix(PREFIX), env, seed=seed, device=device, **options)
    if kind == "rule":
        return make_rule(name, env, seed=seed, **options)
    agent: Agent = AGENTS[name](env, seed=seed, device=device, **options)
    return agent


def load_agent(path: str | Path, env: AnyEnv | None = None, *, device: str = "cpu", **options: Any) -> Agent:
    """Whatever agent a folder holds.

    Args:
        path: a folder written by ``save``.
        env: where it will act or continue to learn; rules need it.
        device: of its networks.
        **options: passed to the ``load`` of agents that learn (``force_reset``, ``reward_transform``).

    Raises:
        ValueError: no saved agent, an agent that is not installed, or spaces that do not fit.
    """
    name: str = storage.read_header(as_path(path))["agent"]
    kind = agent_kind(name)
    if kind == "rule":
        return rule_class(name).load(path, env)
    chosen: Any = SB3Agent if kind == "sb3" else AGENTS[name]
    agent: Agent = chosen.load(path, env, device=device, **options)
    return agent
