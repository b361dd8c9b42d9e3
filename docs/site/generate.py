"""Pages and parts of pages that are made from the code: ``<!-- facts: name words -->`` on a line of its own is filled.

No network, no file is written: :func:`pages` gives pages that stand nowhere else, :func:`filled` what a page shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from agents.catalog import AGENTS
from docs.site import agents, environments, experiments, notebooks, registries
from docs.site.options import named, options_of
from kd_env.knowledge import TERMS

DOCS = Path(__file__).resolve().parents[1]
_PLACE = re.compile(r"^<!-- facts: ([\w.]+)((?: [\w.]+)*) -->$", re.MULTILINE)

FACTS: dict[str, Callable[..., str]] = {
    "agents": agents.agents,
    "compared": experiments.compared,
    "environment_differing": environments.differing,
    "environment_docstring": environments.described,
    "environment_ids": environments.identities,
    "environment_info": environments.information,
    "environment_observation": environments.observed,
    "environment_views": environments.views,
    "environments": environments.catalogue,
    "experiments": experiments.experiments,
    "features": registries.features,
    "metrics": registries.metrics,
    "options": lambda path: options_of(named(path)),
    "rewards": registries.rewards,
    "rules": registries.rules,
    "scores": registries.scores,
    "tasks": registries.tasks,
    "terms": registries.terms,
    "tutor_recipes": environments.recipes,
    "tutor_short_forms": environments.short_forms,
}
"""What a page may ask for; further words of its line are arguments."""


def filled(text: str) -> str:
    """A page with its facts.

    Raises:
        ValueError: facts of a name that there is not, with those that there are.
    """

    def made(place: re.Match[str]) -> str:
        if place[1] not in FACTS:
            raise ValueError(f"<!-- facts: {place[1]} -->: there are facts of {', '.join(FACTS)}.")
        return FACTS[place[1]](*place[2].split())

    return _PLACE.sub(made, text)


def pages() -> dict[str, str]:
    """Pages that are no files, by their path on the site: of agents, knowledge terms and tutorials."""
    found = {f"agents/{name}.md": agents.agent_page(name) for name in AGENTS}
    found["agents/sb3.md"] = agents.sb3_page()
    found |= {f"terms/{name}.md": registries.term_page(name) for name in TERMS}
    for path in sorted((DOCS / "tutorials").glob("*.ipynb")):
        found[f"tutorials/{path.stem}.md"] = notebooks.as_page(path)
    return found
