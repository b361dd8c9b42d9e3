"""Steps, episodes, evaluations and rewards."""

from __future__ import annotations

from dataclasses import dataclass

from kd_env.core import checks

RENDER_MODES = ("ansi", "rgb_array")


@dataclass(frozen=True)
class ProcessSection:
    """Steps, episodes, evaluations and rewards."""

    updates_per_step: int = 2
    """Student updates in one step, the phase of KS."""
    budget: int = 80
    """Student updates in an episode."""
    epochs: float | None = None
    """Passes over the train rows in an episode, in place of ``budget``, which is then
    ``ceil(epochs * rows / batch_size)``: known where the rows are. None: ``budget`` as it is."""
    evaluation_rows: int = 128
    """Fixed number of feedback rows that are evaluated for reward and observation."""
    evaluate_every: int = 1
    """Steps between two evaluations; 0 evaluates at reset and at the end of an episode only (sparse reward)."""
    reward: str = "gap_closed"
    """By name (:mod:`kd_env.mdp.rewards`). Values lie in [-2, 2], those of RL-KD, which are losses in nats, in [-100,
    100]; ``info["reward_clipped"]`` says where one was cut to that."""
    gap: str = "calibrated"
    """What loss e the gap, the rewards and the reports are about: ``calibrated`` (cross-entropy against gold labels
    after one temperature for each student, as for the teacher, fitted on the evaluated feedback rows in [0.05, 20]; in
    regression, which has none, ``labels``), ``labels`` (without the student's temperature: a student then gains by
    the size of its logits alone) or ``divergence`` (KL from teacher to student, without labels)."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; None: episodes end with the budget only."""
    render_mode: str | None = None
    """None, ``ansi`` (a line about the last step) or ``rgb_array`` (the course of the episode as a picture)."""
    show_progress: bool = False
    """Progress bars on long preparation (teacher outputs)."""


CHECKS: dict[str, checks.Check] = {
    "updates_per_step": checks.whole(1),
    "budget": checks.whole(1),
    "epochs": checks.optional(checks.positive),
    "evaluation_rows": checks.whole(1),
    "evaluate_every": checks.whole(0),
    "reward": checks.text,
    "gap": checks.one_of("calibrated", "labels", "divergence"),
    "max_episode_steps": checks.optional(checks.whole(1)),
    "render_mode": checks.optional(checks.one_of(*RENDER_MODES)),
    "show_progress": checks.boolean,
}
