"""Rules that weigh teachers by their losses on the labels of rows: MT-BERT, Tiny-NewsRec and CA-MKD.

They read ``teacher_losses`` or ``row_teacher_losses``, ``log(1 + loss)`` of each teacher, and are exact as long as that
feature is not clipped. With ``weighting=batch``, ours, the mean of ``log(1 + loss)`` over the batch enters as one row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, require
from agents.rules.base import Rule
from agents.rules.teachers.base import LOSSES, Floats, TeacherRule


class LossRule(TeacherRule):
    """Base of rules that read the loss of each teacher; arguments as in :class:`agents.rules.base.Rule`."""

    looks_at_feedback = False
    needs_features = (LOSSES,)

    def losses(self, observations: NDArray[np.float32]) -> Floats:
        """Losses ``[N, T]`` or, by row, ``[N, B, T]``: cross-entropies in nats, of scores squared errors."""
        found: Floats = np.expm1(self.about(observations, LOSSES))  # the feature is log(1 + CE)
        return found


class MTBert(LossRule):
    """MT-BERT (Wu et al., Findings of ACL 2021): a teacher that is wrong on an example counts for less.

    ``w = 1 / (1 + CE)`` with the cross-entropy of the teacher on the gold label. The paper weighs single examples
    (``weighting=sample``) and does not normalise: the weights of three good teachers sum to almost 3. With
    ``weighting=batch``, ours, it is the mean of ``log(1 + CE)`` over the batch that enters. The weights are exact as
    long as the feature is not clipped; the paper's loss besides has ``kind=cross_entropy`` and ``term_scale=none``.

    Args:
        env: the environment.
        seed: unused.
        normalize: whether the weights of an example are divided by their sum (not in the paper).
    """

    name = "mt_bert"

    def __init__(self, env: AnyEnv, *, seed: int = 0, normalize: bool = False) -> None:
        super().__init__(env, seed=seed, normalize=normalize)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the teachers' losses on the next batch."""
        found: Floats = np.exp(-self.about(observations, LOSSES))  # the feature is log(1 + CE)
        if self.options["normalize"]:
            found /= found.sum(axis=-1, keepdims=True)
        return found


class SoftmaxWeights(LossRule):
    """Tiny-NewsRec's weights (Yu et al., EMNLP 2022): ``softmax(-CE / temperature)`` over the teachers.

    CE is the cross-entropy of a teacher on the label of the row; the temperature is ours, and 1 is none. How two
    teachers compare hangs on the difference of their losses alone. With ``weighting=batch``, ours, it is the mean of
    ``log(1 + CE)`` over the batch that enters.

    Args:
        env: the environment.
        seed: unused.
        temperature: at least 0.001 and finite; large ones come near the plain average.
    """

    name = "softmax"

    def __init__(self, env: AnyEnv, *, seed: int = 0, temperature: float = 1.0) -> None:
        # Below, losses over the temperature would not be finite.
        require(1e-3 <= temperature < float("inf"), "temperature", temperature, "at least 0.001 and finite")
        super().__init__(env, seed=seed, temperature=temperature)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the teachers' losses on the next batch; they sum to 1."""
        return softmax(-self.losses(observations) / self.options["temperature"])


class ConfidenceAware(LossRule):
    """CA-MKD's weights (Zhang et al., ICASSP 2022): ``(1 - softmax(CE)) / (T - 1)`` over T teachers.

    They sum to 1, and none is above ``1 / (T - 1)``. So they choose whom to leave out rather than whom to follow: where
    one teacher's loss is far above the others', it has weight 0 and all others share alike, however much they differ;
    ``softmax`` gives the best one nearly everything there. Of two teachers both are the same: ``softmax(-CE)`` at
    temperature 1.

    The released code computes these weights, too, and takes them for the loss of intermediate features as well; the
    paper's ``w_inter`` for those comes from the teachers' features through the student's classifier, which is not built
    here: the weights hold for the terms that ``weighs`` names.

    Args:
        env: the environment.
        seed: unused.

    Raises:
        ValueError: an env of a single teacher.
    """

    name = "ca_mkd"

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)
        self.refuse_one_teacher()

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the teachers' losses on the next batch."""
        found: Floats = (1.0 - softmax(self.losses(observations))) / (len(self.teacher_names) - 1)
        return found


def softmax(values: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


LOSS_RULES: tuple[type[Rule], ...] = (MTBert, SoftmaxWeights, ConfidenceAware)
