"""Episodes of every kind of update, played whole, in parts, or (as a script under a launcher) by several ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_env.decisions.options import env_config
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.mdp.problem import Problem

UPDATES = 10
TEXT_TERMS = ["plausibility", {"name": "plausibility", "as": "uncertain", "uncertain_share": 0.3}, "hidden_states"]
FEW_ROWS = {"max_train_rows": 64, "feedback_rows": 32, "selection_rows": 32, "evaluation_rows": 32}
"""To read all rows of the embedded tasks takes longer than to play."""
CASES: dict[str, dict[str, Any]] = {
    "terms": {"decision": "knowledge_selection", "features": ["progress", "student_cls", "teacher_cls"]},
    "rows": {"decision": "sample_weighting", "reward": "loss_drop"},
    "batch_reward": {"decision": "teacher_weighting", "reward": "rl_kd_distill"},
    "learning_teacher": {
        "decision": "sample_weighting",
        "teacher_updates": "prokt",
        "teacher_source": "online",
        "features": ["progress", "row_confidence"],
    },
    "tokens": {"decision": "tutor_token"},
    "tokens_of_labels": {"decision": "tutor_token", "task": "toy"},
    "text": {"decision": "knowledge_selection", "objective": "text", "terms": TEXT_TERMS},
    "unscaled": {"decision": "knowledge_selection", "term_scale": "none", "features": ["progress"]},
}
RANKED = ("terms", "learning_teacher", "tokens", "text")
"""Cases that ranks play, too."""
STACKED = {"text": 2, "rows": 2}
"""Replicas of the cases that have several."""


def problem_of(case: str, **options: Any) -> Problem:
    """What a case is played in, in float64, where another order of sums is no difference."""
    made = {"updates_per_step": 1, "budget": UPDATES, "precision": "fp64", "batch_size": 8, **FEW_ROWS}
    made |= {**CASES[case], **options}
    return build_problem(env_config(**made))


def play(case: str, problem: Problem, updates: int = UPDATES, **options: Any) -> dict[str, np.ndarray]:
    """Observations, rewards and losses of the first updates, and the parameters that they lead to."""
    env = DistillVectorEnv(STACKED.get(case, 1), problem=problem, autoreset_mode="disabled", **options)
    observations, _ = env.reset(seed=3)
    env.action_space.seed(5)
    course: dict[str, list[Any]] = {"observations": [], "rewards": [], "losses": []}
    for update in range(updates):
        action = env.action_space.sample()
        if case == "learning_teacher" and update % 3:  # by influence at every third update
            influence = float(update % 3 == 1)
            action = env.run.decision.lesson(np.ones((1, 8), np.float32), influence, "student_loss")
        observations, rewards, _, _, infos = env.step(action)
        if not case.startswith("tokens"):
            course["observations"].append(observations)
        course["rewards"].append(rewards)
        course["losses"].append(infos["raw_losses"])
    state = env.run.started()
    assert (state.updates == updates).all()
    found = {name: np.array(values) for name, values in course.items()}
    return {**found, "params": torch.cat([value.flatten() for value in state.params.values()]).numpy()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in RANKED:
        np.savez(Path(sys.argv[1]) / f"{name}.npz", **play(name, problem_of(name, data_parallel=True)))
