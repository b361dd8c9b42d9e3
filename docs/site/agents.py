"""Agents as pages: the algorithm as its file says it, options with defaults, presets, and where it acts."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from agents.catalog import AGENTS
from agents.sb3 import agent as sb3_agent
from agents.sb3.algorithms import ALGORITHMS, defaults
from docs.house import ROOT
from docs.site.docstrings import body, markdown, prose, roles, summary, table
from docs.site.options import options_of

PRESETS = ROOT / "configs" / "agent"
WORDS = {"teacher_selector": "env=teacher_weighting ", "tutor": "env=tutor_token "}
"""What the main job has to be told beside the agent, where it does not act in the default environment."""


def agents() -> str:
    """All agents that learn, each with a page of its own."""
    rows = [(f"[`{name}`](agents/{name}.md)", summary(_file(name).__doc__)) for name in AGENTS]
    rows += [("[`sb3/...`](agents/sb3.md)", summary(sb3_agent.__doc__))]
    return table(("agent", "what it is"), rows)


def agent_page(name: str) -> str:
    """The page of one of our own agents."""
    kind, text = AGENTS[name], _file(name).__doc__
    preset = f"rule/{name}" if (PRESETS / "rule" / f"{name}.yaml").is_file() else name
    parts = [f"# {name}", summary(text), body(text), "## Use"]
    parts += ["```sh\n" + f"python train_agent.py {WORDS.get(name, '')}agent={preset}" + "\n```"]
    parts += [f'In Python `make_agent("{name}", env, seed=0)`; [where it acts](../agents.md#agents-and-environments).']
    parts += _presets(name)
    parts += ["## Options", "As `agent.options.<name>` on the command line, as keywords in Python."]
    parts += [options_of(kind.config_class), "## As a class", prose(kind.__doc__)]
    return "\n\n".join(parts) + "\n"


def sb3_page() -> str:
    """The page of the algorithms of Stable-Baselines3 and sb3-contrib."""
    rows = []
    for name, entry in ALGORITHMS.items():
        actions = ", ".join(f"`{action}`" for action in entry.actions)
        ours = ", ".join(f"`{key}={value}`" for key, value in defaults(name, 16, 40, {}).items())
        rows.append((f"`sb3/{name}`", f"{entry.package}: {entry.class_name}", actions, ours))
    parts = ["# Stable-Baselines3", markdown(sb3_agent.__doc__ or "")]
    parts += ["```sh\npython train_agent.py agent=sb3/ppo agent.options.learning_rate=0.001\n```"]
    parts += [
        "The defaults shown are those for 16 replicas and episodes of 40 steps; all others are the algorithm's own."
    ]
    parts += [table(("agent", "algorithm", "action spaces", "defaults of ours"), rows)]
    parts += ["What an algorithm cannot do is refused before any work, with the view or option that works:"]
    parts += ["[where each acts](../agents.md#agents-and-environments). In programs of your own `as_sb3(env)` makes an"]
    parts += ["SB3 `VecEnv` of a batch of students: [libraries](../libraries.md)."]
    return "\n\n".join(parts[:-2]) + " ".join(["", *parts[-2:]]) + "\n"


def _file(name: str) -> Any:
    return sys.modules[inspect.getmodule(AGENTS[name]).__name__]  # type: ignore[union-attr]


def _presets(name: str) -> list[str]:
    """Presets of the main job that are this agent, with what their first line says."""
    rows = []
    for path in sorted(PRESETS.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if path.stem != name and re.search(rf"^ *name: {name}$", text, re.MULTILINE):
            comments = re.match(r"(?:# @package.*\n)?((?:#.*\n)+)", text)
            said = " ".join((comments[1] if comments else "").replace("#", "").split())
            rows.append((f"`agent={path.stem}`", roles(said)))
    return [table(("preset", "what it is"), rows)] if rows else []
