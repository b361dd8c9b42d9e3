"""What labelled rows say about a teacher: whether it is better than a constant, and its outputs in the right order."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from kd_env.core import metrics
from kd_env.core.metrics.scores import pearson
from kd_env.data.tasks import Task
from kd_env.numerics import losses
from kd_env.numerics.calibration import fit_temperature

CHECKS = ("refuse", "warn", "none")
"""What is done about a teacher that is of no use (``teacher_check``)."""
_MOST_TRIED = 6
"""Classes up to which every order is tried; of more, each class is given the output that it mostly gets."""
_FITS = 0.7
"""Correlation above which scores that are worse than a constant are taken to be on another scale: a line through them
leaves half of its loss."""
_WORTH = 0.95
"""Part of a constant's loss that a teacher's may have at most: the gap counts from 5% of it, too."""


class Verdict(NamedTuple):
    """A teacher on the selection rows, beside the best constant there."""

    rows: int
    metric: str  # the task's first one
    value: float
    constant: float  # the metric of the best constant
    best_class: int  # that constant; -1 in regression
    loss: float  # after the teacher's temperature; of scores as they are
    constant_loss: float  # of the labels' own shares; of scores: of the mean of the train labels
    order: tuple[int, ...]  # outputs in an order that fits clearly better, by class; () where there is none
    order_value: float  # the metric in that order
    scale: tuple[float, float] | None  # factor and shift with which scores on another scale would fit

    @property
    def useless(self) -> bool:
        """Whether a constant is as good, or other outputs were meant."""
        if not self.constant_loss:  # rows of one class or score: as good as the constant is as good as can be
            return self.value < self.constant
        worse = not self.value > self.constant
        if self.best_class < 0:
            return worse or not self.loss < self.constant_loss
        return bool(self.order) or (worse and not self.loss < _WORTH * self.constant_loss)

    @property
    def words(self) -> str:
        """In a few words, for those who see the teacher used."""
        return verdict_words(self.facts())

    def facts(self) -> dict[str, Any]:
        """For results."""
        losses_too = {"loss": self.loss, "constant_loss": self.constant_loss} if self.best_class < 0 else {}
        return {
            "metric": self.metric,
            "value": self.value,
            "constant": self.constant,
            "rows": self.rows,
            **losses_too,
        }


def verdict_words(facts: Mapping[str, Any]) -> str:
    """What :meth:`Verdict.facts` say, in a few words."""
    text = f"{facts['metric']} {facts['value']:.3f} on {facts['rows']} selection rows"
    if "constant_loss" in facts:
        return f"{text}, loss {facts['loss']:.4f} (of a constant: {facts['constant_loss']:.4f})"
    return f"{text} (of the best constant: {facts['constant']:.3f})"


def judge(logits: np.ndarray, labels: np.ndarray, task: Task, train_labels: np.ndarray) -> Verdict:
    """The verdict on a teacher's logits ``[R, C]`` for rows with ``labels`` ``[R]``.

    Args:
        logits: uncalibrated, on rows that it was not trained on as far as is known; never on dev rows.
        labels: gold labels of these rows.
        task: gives the metric.
        train_labels: of the train rows, whose mean is the constant of a task of scores.
    """
    if task.regression:
        return _judge_scores(logits[:, 0].astype(np.float64), labels, task, float(np.mean(train_labels)))
    guesses, classes = losses.predictions(logits, False), np.arange(task.num_labels)
    value = _metric(task, guesses, labels)
    constants = [_metric(task, np.full_like(guesses, one), labels) for one in classes]
    shares = np.bincount(labels, minlength=task.num_labels) / len(labels)
    entropy = float(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum())
    order = _better_order(guesses, labels, task.num_labels)
    order_value = _metric(task, np.argsort(order)[guesses], labels) if order else value
    if order_value <= max(constants):  # outputs that are nearly constant, and would be the right constant
        order, order_value = (), value
    # The loss of rows of one class falls without end: there is no temperature then.
    temperature = fit_temperature(logits, labels, "selection") if (shares > 0).sum() > 1 else 1.0
    return Verdict(
        rows=len(labels),
        metric=task.metrics[0],
        value=value,
        constant=max(constants),
        best_class=int(np.argmax(constants)),
        loss=float(losses.gold_loss(logits / temperature, labels, None)),
        constant_loss=entropy,
        order=order,
        order_value=order_value,
        scale=None,
    )


class Source(NamedTuple):
    """Where a teacher comes from, for messages."""

    name: str
    folder: str
    order: tuple[int, ...]  # for each label of the task the output of the folder's model; () where they are alike
    named: bool  # whether the folder names its outputs
    has_config: bool = True  # whether its names stand in a config.json; else it is no model, and answers to rows


def pass_judgement(verdict: Verdict, action: str, source: Source, task: Task) -> None:
    """Refuse a teacher that is of no use, or warn of it.

    Args:
        verdict: from :func:`judge`.
        action: one of :data:`CHECKS`.
        source: of the teacher.
        task: gives the labels.

    Raises:
        ValueError: it is of no use, with what would be better.
    """
    if action == "none" or not verdict.useless:
        return
    of_what = _scores_in_words(verdict, task) if task.regression else _classes_in_words(verdict, source, task)
    words = f"The teacher {source.name!r} ({source.folder}) {of_what}"
    if action == "refuse":
        raise ValueError(f"{words} To use it all the same set teacher_check=warn (teacher.check=warn in the main job).")
    warnings.warn(words, UserWarning, stacklevel=2)


def _scores_in_words(v: Verdict, task: Task) -> str:
    text = (
        f"is no better than a constant: on {v.rows} selection rows its {v.metric} is {v.value:.3f} and its loss "
        f"{v.loss:.4f}, and the mean of the train labels for every row has a loss of {v.constant_loss:.4f}."
    )
    if v.scale is None:
        return f"{text} {_fine_tune(task)}"
    factor, shift = v.scale
    return (
        f"{text} Its scores are on another scale: {factor:.4g} * score {'+' if shift >= 0 else '-'} {abs(shift):.4g} "
        f"would fit. Give labels on its scale, or a teacher on theirs. {_fine_tune(task)}"
    )


def _classes_in_words(v: Verdict, source: Source, task: Task) -> str:
    best = f"the constant {task.labels[v.best_class]!r} has {v.constant:.3f}"
    text = f"has {v.metric} {v.value:.3f} on {v.rows} selection rows, where {best}."
    if not v.order:
        return f"{text} {_fine_tune(task)}"
    outputs = [source.order[place] if source.order else place for place in v.order]  # of the folder's model, by class
    fitting = [task.labels[outputs.index(place)] for place in range(len(outputs))]
    if not source.has_config:
        return f"{text} With its columns read as {', '.join(fitting)} it would have {v.order_value:.3f}: name them so."
    listed = json.dumps({str(place): label for place, label in enumerate(fitting)}, ensure_ascii=False)
    whose = "they have other names there" if source.named else "they have no names of their own"
    labels = (
        f"task.columns.labels=[{','.join(map(_as_written, fitting))}], or "
        if task.name == "custom" and not source.named
        else ""
    )
    return (
        f"{text} With its outputs read as {', '.join(fitting)} it would have {v.order_value:.3f} ({whose}): set "
        f"{labels}id2label={listed} in its config.json."
    )


def _as_written(label: str) -> str:
    """A label as the command line takes it in a list."""
    return label if re.fullmatch(r"\w[\w .-]*", label) else json.dumps(label, ensure_ascii=False)


def _fine_tune(task: Task) -> str:
    return f"Fine-tune one for this task: `kd-env teacher task={task.name} teacher.name_or_path=...`."


def _judge_scores(scores: np.ndarray, labels: np.ndarray, task: Task, mean: float) -> Verdict:
    assert task.label_range is not None
    width = float(task.label_range[1] - task.label_range[0])
    value = _metric(task, scores, labels)
    loss, constant = (float((((guess - labels) / width) ** 2).mean()) for guess in (scores, np.full(len(labels), mean)))
    scale = None
    if not loss < constant and pearson(scores, labels) > _FITS:
        factor, shift = (float(number) for number in np.polyfit(scores, labels.astype(np.float64), 1))
        scale = (factor, shift)
    return Verdict(
        rows=len(labels),
        metric=task.metrics[0],
        value=value,
        constant=0.0,
        best_class=-1,
        loss=loss,
        constant_loss=constant,
        order=(),
        order_value=value,
        scale=scale,
    )


def _metric(task: Task, guesses: np.ndarray, labels: np.ndarray) -> float:
    return metrics.compute(task.metrics[:1], guesses, labels)[task.metrics[0]]


def _better_order(guesses: np.ndarray, labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """The output that stands for each class, where another order than the given one is clearly better."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels.astype(np.int64), guesses), 1)
    given = np.arange(classes)
    if classes <= _MOST_TRIED:
        order = np.array(max(permutations(range(classes)), key=lambda one: int(counts[given, one].sum())))
    else:
        order = counts.argmax(axis=1)
        if len(set(order.tolist())) < classes:
            return ()
    gained = counts[given, order].sum() - counts.trace()
    moved = given[order != given]
    changed = int(counts[moved, order[moved]].sum() + counts[moved, moved].sum())
    # Rows that are right in one of the two orders alone: three standard deviations, were both equally good.
    return tuple(order.tolist()) if gained > 3.0 * np.sqrt(changed) else ()
