"""What is known of a student that ships, from its run, its problem and its files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cli.jobs.contenders import EXTRA
from cli.jobs.exports.options import ExportOptions
from cli.jobs.exports.write import Shipped
from cli.jobs.students import has_feedback
from cli.runs import folder as runs
from cli.settings.kinds.base import PolicySpec, Settings
from kd_env.config.environment import EnvConfig
from kd_env.core.metrics import bounds_of, compute, per_class
from kd_env.data.files.places import find_tables
from kd_env.data.tables import Table
from kd_env.evaluation.comparing.runs import PolicyRows, seed_values
from kd_env.evaluation.shipping.choice import Standings
from kd_env.evaluation.shipping.facts import ClassScores, Facts, SplitFacts, TaskFacts, Teaching
from kd_env.evaluation.shipping.models import parameters
from kd_env.evaluation.statistics.verdicts import show
from kd_env.mdp.problem import Problem
from kd_env.models.pooling import PooledClassifier
from kd_env.numerics.calibration import expected_calibration_error
from kd_env.numerics.losses import predictions

_LEVEL = 0.95
_PACKAGES = ("kd-env", "torch", "transformers")


class Sources(NamedTuple):
    """Where the student comes from."""

    settings: Settings[EnvConfig]
    problem: Problem
    standing: Standings
    hashes: Mapping[str, str]
    """Of the rows, by split."""


def gather(sources: Sources, shipped: Shipped, options: ExportOptions) -> Facts:
    """Everything that the card says.

    Raises:
        ValueError: results that lack the value of a seed.
    """
    problem, standing, judged = sources.problem, sources.standing, shipped.judged
    chosen, classes = standing.chosen, not problem.task.regression
    rows = standing.rows[chosen.policy]
    run, row = rows.runs[chosen.part], rows.rows[chosen.part]
    return Facts(
        name=options.push_to_hub or options.out.name,
        licence=options.licence,
        task=_task(sources),
        teaching=_teaching(sources, shipped.module),
        splits={split: _split(sources, rows, split, table, shipped) for split, table in judged.tables.items()},
        metric=standing.metric,
        judged=chosen.value,
        others={name: one.value for name, one in standing.best.items() if name != chosen.policy},
        means=standing.means,
        best_rule=standing.best_rule,
        not_better=standing.not_better,
        temperature=float(seed_values(run, row, ("temperature",))[chosen.place]) if problem.calibrates else None,
        calibration_error={
            split: expected_calibration_error(shipped.logits[split], table.labels)
            for split, table in (judged.tables.items() if classes else ())
        },
        costs=shipped.costs,
        repeats=options.repeats,
        machine=_machine(),
        parity=shipped.parity,
        opset=options.opset,
        plain=not isinstance(shipped.module, PooledClassifier),
        versions={name: str(version) for name, version in runs.versions().items() if name in _PACKAGES},
    )


def _split(sources: Sources, rows: PolicyRows, split: str, table: Table, shipped: Shipped) -> SplitFacts:
    task, logits = sources.problem.task, shipped.logits[split]
    guesses, teacher = predictions(logits, task.regression), shipped.judged.teacher_logits[split]
    metrics = task.metrics
    return SplitFacts(
        rows=len(table),
        own=compute(metrics, guesses, table.labels),
        policy={
            name: show(rows.interval(_LEVEL, "splits", split, "metrics", name, bounds=bounds_of(name)))
            for name in metrics
        },
        teacher={}
        if sources.problem.config.teacher_learns
        else compute(metrics, predictions(teacher, task.regression), table.labels),
        classes={} if task.regression else _classes(guesses, table.labels, task.labels),
    )


def _classes(guesses: Any, labels: Any, names: tuple[str, ...]) -> dict[str, ClassScores]:
    scores = per_class(guesses, labels, len(names))
    return {
        name: ClassScores(
            int((labels == place).sum()), *(float(scores[kind][place]) for kind in ("precision", "recall", "f1"))
        )
        for place, name in enumerate(names)
    }


def _task(sources: Sources) -> TaskFacts:
    task, config = sources.problem.task, sources.problem.config
    splits = ("train", *task.dev_splits) if config.data_dir is not None else ()
    tables = {split: find_tables(str(config.data_dir), task.name, split) for split in splits}
    return TaskFacts(
        name=task.name,
        pair=len(task.text_columns) > 1,
        labels=task.labels,
        label_range=task.label_range,
        max_length=config.max_length,
        files={split: ", ".join(f"`{path.name}`" for path in paths) for split, paths in tables.items() if paths},
        hashes=sources.hashes,
        noise=config.label_noise,
    )


def _teaching(sources: Sources, module: Any) -> Teaching:
    problem, chosen, settings = sources.problem, sources.standing.chosen, sources.settings
    rows, config, facts = sources.standing.rows[chosen.policy], problem.config, problem.student.facts
    spec = _spec(settings, chosen.label)
    extra = bool(rows.rows[chosen.part].get("extra_labels"))
    kind = type(module.base_model if isinstance(module, PooledClassifier) else module).__name__
    layers = f"{facts.num_layers} layer{'s' if facts.num_layers > 1 else ''}"
    return Teaching(
        policy=chosen.policy,
        learned=rows.learned,
        options=", ".join(f"{key}={value}" for key, value in spec.options.items()),
        steered=has_feedback(spec.name),
        seed=chosen.seed,
        trainings=len(rows.runs),
        seeds=len(rows.runs[0].results["seeds"]),
        # Folders would say where they lay.
        teachers=tuple(Path(teacher.folder).name for teacher in problem.teachers),
        budget=config.budget,
        batch_size=config.batch_size,
        terms=problem.term_names,
        trained_on="train and feedback" if extra else config.train_on,
        student=f"{kind}, {layers}, width {facts.hidden_size}, {parameters(module):,} parameters",
    )


def _spec(settings: Settings[EnvConfig], label: str) -> PolicySpec:
    """The policy of a name in tables."""
    found = [settings.agent, *(settings.rules or ())]
    return next(spec for spec in found if spec.label == label.removesuffix(EXTRA))


def _machine() -> str:
    """The processor, as far as the system names it."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"Processor: {name or platform.processor() or platform.machine()}"
