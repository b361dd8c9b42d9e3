"""Words for an estimate."""

from __future__ import annotations

from cli.jobs.estimates.estimate import Estimate
from cli.jobs.estimates.study import StudyEstimate


def duration(seconds: float) -> str:
    """Words such as ``40 s``, ``1 min 20 s`` or ``2 h 5 min``."""
    if seconds < 10:
        return f"{max(round(seconds), 1)} s"
    if seconds < 60:
        return f"{5 * round(seconds / 5)} s" if seconds > 30 else f"{round(seconds)} s"
    if seconds < 600:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes} min" if not hours else f"{hours} h {rest} min" if rest else f"{hours} h"


def size(count: int) -> str:
    """Bytes in words such as ``1.2 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{round(count / 1e6)} MB"


def _count(policies: int) -> str:
    return f"{policies} {'policy' if policies == 1 else 'policies'}"


def line(found: Estimate) -> str:
    """One line on a run: ``about 1 min 20 s: training 40 s, evaluation of 10 policies 40 s; 1.2 GB``."""
    parts = [f"training {duration(found.training)}"] if found.counts.rounds else []
    policies = len(found.counts.policies)
    if policies:
        parts.append(f"evaluation of {_count(policies)} {duration(found.evaluation)}")
    return f"about {duration(found.seconds)}: {', '.join(parts)}; {size(found.memory)} of memory"


def table(found: Estimate) -> list[str]:
    """Numbers of a run, a line for the training and one for the evaluation."""
    c = found.counts
    (trained, judged), (readings, judged_readings) = c.updates, c.evaluations
    lines = []
    if c.rounds:
        lines.append(
            f"training    {c.rounds * c.num_envs:,} steps ({c.num_envs} students at a time): {trained:,} student "
            f"updates, {readings:,} evaluations of a student, {duration(found.training)}"
        )
    if c.policies:
        shared = f" in {found.processes} processes" if found.processes > 1 else ""
        lines.append(
            f"evaluation  {_count(len(c.policies))} x {c.seeds} students: {judged:,} student updates, "
            f"{judged_readings:,} evaluations of a student, {duration(found.evaluation)}{shared}"
        )
    return [*lines, f"memory      {size(found.memory)}"]


def kind(name: str, trainings: int, found: Estimate) -> list[str]:
    """Numbers of one training of a study, under its name."""
    return [
        f"{name}, {trainings} training{'s' if trainings > 1 else ''}, each:",
        *(f"  {text}" for text in table(found)),
    ]


def study_line(found: StudyEstimate) -> str:
    """One line on a study: ``about 40 min: 10 trainings, 2 at a time, 8 min each; 2.4 GB of memory``."""
    count = sum(trainings for _, trainings, _ in found.kinds)
    each = sum(trainings * run.seconds for _, trainings, run in found.kinds) / count
    most = "at most about" if found.pauses else "about"
    bound = " (an upper bound: it is less by what pruned agents do not train)" if found.pauses else ""
    return (
        f"{most} {duration(found.seconds)}{bound}: {count} trainings, {found.jobs} at a time, each with its evaluation "
        f"{duration(each)}; {size(found.memory)} of memory"
    )
