"""Scores of single classes: what an accuracy or a mean over classes says nothing of."""

from __future__ import annotations

import numpy as np

from kd_env.core.metrics import per_class
from kd_env.evaluation.judging.results import Evaluation, PolicyResult


def class_scores(evaluation: Evaluation, result: PolicyResult) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By split, class and ``precision``, ``recall``, ``f1`` the number of every seed; nothing in regression.

    Splits whose predictions are not kept are left out.
    """
    names = evaluation.classes
    found = {}
    for split, scores in result.splits.items():
        if not names or scores.predictions is None or split not in evaluation.labels:
            continue
        labels = evaluation.labels[split]
        seeds = [per_class(predictions, labels, len(names)) for predictions in scores.predictions]
        found[split] = {
            name: {score: [float(seed[score][index]) for seed in seeds] for score in ("precision", "recall", "f1")}
            for index, name in enumerate(names)
        }
    return found


def class_table(evaluation: Evaluation) -> str:
    """Recall, precision and F1 of every class on dev rows by policy, means over seeds, as Markdown; may be empty."""
    tables = []
    for split in evaluation.dev_splits:
        lines = []
        for policy, result in evaluation.policies.items():
            scores = class_scores(evaluation, result).get(split)
            if scores is not None:
                means = [
                    " / ".join(f"{np.mean(score[key]):.3f}" for key in ("recall", "precision", "f1"))
                    for score in scores.values()
                ]
                lines.append(f"| {' | '.join([policy, *means])} |")
        if lines:
            rows = [int((evaluation.labels[split] == index).sum()) for index in range(len(evaluation.classes))]
            header = [f"{name} ({count})" for name, count in zip(evaluation.classes, rows, strict=True)]
            tables.append(
                f"Recall / precision / F1 of each class (its rows) on {split}, means over seeds:\n\n"
                f"| {' | '.join(['policy', *header])} |\n{'| --- ' * (len(header) + 1)}|\n" + "\n".join(lines)
            )
    return "\n\n".join(tables)
