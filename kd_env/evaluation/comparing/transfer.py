"""The transfer matrix of a study: policies that were learned on one problem, on the others.

Each cell is a policy minus the rule that is best on the selection split of the problem on which it acts, in gap closed
on its first dev split, trainings and seeds crossed. The diagonal are the policies where they were learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.comparing.hypotheses import values_of
from kd_env.evaluation.comparing.runs import Run, group_name
from kd_env.evaluation.statistics.crossed import policy_difference
from kd_env.evaluation.statistics.intervals import Difference
from kd_env.evaluation.statistics.verdicts import show

UNCHANGED, CONTINUED = "unchanged", "continued"


@dataclass(frozen=True)
class Transfer:
    """A policy of one problem on another."""

    agent: str
    """What it was called where it was learned."""
    source: str
    """The problem where that was."""
    target: str
    """The problem on which it acts."""
    label: str
    """What it is called there."""
    continued: bool
    """Whether it was trained on there."""


@dataclass(frozen=True)
class TransferCell:
    """One entry of a matrix."""

    transfer: Transfer
    above: str
    """The rule that it is set against."""
    difference: Difference


def transfer_cells(
    transfers: Sequence[Transfer], runs: Mapping[str, Sequence[Run]], comparisons: Mapping[str, Comparison]
) -> list[TransferCell]:
    """Every transfer that has results beside a rule, and every agent where it was learned.

    Args:
        transfers: of the study.
        runs: finished ones, by problem.
        comparisons: of these runs, by problem.
    """
    problems = dict.fromkeys(name for one in transfers for name in (one.source, one.target))
    agents = dict.fromkeys(one.agent for one in transfers)
    learned = [Transfer(agent, name, name, agent, False) for agent in agents for name in problems]
    found = []
    for one in (*learned, *transfers):
        judged, comparison = runs.get(one.target, ()), comparisons.get(one.target)
        if comparison is None or comparison.best_rule is None or all(group_name(run) != one.label for run in judged):
            continue
        split = comparison.dev_splits[0]
        values = [values_of(judged, policy, split) for policy in (one.label, comparison.best_rule)]
        found.append(TransferCell(one, comparison.best_rule, policy_difference(values[0], values[1])))
    return found


def matrices(cells: Sequence[TransferCell]) -> list[tuple[str, list[str], list[list[str]]]]:
    """A matrix for each agent and kind of transfer: title, header, and rows with a source each, in words."""
    found = []
    for agent in dict.fromkeys(cell.transfer.agent for cell in cells):
        own = [cell for cell in cells if cell.transfer.agent == agent]
        targets = list(dict.fromkeys(cell.transfer.target for cell in own))
        for kind in (UNCHANGED, CONTINUED):
            kept = {
                (cell.transfer.source, cell.transfer.target): show(cell.difference.interval, True)
                for cell in own
                if cell.transfer.continued == (kind == CONTINUED) or cell.transfer.source == cell.transfer.target
            }
            if all(source == target for source, target in kept):
                continue
            sources = list(dict.fromkeys(source for source, _ in kept))
            rows = [[source, *(kept.get((source, target), "-") for target in targets)] for source in sources]
            found.append((f"{agent}, {kind}: minus the best rule of each problem", ["learned on", *targets], rows))
    return found
