"""What to ship and why, in one line."""

from __future__ import annotations

from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.shipping.facts import STUDENT, TEACHER, Facts


def verdict(facts: Facts) -> str:
    """Which student to ship, why, and whether what learned was worth it."""
    teaching = facts.teaching
    parts = [
        f"Ship the student of {teaching.policy}, seed {teaching.seed}: best on the selection split "
        f"({facts.metric} {facts.judged:.3f}{_beside(facts)})",
        costs(facts),
        *(below(facts, split) for split in facts.splits if split != SELECTION),
    ]
    return f"{'; '.join(part for part in parts if part)}. {learned_words(facts)}".strip()


def learned_words(facts: Facts) -> str:
    """Which learned policies are not above the best rule on the selection split; may be empty."""
    if not facts.not_better:
        return ""
    means = ", ".join(f"{facts.means[name]:.3f}" for name in facts.not_better)
    several = len(facts.not_better) > 1
    return (
        f"{' and '.join(facts.not_better)}, which learned, {'are' if several else 'is'} not better than the best rule: "
        f"mean {facts.metric} there {means}, {facts.best_rule} {facts.means[str(facts.best_rule)]:.3f}."
    )


def costs(facts: Facts) -> str:
    """How much smaller and faster than the teacher."""
    student, teacher = facts.costs[STUDENT], facts.costs[TEACHER]
    smaller, faster = teacher.megabytes / student.megabytes, teacher.milliseconds[1] / student.milliseconds[1]
    size, speed = _times(smaller, "smaller", "as small"), _times(faster, "faster", "as fast")
    return f"{size} and, at batch 1, {speed} {'than' if faster >= 1 else 'as'} the teacher"


def below(facts: Facts, split: str) -> str:
    """How far it is from the teacher on a split, in the task's first metric; empty where the teacher has no value."""
    one = facts.splits[split]
    name = next(iter(one.own))
    if name not in one.teacher:
        return ""
    points = 100.0 * (one.teacher[name] - one.own[name])
    where = f"on {split} {name} {one.own[name]:.3f}"
    if abs(points) < 0.05:
        return f"{where}, level with it"
    return f"{where}, {abs(points):.1f} points {'below' if points > 0 else 'above'} it"


def _times(ratio: float, more: str, otherwise: str) -> str:
    number = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
    return f"{number} times {more}" if ratio >= 1 else f"{ratio:.2f} times {otherwise}"


def _beside(facts: Facts) -> str:
    """The best of the other kind: of learned policies beside a rule, of rules beside a learned policy."""
    if not facts.others:
        return ""
    name = max(facts.others, key=lambda each: facts.others[each])
    return f"; the best of {name} {facts.others[name]:.3f}"
