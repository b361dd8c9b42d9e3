"""Options of the influence of single rows, which features, scores and rules ask for."""

from __future__ import annotations

from dataclasses import dataclass

from kd_env.core import checks


@dataclass(frozen=True)
class InfluenceConfig:
    """Options of the virtual step by which the influence of rows is found (:mod:`kd_env.mdp.influence`)."""

    rows: int | None = None
    """Feedback rows in the gradient of a step, drawn anew for every update from the evaluated ones; None is
    ``batch_size``."""
    optimizer: str = "adamw"
    """Of the virtual step: ``adamw`` (the student's own, with its moments: the influence is the derivative of the real
    step) or ``sgd`` (in its place)."""
    learning_rate: float | None = None
    """Of a virtual step by ``sgd``; None is that of the student's update."""
    clip: bool = True
    """Whether the virtual step clips its gradient as the real one does; only one by ``sgd`` may leave that out. Where
    clipping is active a common factor of the weights changes nothing: the rows of a batch compete."""


_CHECKS: dict[str, checks.Check] = {
    "rows": checks.optional(checks.whole(1)),
    "optimizer": checks.one_of("adamw", "sgd"),
    "learning_rate": checks.optional(checks.positive),
    "clip": checks.boolean,
}


def check_influence(options: InfluenceConfig, evaluation_rows: int, max_grad_norm: float | None) -> None:
    """Raise ``ValueError`` for the first option outside its range or without effect, and for more rows than evaluated.

    Args:
        options: of the influence.
        evaluation_rows: feedback rows that are evaluated.
        max_grad_norm: of the students' optimiser.
    """
    checks.check_fields("influence.", options, _CHECKS)
    for name, default in (("learning_rate", None), ("clip", True)):
        value = getattr(options, name)
        if options.optimizer == "adamw" and value != default:
            raise ValueError(
                f"influence.{name}={value!r} is only for influence.optimizer='sgd': the virtual step by 'adamw' is the "
                f"student's own update. Set it to {default!r}, or influence.optimizer='sgd'."
            )
    if not options.clip and max_grad_norm is None:
        raise ValueError(
            "influence.clip=False does nothing with optimizer.max_grad_norm=None, which does not clip; leave it out."
        )
    if options.rows is not None:
        check_rows(options.rows, evaluation_rows, f"evaluation_rows={evaluation_rows}")


def check_rows(wanted: int, evaluated: int, source: str) -> None:
    """Raise ``ValueError`` where a step of the influence wants more feedback rows than there are.

    Args:
        wanted: rows of a step.
        evaluated: rows that are evaluated.
        source: what says so, for the message.
    """
    if wanted > evaluated:
        raise ValueError(
            f"The influence of rows draws {wanted} feedback rows a step (influence.rows, by default batch_size), but "
            f"only {evaluated} are evaluated ({source}); raise evaluation_rows and feedback_rows, or set "
            f"influence.rows to at most {evaluated}."
        )
