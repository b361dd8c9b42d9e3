"""The evaluation that every policy goes through: fresh students, the same seeds, the official dev split at the end.

Only this package reads dev rows. A policy is anything with ``predict``; the caller says whether it learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd_env.data.loading import load_dev
from kd_env.evaluation.judging.contenders import Contender, Keep, Progress
from kd_env.evaluation.judging.dev import check_lengths, split_metrics
from kd_env.evaluation.judging.episodes import drive, judged_splits
from kd_env.evaluation.judging.results import SELECTION, Evaluation, PolicyResult
from kd_env.mdp.problem import Problem


def evaluate_policies(
    problem: Problem,
    policies: Mapping[str, Contender],
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Evaluation:
    """Distil fresh students under each policy and judge them on the selection split and every official dev split.

    Args:
        problem: the problem; its dev rows are loaded here and nowhere else.
        policies: contenders by name.
        seeds: seeds of the students, the same for every policy. They become the replicas of one vector environment;
            students with dropout are distilled one after the other.
        deterministic: passed to ``predict``.
        progress: told about every step.
        keep: told about every student that is finished.

    Raises:
        ValueError: no policy, no seed or a repeated one, a contender that solves another task, or dev rows that are
            longer than the encoders' positions.
    """
    if not policies:
        raise ValueError("There is no policy to evaluate; name at least one rule or agent.")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"Evaluation seeds must be at least one and all different, got {list(seeds)}.")
    for name, contender in policies.items():
        if contender.problem is not None and contender.problem.task != problem.task:
            raise ValueError(f"The policy {name!r} solves {contender.problem.task.name!r}, not {problem.task.name!r}.")
    dev = load_dev(problem.task, problem.config.data_dir)
    tables = {SELECTION: problem.selection, **{split: problem.tokenize(rows) for split, rows in dev.items()}}
    teacher_tables = {split: problem.tokenize(rows, for_teacher=True) for split, rows in dev.items()}
    check_lengths("student", problem.student, tables)
    check_lengths("teacher", problem.reference.encoder, teacher_tables)
    teacher_logits = {split: problem.teacher_logits(table) for split, table in teacher_tables.items()}
    teacher_logits[SELECTION] = problem.reference.selection_logits
    splits = judged_splits(problem, tables, teacher_logits, seeds)
    results = {}
    for name, contender in policies.items():
        results[name] = drive(name, contender, problem, splits, seeds, deterministic, progress, keep)
    return Evaluation(
        facts=_facts(problem),
        seeds=tuple(seeds),
        term_names=problem.entry_names,
        metric_names=problem.task.metrics,
        dev_splits=tuple(dev),
        regression=problem.task.regression,
        policies=results,
        comparator=choose_comparator(results.values()),
        teacher={}
        if problem.config.teacher_learns
        else {
            split: {**split_metrics(problem, teacher_logits[split], table), "loss": splits[split].teacher_loss}
            for split, table in tables.items()
        },
        labels={split: table.labels for split, table in tables.items()},
        classes=problem.task.labels,
    )


def merge_evaluations(evaluations: Sequence[Evaluation], order: Sequence[str]) -> Evaluation:
    """Evaluations of other policies of one problem on the same seeds as one, with the policies in ``order``.

    Raises:
        ValueError: parts of different problems or seeds.
    """
    first = evaluations[0]
    for evaluation in evaluations[1:]:
        if (evaluation.facts, evaluation.seeds) != (first.facts, first.seeds):
            raise ValueError("Only evaluations of one problem on the same seeds can be merged.")
    results = {name: result for evaluation in evaluations for name, result in evaluation.policies.items()}
    policies = {name: results[name] for name in order}
    return replace(first, policies=policies, comparator=choose_comparator(policies.values()))


def choose_comparator(results: Iterable[PolicyResult]) -> str | None:
    """The rule with the lowest mean loss on the selection split (equivalently the largest gap closed, on equal seeds).

    Rules that trained on more labels do not count.
    """
    rules = [r for r in results if not r.learned and not r.extra_labels]
    return min(rules, key=lambda r: float(r.splits[SELECTION].loss.mean())).name if rules else None


def _facts(problem: Problem) -> dict[str, Any]:
    config = problem.config
    control = {} if config.feedback_labels == "gold" else {"feedback_labels": config.feedback_labels}
    gap = "labels" if config.gap == "calibrated" and not problem.calibrates else config.gap
    return {**problem.summary(), "gap": gap, "label_noise": config.label_noise, **control}
