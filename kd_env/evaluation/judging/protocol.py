"""The evaluation that every policy goes through: fresh students, the same seeds, the official dev split at the end.

Only this package reads dev rows. A policy is anything with ``predict``; the caller says whether it learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd_env.decisions.base import Decision
from kd_env.evaluation.judging.contenders import Contender, Keep, Progress
from kd_env.evaluation.judging.dev import split_metrics
from kd_env.evaluation.judging.episodes import drive, judged_splits
from kd_env.evaluation.judging.keeping.running import Running
from kd_env.evaluation.judging.results import SELECTION, Evaluation, PolicyResult
from kd_env.evaluation.judging.stacks import Stack, stacks
from kd_env.evaluation.judging.tables import JudgedTables, judged_tables
from kd_env.mdp.problem import Problem


def evaluate_policies(
    problem: Problem,
    policies: Mapping[str, Contender],
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    progress: Progress | None = None,
    keep: Keep | None = None,
    judged: JudgedTables | None = None,
    finished: Mapping[str, PolicyResult] | None = None,
    on_result: Callable[[PolicyResult], None] | None = None,
    running: Callable[[str], Running] | None = None,
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
        judged: the rows that students are judged on, where they are there already.
        finished: results of policies that are judged already, on the same seeds.
        on_result: told about every other result as it is there.
        running: what keeps the episode of a policy by name, where it is judged alone.

    Raises:
        ValueError: no policy, no seed or a repeated one, a contender that solves another task or whose students would
            learn otherwise, or dev rows that are longer than the encoders' positions.
    """
    if not policies:
        raise ValueError("There is no policy to evaluate; name at least one rule or agent.")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"Evaluation seeds must be at least one and all different, got {list(seeds)}.")
    for name, contender in policies.items():
        if contender.problem is not None and contender.problem.task != problem.task:
            raise ValueError(f"The policy {name!r} solves {contender.problem.task.name!r}, not {problem.task.name!r}.")
        if contender.problem is not None and not contender.extra_labels:
            check_comparable(name, contender.problem, problem)
    judged = judged or judged_tables(problem)
    splits = judged_splits(problem, judged, seeds)
    results = dict(finished or {})
    # Stacks of all policies, whatever is finished: one that goes on is as it would have been.
    for stack in stacks(problem, policies, len(seeds)):
        left = {name: contender for name, contender in stack.contenders.items() if name not in results}
        if not left:
            continue
        alone = running(next(iter(left))) if running is not None and len(left) == 1 else None
        for result in drive(Stack(stack.problem, left), problem, splits, seeds, deterministic, progress, keep, alone):
            results[result.name] = result
            if on_result is not None:
                on_result(result)
    return as_evaluation(problem, judged, {name: results[name] for name in policies}, seeds)


def as_evaluation(
    problem: Problem,
    judged: JudgedTables,
    results: Mapping[str, PolicyResult],
    seeds: Sequence[int],
    *,
    joint: bool = False,
) -> Evaluation:
    """The evaluation that results of policies on the same seeds are.

    Args:
        problem: of the comparison.
        judged: the rows that students were judged on.
        results: by name.
        seeds: of the students.
        joint: whether the one student of each learned policy is that beside which it learned.
    """
    text, decision = problem.config.objective == "text", problem.decision
    assert isinstance(decision, Decision)
    return Evaluation(
        facts=_facts(problem),
        seeds=tuple(seeds),
        term_names=problem.entry_names if decision.sets_weights else (),
        metric_names=problem.task.metrics,
        dev_splits=judged.dev_splits,
        regression=problem.task.regression,
        policies=dict(results),
        comparator=choose_comparator(results.values()),
        teacher={}
        if problem.config.teacher_learns
        else {
            split: {
                **({} if text else split_metrics(problem, judged.teacher_logits[split], table)),
                "loss": problem.reference_loss(judged.teacher_logits[split], table),
            }
            for split, table in judged.tables.items()
        },
        labels={split: table.labels for split, table in judged.tables.items()},
        joint=joint,
        classes=problem.task.labels,
    )


SEEN_AND_DECIDED = (
    *(
        "decision",
        "action_view",
        "weighting",
        "gate",
        "features",
        "observation",
        "mode",
        "teacher_every",
        "num_candidates",
    ),
    *(
        "reward",
        "evaluate_every",
        "evaluation_sample",
        "sample_paired",
        "sample_steps",
        "score",
        "render_mode",
        "show_progress",
    ),
)
"""Options in which policies that are compared may differ: they change what is decided and seen, but no update."""


def check_comparable(name: str, own: Problem, problem: Problem) -> None:
    """Refuse a contender's problem whose students would not be the same ones, or learn otherwise; ``ValueError``."""
    if own.assets.train is not problem.assets.train or own.assets.student is not problem.assets.student:
        raise ValueError(f"The problem of {name!r} has other text or models; make it with with_options(problem, ...).")
    theirs = problem.config.to_dict()
    for key, value in own.config.to_dict().items():
        if key not in SEEN_AND_DECIDED and value != theirs[key]:
            raise ValueError(
                f"{name!r} would teach its students with {key}={value!r} and the others with {theirs[key]!r}, which "
                f"compares more than policies; they may differ in {', '.join(SEEN_AND_DECIDED)}."
            )


def merge_evaluations(
    evaluations: Sequence[Evaluation], order: Sequence[str], finished: Mapping[str, PolicyResult] | None = None
) -> Evaluation:
    """Evaluations of other policies of one problem on the same seeds as one, with the policies in ``order``.

    Those that were ``finished`` before are taken in.

    Raises:
        ValueError: parts of different problems or seeds.
    """
    first = evaluations[0]
    for evaluation in evaluations[1:]:
        if (evaluation.facts, evaluation.seeds) != (first.facts, first.seeds):
            raise ValueError("Only evaluations of one problem on the same seeds can be merged.")
    results = {name: result for evaluation in evaluations for name, result in evaluation.policies.items()}
    results |= finished or {}
    policies = {name: results[name] for name in order}
    return replace(first, policies=policies, comparator=choose_comparator(policies.values()))


def choose_comparator(results: Iterable[PolicyResult]) -> str | None:
    """The rule with the lowest mean loss on the selection split.

    It need not close the most of the gap on average, since each student's gap is a ratio with a divisor of its own.
    Rules that trained on more labels do not count, and bounds do not.
    """
    rules = [r for r in results if r.rule and not r.extra_labels]
    return min(rules, key=lambda r: float(r.splits[SELECTION].loss.mean())).name if rules else None


def _facts(problem: Problem) -> dict[str, Any]:
    config = problem.config
    control = {} if config.feedback_labels == "gold" else {"feedback_labels": config.feedback_labels}
    gap = "labels" if config.gap == "calibrated" and not problem.calibrates else config.gap
    if config.objective == "text":
        control = {"gap_of": "L_pp on texts in which samples of the teacher stand"}
    return {**problem.summary(), "gap": gap, "label_noise": config.label_noise, **control}
