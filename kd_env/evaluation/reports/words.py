"""Results in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kd_env.evaluation.reports.report import ACTED_MARK, BOUND_WORDS, Report, Row
from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM, MIN_UNITS_FOR_CLAIM, paired_difference
from kd_env.evaluation.statistics.verdicts import reaction_words, seeds_words, show
from kd_env.teachers.verdicts import verdict_words


def plain_words(report: Report) -> str:
    """What the table does and does not show."""
    e, facts = report.evaluation, report.evaluation.facts
    count = len(e.seeds)
    dev = ", ".join(f"{split} ({len(e.labels[split])} rows)" for split in e.dev_splits)
    words = [
        f"Each policy distilled {count} fresh student{'s' if count != 1 else ''} (the same seeds for all), judged on "
        f"the official dev split: {dev}; brackets are 95% intervals over these seeds."
    ]
    if e.joint:
        words = [
            f"Each policy distilled one student from the same start, with the same data, judged on the official dev "
            f"split: {dev}; that of a trained policy learned while the policy did, from its first action on."
        ]
    if any(row.learned for row in report.rows):
        words.append("* marks what was trained.")
    better = "below 0 is better" if report.measure == "loss" else "above 0 is better"
    if e.comparator is not None:
        words.append(
            f"The comparator {e.comparator!r} is the rule with the lowest loss on the selection split; differences "
            f"to it are paired by seed ({better})."
        )
    words += [_verdict(report, row, split) for row in report.rows if row.learned for split in e.dev_splits]
    words += _beside_no_choice(report)
    if any(row.learned for row in report.rows):
        needed = f"{MIN_UNITS_FOR_CLAIM} independent trainings on {MIN_SEEDS_FOR_CLAIM} seeds"
        needed = f"{MIN_SEEDS_FOR_CLAIM} independent trainings, a seed each," if e.joint else needed
        words.append(
            f"This is one training of the agent: it describes this policy and is no claim about the algorithm, for "
            f"which at least {needed} are needed."
        )
    words += [] if e.joint else seeds_words(count)
    one = "; results.json has one over dev examples" if any(row.examples for row in report.rows) else ""
    words.append(f"The intervals do not cover another draw of dev rows{one}.")
    words += facts_in_words(facts, report.measure)
    if any(row.extra_labels for row in report.rows):
        words.append("+ marks rules trained on train and feedback rows: what the clean labels give without an agent.")
    words += [BOUND_WORDS] if any(row.bound for row in report.rows) else []
    words += _interventions(report)
    words += [f"{row.diverged} of {count} students diverged under {row.policy}." for row in report.rows if row.diverged]
    return " ".join(words)


def facts_in_words(facts: Mapping[str, Any], measure: str) -> list[str]:
    """What about the problem has to be known beside any number of it.

    Args:
        facts: of an evaluation.
        measure: ``gap_closed``, or ``loss`` where the floor of the gap was active or the teacher learned.
    """
    words = []
    if "gap_of" in facts:
        words.append(f"Losses and gaps are those of {facts['gap_of']}.")
    if facts.get("gap") == "calibrated":
        words.append(
            "Calibrated losses and gaps are read after one temperature per student, fitted on feedback rows; raw ones "
            "and calibration errors are those of the students as they are."
        )
    if "teacher_updates" in facts:
        words.append(
            "The teacher learned beside each student, so that there is no fixed gap to close; losses are shown."
        )
    elif measure == "loss":
        words.append(
            "The teacher's calibrated loss is hardly below that of a fresh student (the floor of the gap is active), "
            "so losses are shown in place of the gap closed."
        )
    words += [
        f"Teacher {name}: {verdict_words(verdict)}." for name, verdict in facts.get("teacher_verdicts", {}).items()
    ]
    if facts["saw_feedback"] != "no":
        words.append(
            "It is unknown whether the teacher saw rows of the feedback split; rewards, and what agents learned from "
            "them, may be too good."
        )
    shuffled = facts.get("feedback_labels") == "shuffled"
    if facts.get("label_noise") and not shuffled:
        words.append(
            f"{facts['label_noise']:.0%} of the train labels were replaced by wrong ones; feedback, selection and dev "
            "are clean, so agents see a little clean supervision that plain rules do not."
        )
    elif facts.get("label_noise"):
        words.append(f"{facts['label_noise']:.0%} of the train labels were replaced by wrong ones.")
    if shuffled:
        words.append(
            "The labels of the evaluated feedback rows were shuffled, as a control: no reward, observation or "
            "influence sees a truth."
        )
    return words


def _verdict(report: Report, row: Row, split: str) -> str:
    difference = row.difference[split]
    if difference is None:
        return f"{row.policy}: {report.title} on {split} {show(getattr(row, report.measure)[split])}."
    reading = difference.reading
    if math.isfinite(difference.interval.low) and not difference.tie:
        reading = "the interval excludes 0 for this one policy"
    return (
        f"{row.policy} minus the comparator, {report.title} on {split}: {show(difference.interval, True)}; {reading}."
    )


def _interventions(report: Report) -> list[str]:
    """What the learned policy owes to looking, and to the parts of what it does."""
    words, e = [], report.evaluation
    for row in (row for row in report.rows if row.intervention):
        for split in e.dev_splits:
            a, b = (getattr(e.policies[name].splits[split], report.measure) for name in (row.of, row.policy))
            difference, on = paired_difference(a, b), "" if len(e.dev_splits) == 1 else f" on {split}"
            words.append(reaction_words(row.of, row.policy, row.intervention, difference, report.measure, on))
    note = (
        f"{ACTED_MARK} marks interventions on a trained policy: nothing was trained for them, and they are no rivals."
    )
    return [note, *words] if words else []


def _beside_no_choice(report: Report) -> list[str]:
    """Learned policies beside rules that choose nothing or by chance, and what that does and does not show."""
    e = report.evaluation
    rules = [
        row.policy for row in report.rows if not (row.learned or row.extra_labels or e.policies[row.policy].chooses)
    ]
    words = []
    for row in report.rows:
        for split in e.dev_splits if row.learned else ():
            values = {name: getattr(e.policies[name].splits[split], report.measure) for name in (row.policy, *rules)}
            differences = (paired_difference(values[row.policy], values[name]).interval for name in rules)
            parts = [f"{show(one, True)} to {name!r}" for name, one in zip(rules, differences, strict=True)]
            if parts:
                words.append(f"{row.policy}, difference in {report.title} on {split}: {', '.join(parts)}.")
    if words:
        words.append(
            "A policy that is better than rules which choose nothing or by chance has learned something from its "
            "reward; that learned choices help is shown only where it is better than the best rule."
        )
    return words
