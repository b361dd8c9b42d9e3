"""What tutors did to their students, as the evaluation that reports are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.evaluation.judging.protocol import choose_comparator
from kd_env.evaluation.judging.results import SELECTION, Evaluation, Measured, PolicyResult, SplitScores
from kd_env.evaluation.judging.tutor_dev import Judged, dev_split
from kd_env.evaluation.judging.tutoring import TutorResult, TutorScores

_SHARE = (0.0, 1.0)
MEASURES: dict[str, tuple[str, tuple[float, float]]] = {
    "reward": ("reward", (-1.0, 2.0)),
    "teacher_recognises": ("R_T", (-1.0, 1.0)),
    "student_error": ("R_S", _SHARE),
    "student_error_first": ("R_S, first tenth", _SHARE),
    "student_error_last": ("R_S, last tenth", _SHARE),
    "plausibility": ("plausibility", _SHARE),
    "teacher_probability": ("p_T(a)", _SHARE),
}
"""Columns of reports, by field of :class:`TutorResult`: title and bounds."""
_GAPS = {
    True: "L_pp on texts in which samples of the teacher stand",
    False: "the cross-entropy with gold labels, after one temperature per student, fitted on feedback rows",
}
_TRACES = {"teacher_recognises": "R_T (the teacher recognises)", "student_error": "R_S (the student errs)"}


def as_evaluation(
    problem: TutorProblem,
    judged: Judged,
    results: Mapping[str, TutorResult],
    seeds: Sequence[int],
    learned: Collection[str],
    views: Mapping[str, str],
    joint: bool,
    without_choice: Collection[str] = (),
) -> Evaluation:
    """The evaluation of tutors on the same students.

    Args:
        problem: of training.
        judged: the rows that the students were judged on.
        results: by name, of the students of ``seeds``.
        seeds: of the students.
        learned: names of those that were trained; others are rules.
        views: action view of each.
        joint: whether the students of the trained ones are those beside which they learned.
        without_choice: names of rules that treat everything alike or go by chance.
    """
    dev = dev_split(problem)
    policies = {
        name: _policy(name, result, {SELECTION: result.selection, dev: _dev(result)}, name in learned, views[name])
        for name, result in results.items()
    }
    policies |= {name: replace(policies[name], chooses=False) for name in without_choice if name in policies}
    metric_names = tuple(next(iter(results.values())).metrics)
    labels = {SELECTION: judged.selection, dev: judged.dev}
    return Evaluation(
        facts=_facts(problem),
        seeds=tuple(seeds),
        term_names=(),
        metric_names=metric_names,
        dev_splits=(dev,),
        regression=False,
        policies=policies,
        comparator=choose_comparator(policies.values()),
        teacher={split: {"loss": one.loss_floor} for split, one in labels.items()},
        labels={split: np.arange(len(one.feedback)) for split, one in labels.items()},
        joint=joint,
    )


def _dev(result: TutorResult) -> TutorScores:
    return TutorScores(result.dev_loss, result.dev_gap_closed, result.dev_floored, result.metrics)


def _policy(
    name: str, result: TutorResult, splits: Mapping[str, TutorScores], learned: bool, view: str
) -> PolicyResult:
    count = len(result.reward)
    return PolicyResult(
        name=name,
        learned=learned,
        extra_labels=False,
        action_view=view,
        splits={
            split: SplitScores(
                metrics=scores.metrics,
                loss=scores.loss,
                gap_closed=scores.gap_closed,
                floored=scores.floored,
                raw_loss=None,
                raw_gap_closed=None,
                calibration_error=None,
                predictions=None,
            )
            for split, scores in splits.items()
        },
        temperature=np.ones(count),
        returns=result.reward,
        diverged=result.diverged,
        weights=np.ones((1, count, 0)),
        update_scale=np.ones((1, count)),
        measures=tuple(
            Measured(field, title, bounds, getattr(result, field)) for field, (title, bounds) in MEASURES.items()
        ),
        traces={title: result.over_time[field] for field, title in _TRACES.items()},
    )


def _facts(problem: TutorProblem) -> dict[str, Any]:
    config, assets = problem.config, problem.assets
    text = config.text if isinstance(config.text, str) else "+".join(config.text)
    return {
        "task": f"text {text}" if config.task is None else f"labels of {config.task}",
        "slots": problem.slots,
        "left_out": assets.left_out,
        "fingerprint": assets.fingerprint,
        **({} if assets.verdict is None else {"teacher_verdicts": {config.task: assets.verdict.facts()}}),
        "saw_feedback": assets.saw_feedback,
        "gap_of": _GAPS[config.task is None],
        "label_noise": 0.0,
    }
