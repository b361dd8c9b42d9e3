"""The verdict of a report: who wins, by how much, how sure, and at what cost, in words that are read in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.comparing.hypotheses import verdict as said
from kd_env.evaluation.comparing.sheets import HOLM_LEVEL
from kd_env.evaluation.pages import collect, hypotheses, pooling
from kd_env.evaluation.pages.contents import Problem, Study
from kd_env.evaluation.statistics.intervals import Difference, holm
from kd_env.evaluation.statistics.verdicts import show

AHEAD, LEVEL, BEHIND = "ahead", "level", "behind"


@dataclass(frozen=True)
class Verdict:
    """What one problem, or all together, come to."""

    about: str
    """Name of the problem."""
    outcome: str
    """``ahead`` (something learned is above every rule), ``level`` or ``behind``."""
    short: str
    how_much: str
    how_sure: str
    cost: str
    number: str = ""
    """The difference alone."""
    full: str = ""
    """The headline of the comparison, which says by which rule it was decided."""


def verdict(problem: Problem) -> Verdict:
    """Of one problem."""
    c = problem.comparison
    outcome, short = _short(c)
    leader, difference = _leader(c)
    return Verdict(
        problem.name,
        outcome,
        short,
        _how_much(c, leader, difference),
        _how_sure(c, difference),
        cost_words(problem),
        "" if difference is None else show(difference.interval, True),
        c.headline,
    )


def verdicts(study: Study) -> list[Verdict]:
    """Of all problems together, where there are several that can be pooled, and of each."""
    each = [verdict(problem) for problem in study.problems]
    if study.outcomes:  # what was asked beforehand, and not the best of what was found
        return [_of_hypotheses(study), *each]
    together = pooling.pool(study) if len(study.problems) > 1 else None
    if together is None or not (together.agents and together.best):
        return each
    found = {agent: by_other[pooling.BEST] for agent, by_other in pooling.differences(together).items()}
    leader = max(found, key=lambda agent: together.sign * found[agent].interval.mean)
    adjusted = dict(zip(found, holm([difference.p_value for difference in found.values()]), strict=True))
    sure = adjusted[leader] < HOLM_LEVEL  # it was chosen among all agents by these very numbers
    return [_pooled(leader, found[leader], sure, together.sign, together.title, _total(study)), *each]


def _of_hypotheses(study: Study) -> Verdict:
    """Of a registered study."""
    holds = any(outcome.holds for outcome in study.outcomes)
    unfinished = sum(bool(outcome.missing) for outcome in study.outcomes)
    sure = (
        "Holm's correction over the hypotheses; each holds on its own problems, with equal weights, and on no others."
    )
    if unfinished:
        sure = f"{unfinished} of {len(study.outcomes)} are unfinished: cells of theirs have no results yet."
    outcome = AHEAD if holds else LEVEL
    return Verdict("hypotheses", outcome, said(study.outcomes), hypotheses.words(study.outcomes), sure, _total(study))


def _total(study: Study) -> str:
    """Updates and time of all trainings of a study."""
    found = [cost for problem in study.problems for cost in collect.costs(problem) if cost.trainings]
    updates, seconds = (sum(getattr(c, key) * c.trainings for c in found) for key in ("updates", "seconds"))
    time = f" and {seconds_words(seconds)}" if math.isfinite(seconds) else ""
    return f"All {sum(cost.trainings for cost in found)} trainings took {updates:,.0f} student updates{time}."


def _pooled(about: str, difference: Difference, sure: bool, sign: int, measure: str, cost: str) -> Verdict:
    """Of several problems together: an agent minus the best rule of each; ``sure``: by Holm too, over all agents."""
    ahead = sign * difference.interval.mean > 0
    if math.isinf(difference.interval.low) or difference.tie or not sure:
        outcome, short = LEVEL, f"Over all problems {about} is level with the best rules."
    elif ahead:
        outcome = AHEAD
        short = f"Over all problems {about} is ahead of the best rules{'' if difference.claim else ', but no claim'}."
    else:
        outcome, short = BEHIND, f"Over all problems the best rules are ahead of {about}."
    much = f"{about} minus {pooling.BEST}, {measure}: {show(difference.interval, True)}."
    return Verdict("pooled", outcome, short, much, f"{_capital(difference.reading)}.", cost)


def cost_words(problem: Problem) -> str:
    """What trainings and students cost, and who paid for it."""
    found = collect.costs(problem)
    words = []
    for cost in found:
        if not cost.learned or not cost.trainings:
            continue
        time = f" and {seconds_words(cost.seconds)}" if cost.seconds > 0 else ""
        trained = f"{cost.policy}: {cost.trainings} training{'' if cost.trainings == 1 else 's, each'}"
        beside = "beside the student that is judged" if problem.comparison.joint else ""
        words.append(f"{trained} {beside or f'{cost.updates:,.0f} student updates'}{time}")
    return "; ".join([*words, f"one student takes {found[0].distillation:,} updates under any policy"]) + "."


def seconds_words(seconds: float) -> str:
    """``12 s``, ``3.5 min`` or ``2.1 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _short(c: Comparison) -> tuple[str, str]:
    """The outcome, and a sentence of it."""
    to_best = {name: by_rule[c.best_rule] for name, by_rule in c.against_rules.items() if c.best_rule in by_rule}
    if not to_best:
        if not any(entry.learned for entry in c.entries):
            return LEVEL, "Rules alone: no agent was trained here."
        return LEVEL, "No rule was judged beside the agents: nothing says whether learning helps."
    sign = -1 if c.measure == "loss" else 1
    winners = c.winners
    if winners:
        claimed = [name for name in winners if all(one.claim for one in _all(c.against_rules[name]))]
        if claimed:
            return AHEAD, f"{_and(claimed)} {'beats' if len(claimed) == 1 else 'beat'} every rule."
        verb = "is" if len(winners) == 1 else "are"
        return AHEAD, f"{_and(winners)} {verb} ahead of every rule, on too few trainings or seeds for a claim."
    every = _all(to_best)
    if all(math.isinf(d.interval.low) for d in every):
        return LEVEL, "One student says nothing about the spread: no interval, and no winner."
    if any(not d.tie and sign * d.interval.mean > 0 for d in every):
        return LEVEL, "Something learned is above the rule chosen beforehand, but not above every rule."
    if any(d.tie for d in every):
        return LEVEL, "Nothing learned beats the best rule: a tie."
    return BEHIND, "Nothing learned beats the best rule: the rule is ahead."


def _leader(c: Comparison) -> tuple[str, Difference | None]:
    """The agent that is furthest ahead of the best rule on the first dev split, and its difference."""
    sign = -1 if c.measure == "loss" else 1
    by_rule = c.against_rules
    known = {name: by[c.best_rule][c.dev_splits[0]] for name, by in by_rule.items() if c.best_rule in by}
    if not known:
        return "", None
    name = max(c.winners or known, key=lambda one: sign * known[one].interval.mean)
    return name, known[name]


def _how_much(c: Comparison, leader: str, difference: Difference | None) -> str:
    split, sign = c.dev_splits[0], 1 if c.measure == "loss" else -1
    where = f"{c.title} on {split}"
    if difference is None:
        best = min(c.entries, key=lambda entry: sign * collect.score(entry, c, split).mean)
        return f"The best is {best.policy}, {where} {show(collect.score(best, c, split))}."
    values = [show(collect.score(c.entry(name), c, split)) for name in (leader, str(c.best_rule))]
    return (
        f"{leader} minus {c.best_rule}: {show(difference.interval, True)} in {where} "
        f"({leader} {values[0]}, {c.best_rule} {values[1]}; {'less' if c.measure == 'loss' else 'more'} is better)."
    )


def _how_sure(c: Comparison, difference: Difference | None) -> str:
    if difference is None:
        return "Nothing is compared."
    detects = math.isfinite(difference.detectable) and not difference.tie
    found = f"; a difference of {difference.detectable:.3f} would have been found" if detects else ""
    return f"{_capital(difference.reading)}{found}."


def _all(by_name: Mapping[str, Mapping[str, Difference]]) -> list[Difference]:
    return [difference for by_split in by_name.values() for difference in by_split.values()]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(reading: str) -> str:
    return reading[:1].upper() + reading[1:]
