"""Agents for any environment with flat observations: those that learn, Stable-Baselines3's, and fixed rules.

``make_agent("actor_critic", env, seed=0)``, ``make_agent("sb3/ppo", env, seed=0)``, ``make_agent("all", env, seed=0)``.
Other distributions add agents with entry points in the groups ``kd_env.agents`` and ``kd_env.rules``.
"""

from agents.catalog import AGENTS, agent_kind, agent_names, load_agent, make_agent
from agents.common.base import Agent, LearnCallback, Metrics, RewardTransform, Spaces, episode_steps
from agents.rules.base import Rule
from agents.rules.catalog import RULES, make_rule
from agents.sb3.public import as_sb3

__all__ = [
    "AGENTS",
    "RULES",
    "Agent",
    "LearnCallback",
    "Metrics",
    "RewardTransform",
    "Rule",
    "Spaces",
    "agent_kind",
    "agent_names",
    "as_sb3",
    "episode_steps",
    "load_agent",
    "make_agent",
    "make_rule",
]
