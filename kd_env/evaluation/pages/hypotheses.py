"""The parts of a report that only a registered study has: its hypotheses, and the transfer of what was learned."""

from __future__ import annotations

from kd_env.evaluation.comparing.hypotheses import Outcome
from kd_env.evaluation.comparing.transfer import matrices
from kd_env.evaluation.pages.contents import Section, Study
from kd_env.evaluation.pages.tables import Cell, Table


def registered(study: Study) -> list[Section]:
    """Both sections, each where there is something in it."""
    found = []
    if study.outcomes:
        lead = (
            "What was asked before the first number, and what became of it. A hypothesis holds where the difference "
            "over its problems, of equal weights, is above 0 by its 95% interval, and by Holm's p over all hypotheses."
        )
        found.append(Section("hypotheses", "Hypotheses", lead, (), (), (_table(study),)))
    if study.transfer:
        lead = (
            "A policy that was learned on the problem of a row, on the problem of a column, minus the rule that is "
            "best there on the selection split. On the diagonal it acts where it was learned."
        )
        found.append(Section("transfer", "Transfer", lead, (), (), tuple(_matrices(study))))
    return found


def _table(study: Study) -> Table:
    rows, places = list[tuple[Cell, ...]](), list[tuple[str, ...]]()
    for outcome in study.outcomes:
        one = outcome.hypothesis
        over = f"all {len(outcome.parts)}, equal weights"
        pooled: Cell = "no results" if outcome.pooled is None else outcome.pooled.interval
        rows.append((f"{one.name}: {one.says}", over, pooled, outcome.verdict, one.agent, one.above))
        places.append(())
        for part in outcome.parts:
            difference = part.difference
            rows.append((one.name, part.problem, difference.interval, difference.reading, one.agent, part.above))
            places.append(_places(study, part.problem, one.agent, part.above))
        rows += [(one.name, problem, "no results", "", one.agent, one.above) for problem in outcome.missing]
        places += [()] * len(outcome.missing)
    header = ("hypothesis", "problem", "difference in gap closed", "reading", "agent", "minus")
    return Table("hypotheses", "Hypotheses", header, tuple(rows), tuple(places), signed=True)


def _places(study: Study, problem: str, *policies: str) -> tuple[str, ...]:
    """Run folders of some policies on one problem."""
    found = next(one for one in study.problems if one.name == problem)
    every = (found.comparison.entry(policy).runs for policy in policies)
    return tuple(dict.fromkeys(place for places in every for place in places))


def _matrices(study: Study) -> list[Table]:
    return [
        Table(
            f"transfer_{index}",
            title,
            tuple(header),
            tuple(tuple(row) for row in rows),
            tuple(() for _ in rows),
            signed=True,
            note="Run folders are those of the policies of each problem, above.",
        )
        for index, (title, header, rows) in enumerate(matrices(study.transfer))
    ]


def words(outcomes: tuple[Outcome, ...]) -> str:
    """How much each hypothesis came to, for the verdict."""
    said = []
    for outcome in outcomes:
        if outcome.pooled is None:
            said.append(f"{outcome.hypothesis.name}: no results")
            continue
        interval = outcome.pooled.interval
        numbers = f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
        said.append(f"{outcome.hypothesis.name} {numbers}, {outcome.verdict}")
    return f"{'; '.join(said)}."
