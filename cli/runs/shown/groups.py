"""Under which heading TensorBoard shows each metric of a training; ``metrics.jsonl`` keeps the plain names."""

from __future__ import annotations

TRAIN, POLICY, STUDENT, EVAL = "train", "policy", "student", "eval"
"""The agent's returns and losses; what its policy does; its students; the final evaluation."""

_GROUPS = {
    TRAIN: (
        *(
            "episodes",
            "fps",
            "return_mean",
            "return_std",
            "length_mean",
            "reward",
            "updates",
            "n_updates",
            "iterations",
        ),
        *("loss", "policy_loss", "value_loss", "actor_loss", "critic_loss", "policy_objective", "target_mean"),
        *(
            "explained_variance",
            "policy_grad_norm",
            "pair_difference",
            "step_norm",
            "learning_rate",
            "clip_range",
            "clip_range_vf",
            "step_size",
        ),
        *("is_line_search_success", "delta_std", "candidates_left", "best_return"),
    ),
    POLICY: (
        *("entropy", "entropy_loss", "ent_coef", "ent_coef_loss", "std", "kl", "approx_kl", "kl_divergence_loss"),
        *("clip_fraction", "skipped", "followed", "right_rows_auc", "plausibility", "teacher_probability"),
        *("teacher_recognises", "mean_soft_temperature", "mean_reverse_share"),
    ),
    STUDENT: ("gap_closed", "feedback_loss", "student_error"),
}
GROUPS = {name: group for group, names in _GROUPS.items() for name in names}
_WEIGHT = "weight_"
NO_METRICS = frozenset({"timesteps"})
"""What a line of the log has beside metrics: the step at which they are shown."""


def has_group(name: str) -> bool:
    """Whether a metric's group is known."""
    return name in GROUPS or name.startswith(_WEIGHT)


def group_of(name: str) -> str:
    """The group of a metric: weights of terms and teachers are the policy's, names from other packages the agent's."""
    return POLICY if name.startswith(_WEIGHT) else GROUPS.get(name, TRAIN)
