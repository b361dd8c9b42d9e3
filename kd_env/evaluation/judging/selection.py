"""One policy on the selection split, while its training is not at its end."""

from __future__ import annotations

from collections.abc import Sequence

from kd_env.evaluation.judging.contenders import Contender, Progress
from kd_env.evaluation.judging.episodes import drive, judged_splits
from kd_env.evaluation.judging.results import PolicyResult
from kd_env.evaluation.judging.tables import selection_table
from kd_env.mdp.problem import Problem


def judge_on_selection(
    problem: Problem,
    name: str,
    contender: Contender,
    seeds: Sequence[int],
    *,
    deterministic: bool,
    progress: Progress | None = None,
) -> PolicyResult:
    """Distil fresh students under a policy and judge them on the selection split; no dev row is read.

    Args:
        problem: of the training.
        name: of the policy.
        contender: the policy.
        seeds: of the students; others than those of any report.
        deterministic: passed to ``predict``.
        progress: told about every step.
    """
    splits = judged_splits(problem, selection_table(problem), seeds)
    return drive(name, contender, problem, splits, seeds, deterministic, progress, None)
