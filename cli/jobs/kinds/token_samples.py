"""Texts as they were, and as a tutor edits them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv


def edited_samples(env: DistillVectorEnv, agent: Any, seed: int, count: int) -> str:
    """Texts of the first batch of an episode, original and edited, as Markdown; slots stand in brackets.

    Args:
        env: one replica, ``autoreset_mode="disabled"``.
        agent: acts in it.
        seed: of the episode.
        count: texts at most.
    """
    observation, _ = env.reset(seed=seed)
    problem, start = env.problem, env.run.started()
    kept = start.decision_state
    rows, positions, valid = start.next_rows[0, 0], kept.positions[0], kept.valid[0]
    info: dict[str, Any] = {"updated": np.zeros(1, dtype=bool)}
    state, begins = None, np.ones(1, dtype=bool)
    while not info["updated"][0]:
        actions, state = agent.predict(observation, state, begins)
        observation, _, _, _, info = env.step(actions)
        begins = np.zeros(1, dtype=bool)
    words, lines = problem.assets.tokenizer.convert_ids_to_tokens, []
    for row in range(min(count, len(rows))):
        before = words(problem.reader.ids[rows[row]][: problem.train.lengths[rows[row]]].tolist())
        after = list(before)
        for slot in np.flatnonzero(valid[row]).tolist():
            place = int(positions[row, slot])
            before[place], after[place] = f"[{before[place]}]", f"[{words(int(info['tokens'][0, row, slot]))}]"
        plausibility = np.round(info["plausibility"][0, row][valid[row]].astype(float), 3).tolist()
        lines += [f"- `{' '.join(before)}`", f"  `{' '.join(after)}` (plausibility {plausibility})"]
    return "\n".join(lines) + "\n" if lines else ""
