"""Rules that weigh rows: uniform, random, self-paced, focal, Dynamic KD's choice, labels that the teacher agrees with.

They read ``batch_size`` (B), ``num_labels``, ``observation_layout``, ``decision.encode`` and ``decision.effect`` of
``env.unwrapped``. The uniform weights are an action of every view; the other rules give the effect itself, so that they
do the same in every view. A weight multiplies all losses of its row. Rules that choose rows give the chosen ones the
weight ``B / kept``, so that the loss is their mean.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, require
from agents.rules.base import Rule

Floats = NDArray[np.float64]

STUDENT, MARGIN, CONFIDENCE, PROGRESS = "row_student", "row_margin", "row_confidence", "progress"
TEACHER = "row_teacher_losses"
LOSS, ENTROPY, GOLD = 0, 1, 2
"""Places in what ``row_student`` says of a row: log(1 + loss), entropy, probability of the label."""


class SampleRule(Rule):
    """Base of rules that weigh rows; arguments as in :class:`agents.rules.base.Rule`."""

    decision = "sample_weighting"
    views = ("native", "subset", "discrete", "box")
    needs_classes: ClassVar[bool] = False
    """Whether the rule reads what regression has not."""

    def __init__(self, env: AnyEnv, *, seed: int = 0, **options: Any) -> None:
        super().__init__(env, seed=seed, **options)
        if self.needs_classes and self.base.num_labels == 1:
            raise ValueError(
                f"The rule {self.name!r} reads what is said of classes, which regression has not; use 'uniform' or "
                "'self_paced'."
            )

    @abstractmethod
    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """Weights ``[N, B]`` for observations ``[N, O]``; at least 0."""

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """The effect with the weights."""
        return self.base.decision.effect(self.weights(observations)), None

    def about(self, observations: NDArray[np.float32], name: str, entry: int = 0) -> Floats:
        """One number of a feature of the rows, ``[N, B]``."""
        place = self.base.observation_layout[name]
        values = observations[:, place.start : place.stop].reshape(len(observations), *place.shape)
        return values[..., entry].astype(np.float64)

    def keep(self, values: Floats, shares: float | Floats) -> Floats:
        """Weights ``[N, B]`` that keep a share of the rows, those of the lowest values; the earlier of equals first.

        Args:
            values: ``[N, B]``.
            shares: of the rows, one or ``[N, 1]``; at least one row is kept.
        """
        count = values.shape[-1]
        kept = np.clip(np.rint(np.asarray(shares) * count), 1, count)
        ranks = values.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
        found: Floats = np.where(ranks < kept, count / kept, 0.0)
        return found


class Uniform(SampleRule):
    """Weight 1 for every row, the plain run: what every other weighting has to beat."""

    name = "uniform"
    chooses = False
    looks_at_feedback = False

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """Ones."""
        return np.ones((len(observations), self.base.batch_size))

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """The action that says so, which every view has."""
        return np.stack([np.asarray(self.base.decision.encode(one)) for one in self.weights(observations)]), None


class RandomWeights(SampleRule):
    """Weights drawn uniformly from [0, 2], anew for every row and step: random actions of the native view."""

    name = "random_weights"
    chooses = False
    looks_at_feedback = False

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """A draw a replica, each from its own generator."""
        return np.stack([self.generator(i).uniform(0.0, 2.0, self.base.batch_size) for i in range(len(observations))])


class SelfPaced(SampleRule):
    """Self-paced learning (Kumar et al., NeurIPS 2010): rows whose loss is below a rising threshold.

    Hard weights 0 and 1 (here ``B / kept``). The paper's threshold is a loss that grows by a factor, and has to be
    tuned to the scale of the losses; here it is a quantile of the student's losses on the labels of the batch, which
    rises linearly with progress, so that there are rows from the first step on.

    Args:
        env: the environment.
        seed: unused.
        start: share of the rows that are kept at the beginning, in (0, 1].
        end: share from ``full_at`` on, at least ``start``.
        full_at: progress at which ``end`` is reached, in (0, 1].
    """

    name = "self_paced"
    looks_at_feedback = False
    needs_features = (STUDENT, PROGRESS)

    def __init__(
        self, env: AnyEnv, *, seed: int = 0, start: float = 0.5, end: float = 1.0, full_at: float = 0.5
    ) -> None:
        require(0.0 < start <= 1.0, "start", start, "in (0, 1]")
        require(start <= end <= 1.0, "end", end, f"from start={start} to 1")
        require(0.0 < full_at <= 1.0, "full_at", full_at, "in (0, 1]")
        super().__init__(env, seed=seed, start=start, end=end, full_at=full_at)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """The rows of low loss, by each replica's own progress."""
        place, o = self.base.observation_layout[PROGRESS], self.options
        progress = (self.feature(observations, PROGRESS) - place.low) / (place.high - place.low)
        shares = o["start"] + (o["end"] - o["start"]) * np.clip(progress / o["full_at"], 0.0, 1.0)
        return self.keep(self.about(observations, STUDENT, LOSS), shares[:, None])


class Focal(SampleRule):
    """Focal loss (Lin et al., ICCV 2017) as weights: ``(1 - p)^gamma``, with p the student's probability of the label.

    Here the weights of a batch are scaled to a mean of 1, which the paper does not do, and no gradient flows through
    them. Where labels are wrong, it is the wrong rows that it prefers.

    Args:
        env: the environment.
        seed: unused.
        gamma: at least 0; 0 is uniform.
    """

    name = "focal"
    looks_at_feedback = False
    needs_features = (STUDENT,)
    needs_classes = True

    def __init__(self, env: AnyEnv, *, seed: int = 0, gamma: float = 2.0) -> None:
        require(0.0 <= gamma < float("inf"), "gamma", gamma, "at least 0 and finite")
        super().__init__(env, seed=seed, gamma=gamma)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the student's probability of each label; all 0, no update, where it is sure of every one."""
        return mean_one(np.clip(1.0 - self.about(observations, STUDENT, GOLD), 0.0, 1.0) ** self.options["gamma"])


class DynamicSelection(SampleRule):
    """Base of Dynamic KD's choice of examples (Li et al., EMNLP 2021, data selection): the most uncertain ones.

    The student's uncertainty about the rows of a batch ranks them, and a share of them is trained on. The source of our
    notes does not state the share, and one half is our choice; nor does it say which terms: here it is all of them.

    Args:
        env: the environment.
        seed: unused.
        share: of the rows that are kept, in (0, 1]; at least one row is.
    """

    looks_at_feedback = False

    def __init__(self, env: AnyEnv, *, seed: int = 0, share: float = 0.5) -> None:
        require(0.0 < share <= 1.0, "share", share, "in (0, 1]")
        super().__init__(env, seed=seed, share=share)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """The rows of which the student is least sure."""
        return self.keep(self.sureness(observations), self.options["share"])

    @abstractmethod
    def sureness(self, observations: NDArray[np.float32]) -> Floats:
        """How sure the student is of each row, ``[N, B]``, in any units."""


class DynamicEntropy(DynamicSelection):
    """Dynamic KD by entropy (Li et al., EMNLP 2021): the rows on which the student's entropy is highest."""

    name = "dynamic_entropy"
    needs_features = (STUDENT,)
    needs_classes = True

    def sureness(self, observations: NDArray[np.float32]) -> Floats:
        """Minus the entropy."""
        return -self.about(observations, STUDENT, ENTROPY)


class DynamicMargin(DynamicSelection):
    """Dynamic KD by margin (Li et al., EMNLP 2021): rows on which its two largest probabilities are closest."""

    name = "dynamic_margin"
    needs_features = (MARGIN,)

    def sureness(self, observations: NDArray[np.float32]) -> Floats:
        """The margin."""
        return self.about(observations, MARGIN)


class DynamicConfidence(DynamicSelection):
    """Dynamic KD by confidence (Li et al., EMNLP 2021): rows on which its largest probability is smallest."""

    name = "dynamic_confidence"
    needs_features = (CONFIDENCE,)

    def sureness(self, observations: NDArray[np.float32]) -> Floats:
        """The largest probability."""
        return self.about(observations, CONFIDENCE)


class Agree(SampleRule):
    """Rows whose given label the teacher agrees with: its cross-entropy on that label is below a threshold.

    Written by hand, for labels of which some are wrong; no published method. Several teachers agree by the mean of
    their losses. Where no row of a batch is below the threshold, all of them count equally.

    Args:
        env: the environment.
        seed: unused.
        threshold: in nats, above 0; None: the log of the number of classes, the loss of a teacher that says nothing.
            Of two classes that is the loss at a probability of one half, whatever the teacher's temperature.
    """

    name = "agree"
    looks_at_feedback = False
    needs_features = (TEACHER,)
    needs_classes = True

    def __init__(self, env: AnyEnv, *, seed: int = 0, threshold: float | None = None) -> None:
        fits = threshold is None or 0.0 < threshold < float("inf")
        require(fits, "threshold", threshold, "above 0 and finite, or null")
        super().__init__(env, seed=seed, threshold=threshold)
        if self.base.teacher_updates != "none":
            raise ValueError(
                f"The rule {self.name!r} asks a teacher that stays as it is, but here it learns (teacher_updates="
                f"{self.base.teacher_updates!r}); set env.teacher_updates=none, or leave {self.name!r} out."
            )

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the teachers' losses on the labels of the batch."""
        place, given = self.base.observation_layout[TEACHER], self.options["threshold"]
        losses = [np.expm1(self.about(observations, TEACHER, entry)) for entry in range(place.shape[-1])]
        kept = np.mean(losses, axis=0) < (np.log(self.base.num_labels) if given is None else given)
        return mean_one(np.where(kept.any(axis=-1, keepdims=True), kept, True).astype(np.float64))


class Oracle(SampleRule):
    """Rows whose given label is the true one, known only where kd-env put wrong ones in: a bound, and nobody's rival.

    It says how much dropping the wrong rows can gain at best. A batch without a right row makes no update.
    """

    name = "oracle"
    looks_at_feedback = False
    bound = True

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)
        self._right_rows = getattr(self.base, "right_rows", None)
        if self._right_rows is None:
            raise ValueError(
                f"The rule {self.name!r} knows which train labels are wrong, and none was made wrong here "
                f"(label_noise=0); set label_noise (task.label_noise in the main job), or leave {self.name!r} out."
            )

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the state of the environment; the observations say nothing of the truth."""
        assert self._right_rows is not None
        return mean_one(np.asarray(self._right_rows(), dtype=np.float64))


def mean_one(weights: Floats) -> Floats:
    """Weights ``[N, B]`` scaled to a mean of 1 in each batch; all-zero stays zero."""
    mean = weights.mean(axis=-1, keepdims=True)
    scaled: Floats = np.divide(weights, mean, out=np.zeros_like(weights), where=mean > 0)
    return scaled


SAMPLE_RULES: tuple[type[Rule], ...] = (
    Uniform,
    RandomWeights,
    SelfPaced,
    Focal,
    DynamicEntropy,
    DynamicMargin,
    DynamicConfidence,
    Agree,
    Oracle,
)
