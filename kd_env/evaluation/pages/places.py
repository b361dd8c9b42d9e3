"""Where the numbers of a report come from, and what the names of its figures and tables begin with."""

from __future__ import annotations

from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.pages import pooling
from kd_env.evaluation.pages.contents import Problem, Study


def each(study: Study) -> list[tuple[str, Problem]]:
    """Every problem, and what the names of its figures and tables begin with: nothing where there is one."""
    if len(study.problems) == 1:
        return [("", study.problems[0])]
    return [(f"p{place}-", problem) for place, problem in enumerate(study.problems, 1)]


def places_of(c: Comparison, *policies: str) -> tuple[str, ...]:
    """Run folders of policies; those of an intervention are its agent's, which is named beside it."""
    known = {entry.policy: entry.runs for entry in c.entries}
    return tuple(dict.fromkeys(place for policy in policies for place in known.get(policy, ())))


def all_places(study: Study, *policies: str) -> tuple[str, ...]:
    """Run folders of policies in all problems; of the best rule of each, too."""
    found: list[str] = []
    for problem in study.problems:
        names = [str(problem.comparison.best_rule) if name == pooling.BEST else name for name in policies]
        found += places_of(problem.comparison, *names)
    return tuple(dict.fromkeys(found))
