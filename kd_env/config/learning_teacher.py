"""Options of a teacher that learns beside the student, and what does not go together with one."""

from __future__ import annotations

from dataclasses import dataclass

from kd_env.core import checks


@dataclass(frozen=True)
class LearningTeacherConfig:
    """A teacher that is trained beside the student (``teacher_updates``), with AdamW.

    The loss of a row is ``a KL(p_S || p_T) + (1 - a) CE(y, p_T)`` with a = ``soft_weight``, the auxiliary loss of LGTM
    (Ren et al., ACL 2023); in regression both parts are squared errors over the squared label range.
    Betas and eps are those of the student's ``optimizer``.
    """

    init: str = "finetuned"
    """``finetuned`` (the folder has a head for the task), ``pretrained`` (an encoder; its head is drawn anew from the
    seed of every episode) or ``fresh`` (all of it is drawn, of the same sizes)."""
    num_hidden_layers: int | None = None
    """Keep the first n blocks of the encoder; None keeps all."""
    train_embeddings: bool = False
    """Whether its word embeddings are trained, too."""
    zero_head: bool = False
    """Whether its last prediction layer begins at 0 rather than being drawn; not with ``init=finetuned``."""
    dropout: float = 0.0
    """Dropout in the forward pass of its own loss. What it says to its student, and what the influence gradient goes
    through, is without. Stacked replicas refuse any but 0, since there is no generator per replica."""
    soft_weight: float = 0.4
    """a, in [0, 1]."""
    learning_rate: float = 3e-5
    """The teacher's own, at the top of its schedule."""
    weight_decay: float = 0.01
    """Decay at each update, times the learning rate."""
    max_grad_norm: float | None = 1.0
    """Gradient norm at which the teacher's gradient is clipped; None does not clip."""
    warmup: float = 0.1
    """Share of the budget over which its learning rate rises linearly; it then falls linearly."""
    log_every: int = 10
    """Updates between two measurements of ``teacher_influence_ratio`` in ``info``, where a policy uses influence: each
    is one more backward pass of the teacher."""
    log_cosine: bool = False
    """Whether the cosine between the two forms of the influence gradient is measured then, too."""


CHECKS: dict[str, checks.Check] = {
    "init": checks.one_of("finetuned", "pretrained", "fresh"),
    "num_hidden_layers": checks.optional(checks.whole(1)),
    "train_embeddings": checks.boolean,
    "zero_head": checks.boolean,
    "dropout": checks.within(0.0, 0.9),
    "soft_weight": checks.within(0.0, 1.0),
    "learning_rate": checks.positive,
    "weight_decay": checks.within(0.0),
    "max_grad_norm": checks.clipping,
    "warmup": checks.within(0.0, 1.0),
    "log_every": checks.whole(1),
    "log_cosine": checks.boolean,
}
