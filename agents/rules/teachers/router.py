"""A router: which teacher a row learns from is predicted from what the teachers say about it, without its label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, require
from agents.rules.base import Rule
from agents.rules.teachers.base import Floats, TeacherRule
from agents.rules.teachers.logistic import fit_logistic


class Router(TeacherRule):
    """A router over teachers, after Knowledge Purification (Jin et al., ICLR 2026, arXiv 2602.01064).

    There routers choose one teacher for each sample, trained to tell which one is right: a pretrained encoder with a
    classifier on top, or similarities between embeddings. Here a multinomial logistic regression predicts which teacher
    has the least loss on the label of a row (the first of equals) from their answers alone: of each teacher its
    probabilities, its entropy, the largest probability and the share of the others that agree with it. It is fitted on
    the labels of the evaluated feedback rows; labels of train rows are never read, so that wrong ones mislead nobody.
    Each row of train has the same route in every epoch.

    Args:
        env: the environment.
        seed: unused.
        hard: whether the likeliest teacher has weight 1 (as there); else the predicted probabilities are the weights.
        ridge: half of it times the squared weights of the standardised features is added to the sum of the losses;
            above 0. Ours.

    Raises:
        ValueError: an env that weighs batches, of regression or masked text, or of a single teacher.
    """

    name = "router"

    def __init__(self, env: AnyEnv, *, seed: int = 0, hard: bool = True, ridge: float = 1.0) -> None:
        require(isinstance(hard, bool), "hard", hard, "true or false")
        require(0.0 < ridge < float("inf"), "ridge", ridge, "above 0 and finite")
        super().__init__(env, seed=seed, hard=hard, ridge=ridge)
        if not self.by_row:
            raise ValueError(
                "The rule 'router' weighs single rows; make the env with weighting='sample', or use 'best_teacher'."
            )
        self.refuse_one_teacher()
        if self.base.num_labels == 1:
            raise ValueError(
                "The rule 'router' reads probabilities of classes, which regression has not; use 'best_teacher'."
            )
        self._answers: Any = getattr(self.base, "teacher_answers", None)  # kept: made anew at every asking
        if self._answers is None:
            raise ValueError(
                "The rule 'router' needs an env that tells what teachers say about labelled rows (teacher_answers); "
                f"{env} does not (objective='text' has no such labels). Use 'average'."
            )
        self._routes: Floats | None = None

    def routes(self) -> Floats:
        """Weights ``[R, T]`` of all train rows."""
        if self._routes is None:
            answers, count = self._answers, len(self.teacher_names)
            best = losses(answers.feedback, answers.feedback_labels).argmin(axis=0)
            fitted = fit_logistic(described(answers.feedback), best, count, self.options["ridge"])
            predicted = fitted.probabilities(described(answers.train))
            self._routes = np.eye(count)[predicted.argmax(axis=-1)] if self.options["hard"] else predicted
        return self._routes

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """Those of the rows of the next batch, from the state of the environment."""
        rows = self._answers.next_rows()
        self.refuse_other_replicas(len(rows), observations)
        found: Floats = self.routes()[rows]
        return found


def log_probabilities(logits: NDArray[np.float32]) -> Floats:
    """Of the classes, over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def losses(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
    """Cross-entropies ``[T, R]`` of logits ``[T, R, C]`` on labels ``[R]``."""
    found: Floats = -np.take_along_axis(log_probabilities(logits), labels[None, :, None], axis=-1)[..., 0]
    return found


def described(logits: NDArray[np.float32]) -> Floats:
    """What is known of rows without their labels, ``[R, T * (C + 3)]``, from the teachers' logits ``[T, R, C]``."""
    logs = log_probabilities(logits)
    shares = np.exp(logs)
    entropies = -(shares * logs).sum(axis=-1) / np.log(logits.shape[-1])
    classes = logits.argmax(axis=-1)
    agreeing = (classes[:, None] == classes[None]).sum(axis=1) - 1
    numbers = np.stack([entropies, shares.max(axis=-1), agreeing / (len(logits) - 1)], axis=-1)
    found: Floats = np.concatenate([shares, numbers], axis=-1).transpose(1, 0, 2).reshape(logits.shape[1], -1)
    return found


ROUTER_RULES: tuple[type[Rule], ...] = (Router,)
