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
    """Steps from one evaluation to the next; 0 evaluates at reset and at the end of an episode only (sparse reward).
    Steps between are shown the last evaluation, and their reward is 0 where it is a difference of evaluations: the next
    evaluated step has the change of all of them. What actions measure themselves (RL-KD's and the tutor's own rewards)
    comes at every step."""
    evaluation_sample: int | None = None
    """Feedback rows that each student reads at the steps within an episode, drawn from the evaluated ones by its
    episode's seed; None: all. At reset and at the end of an episode all are read, so that rewards which are differences
    of evaluations still add up to the same return; what samples were wrong by is part of the last reward. Where
    evaluations take most of the time, take a quarter to a half of ``evaluation_rows``, paired, with ``sample_steps=5``:
    docs/benchmarks.md has the cost and the noise of each way. Fewer ``evaluation_rows`` cost as little, and are wrong
    in the same way in every episode."""
    sample_paired: bool = True
    """With ``evaluation_sample``: whether the loss is counted on by the change on the same rows, read before the update
    and after it. Without, it is that of the sample: half the readings, and several times the noise."""
    sample_steps: int = 1
    """With ``evaluation_sample``, paired: steps for which a sample is kept. The first of them reads it twice, the
    others once, since what students said before is known."""
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
    "evaluation_sample": checks.optional(checks.whole(1)),
    "sample_paired": checks.boolean,
    "sample_steps": checks.whole(1),
    "reward": checks.text,
    "gap": checks.one_of("calibrated", "labels", "divergence"),
    "max_episode_steps": checks.optional(checks.whole(1)),
    "render_mode": checks.optional(checks.one_of(*RENDER_MODES)),
    "show_progress": checks.boolean,
}


def check_samples(options: ProcessSection) -> None:
    """Raise ``ValueError`` for options of samples of the evaluated rows that contradict each other or do nothing."""
    count = options.evaluation_sample
    if count is None:
        for name, usual in (("sample_paired", True), ("sample_steps", 1)):
            if getattr(options, name) != usual:
                raise ValueError(
                    f"{name}={getattr(options, name)!r} is about a sample of the evaluated rows, and without "
                    "evaluation_sample all are read; set evaluation_sample, or leave it out."
                )
        return
    if count >= options.evaluation_rows:
        raise ValueError(
            f"evaluation_sample={count} has to be less than evaluation_rows={options.evaluation_rows}, of which it is "
            "a sample; lower it, or leave it out to read all of them."
        )
    if options.evaluate_every != 1:
        raise ValueError(
            f"evaluation_sample={count} reads some feedback rows at every step, and evaluate_every="
            f"{options.evaluate_every} all of them at some steps; set evaluate_every=1, or leave evaluation_sample out."
        )
    if options.sample_steps > 1 and not options.sample_paired:
        raise ValueError(
            f"sample_steps={options.sample_steps} keeps a sample whose readings are compared, and sample_paired=False "
            "compares none; set sample_steps=1, or sample_paired=True."
        )
