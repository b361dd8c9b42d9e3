"""What the numbers of a report allow to be said: the line that it begins with, and what its design can detect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM, Difference, Interval


def show(interval: Interval, signed: bool = False) -> str:
    """``0.812 [0.790, 0.834]``; one unit has no interval, and none is printed."""
    sign = "+" if signed else ""
    mean = f"{interval.mean:{sign}.3f}"
    return mean if math.isinf(interval.low) else f"{mean} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def title_of(measure: str, facts: Mapping[str, Any]) -> str:
    """``calibrated gap closed``, or without the word where students keep their own temperature.

    Args:
        measure: ``loss`` or ``gap_closed``.
        facts: of an evaluation; those of earlier versions say nothing of the gap.
    """
    return f"{'calibrated ' if facts.get('gap') == 'calibrated' else ''}{measure.replace('_', ' ')}"


def best_rule(selection: Mapping[str, float], measure: str) -> str | None:
    """The rule that is best by its mean on the selection split, of all that have the agent's information.

    Args:
        selection: mean of every rule's measure there; rules that trained on feedback rows count.
        measure: ``loss`` (lowest) or ``gap_closed`` (largest).
    """
    sign = 1 if measure == "loss" else -1
    return min(selection, key=lambda name: sign * selection[name]) if selection else None


def headline(
    rule: str | None, to_rules: Mapping[str, Mapping[str, Mapping[str, Difference]]], measure: str, title: str
) -> str:
    """The first line of a report: whether anything learned is above the best rule; empty where nothing can be compared.

    A policy is above a rule where its interval excludes 0 on the better side on every dev split. The rule that is best
    on the selection split need not be the best on dev: a policy counts only where it is above all others, too, each at
    the same level (an intersection-union test, Berger 1982, which needs no correction for their number).

    Args:
        rule: from :func:`best_rule`.
        to_rules: by learned policy, rule and dev split, its difference to that rule.
        measure: ``loss`` or ``gap_closed``.
        title: of the measure.
    """
    if rule is None:
        return ""
    to_best = {name: by_rule[rule] for name, by_rule in to_rules.items() if rule in by_rule}
    if not to_best:
        return ""
    sign = -1 if measure == "loss" else 1
    above = [name for name, by_split in to_best.items() if _above(by_split, sign)]
    chosen = f"{rule!r} ({'lowest' if measure == 'loss' else 'largest'} {title} on the selection split)"
    if not above:
        # Only what was judged can be named: a search, or rules on feedback rows, may not have been.
        start = f"Nothing learned is above the best rule that was judged with the agent's information, {chosen}: "
        return f"{start}{'; '.join(text for name in to_best for text in _sentences(name, to_best[name]))}."
    left = {name: _least(to_rules[name], sign) for name in above}
    best = above_all(rule, to_rules, measure)
    if best:
        others = ", and above every other" if any(len(to_rules[name]) > 1 for name in best) else ""
        start = f"Above the best rule that was judged with the agent's information, {chosen}{others}: "
        return f"{start}{'; '.join(text for name in best for text in _sentences(name, to_best[name]))}."
    short = [
        f"{'; '.join(_sentences(name, to_best[name]))}, but not above {other!r}: "
        f"{'; '.join(_sentences(name, to_rules[name][other]))}"
        for name, other in left.items()
        if other is not None
    ]
    start = f"Nothing learned is above every rule that was judged with the agent's information; above {chosen}: "
    return f"{start}{'; '.join(short)}."


def above_all(
    rule: str | None, to_rules: Mapping[str, Mapping[str, Mapping[str, Difference]]], measure: str
) -> list[str]:
    """The learned policies that are above the best rule and above every other, of which :func:`headline` speaks first.

    Arguments are those of :func:`headline`.
    """
    sign = -1 if measure == "loss" else 1
    compared = {name: by_rule for name, by_rule in to_rules.items() if rule in by_rule}
    return [name for name, by_rule in compared.items() if _least(by_rule, sign) is None]


def _sentences(name: str, by_split: Mapping[str, Difference]) -> list[str]:
    return [
        f"{name}{f' ({split})' if len(by_split) > 1 else ''} {show(difference.interval, True)}, {difference.reading}"
        for split, difference in by_split.items()
    ]


def _least(by_rule: Mapping[str, Mapping[str, Difference]], sign: int) -> str | None:
    """Of the rules that a policy is not above, the one that is furthest ahead on any dev split; None: there is none."""
    ahead = {
        rule: min(sign * difference.interval.mean for difference in by_split.values())
        for rule, by_split in by_rule.items()
        if not _above(by_split, sign)
    }
    return min(ahead, key=lambda rule: ahead[rule]) if ahead else None


def _above(by_split: Mapping[str, Difference], sign: int) -> bool:
    intervals = [difference.interval for difference in by_split.values()]
    return all(
        math.isfinite(interval.low) and not interval.contains_zero and sign * interval.mean > 0
        for interval in intervals
    )


_LEVEL = {
    "open_loop": "level with its mean schedule replayed blindly, as far as this design can see: it is a schedule",
    "constant": "level with the mean weight for every row, as far as this design can see: which rows it prefers is no "
    "part of what it gains",
}
_AHEAD = {
    "open_loop": "it reacts to what it sees, and gains by it",
    "constant": "which rows it prefers is a part of what it gains",
}
_BEHIND = {
    "open_loop": "what it does about what it sees costs it",
    "constant": "which rows it prefers costs it",
}


def reaction_words(of: str, name: str, intervention: str, difference: Difference, measure: str, on: str = "") -> str:
    """What the difference of a policy to an intervention on it says, in one sentence.

    Args:
        of: the policy.
        name: of the intervention in tables.
        intervention: what it is.
        difference: the policy minus the intervention.
        measure: ``loss`` or ``gap_closed``.
        on: the dev split in words, where there are several.
    """
    if math.isinf(difference.interval.low):
        said = difference.reading
    elif difference.tie:
        level = "level: what it does with this component is no part of what it gains, as far as this design can see"
        said = f"{_LEVEL.get(intervention, level)} (detectable {difference.detectable:.3f})"
    else:
        ahead = (difference.interval.mean > 0) != (measure == "loss")
        other = "its own choices are better" if ahead else "the forced component is better"
        said = (_AHEAD if ahead else _BEHIND).get(intervention, other)
        said += "" if difference.claim else f" ({difference.reading})"
    return f"{of} minus {name}{on}: {show(difference.interval, True)}; {said}."


def detectable_words(differences: Sequence[tuple[str, Difference]], title: str) -> str:
    """The minimum detectable difference that stands under a table, by what was compared; empty without comparisons."""
    if not differences:
        return ""
    detectable = [(name, difference) for name, difference in differences if math.isfinite(difference.detectable)]
    if not detectable:
        return f"Minimum detectable difference in {title}: none, since one unit has no spread and no interval is given."
    designs = ", ".join(dict.fromkeys(difference.design for _, difference in detectable))
    if len(detectable) <= 4:
        words = ", ".join(f"{name} {difference.detectable:.3f}" for name, difference in detectable)
    else:
        (low, least), *_, (high, most) = sorted(detectable, key=lambda pair: pair[1].detectable)
        words = f"from {least.detectable:.3f} ({low}) to {most.detectable:.3f} ({high})"
    return f"Minimum detectable difference in {title} (power 0.8, at the spreads observed, {designs}): {words}."


def seeds_words(count: int) -> list[str]:
    """That there are too few evaluation seeds for a claim, where there are."""
    if count >= MIN_SEEDS_FOR_CLAIM:
        return []
    return [f"{count} seed{'' if count == 1 else 's'}: shown, no claim (a claim needs {MIN_SEEDS_FOR_CLAIM})."]
