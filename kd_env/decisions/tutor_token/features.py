"""What an agent of the tutor's environment sees: a flat dictionary of 1-D arrays, row by row and slot by slot."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from kd_env.core.trees import to_host
from kd_env.core.types import FeatureSlice
from kd_env.decisions.tutor_token import text
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState
from kd_env.numerics import optim

HIDDEN_LIMIT = 100.0
"""Hidden states are cut to this range, so that the space is bounded; those of trained encoders stay far below."""
PROGRESS = ("progress", "remaining_updates", "learning_rate", "gap_closed", "slot")
"""Components of the feature ``progress``, each in [-1, 1]."""
FLAT = ("hidden_states", "probabilities", "valid", "progress")
"""Parts of the flat observation, one behind the other."""


class Sizes(NamedTuple):
    """What the space depends on."""

    observation: str  # dict or flat
    rows: int  # B
    slots: int  # P
    length: int  # S, tokens of the longest row of all
    vocabulary: int  # V
    candidates: int  # k
    hidden: int  # H


def sizes(problem: Problem) -> Sizes:
    """Those of a problem."""
    config, reader = problem.config, problem.reader
    facts = reader.model.facts
    width = reader.ids.shape[1]
    return Sizes(
        config.observation,
        config.batch_size,
        reader.slots,
        width,
        facts.vocab_size,
        config.num_candidates,
        facts.hidden_size,
    )


def space(of: Sizes) -> spaces.Dict | spaces.Box:
    """The space of one replica's observation: :func:`parts`, or with ``observation=flat`` the numbers among them."""
    if of.observation == "dict":
        return parts(of)
    found = layout(of).values()
    low, high = (
        np.concatenate([np.full(part.stop - part.start, getattr(part, side), np.float32) for part in found])
        for side in ("low", "high")
    )
    return spaces.Box(low, high, dtype=np.float32)


def layout(of: Sizes) -> dict[str, FeatureSlice]:
    """Where each part stands in the flat observation."""
    bounds = {"hidden_states": HIDDEN_LIMIT, "probabilities": 1.0, "valid": 1.0, "progress": 1.0}
    everything, start, found = parts(of), 0, {}
    for name in FLAT:
        size = int(np.prod(everything[name].shape or ()))
        low = 0.0 if name in ("probabilities", "valid") else -bounds[name]
        found[name] = FeatureSlice(start, start + size, (size,), low, bounds[name])
        start += size
    return found


def parts(of: Sizes) -> spaces.Dict:
    """The space of all parts by name; B rows, S tokens of the longest row of all, P slots, k candidates.

    - ``input_ids [B * S]``: the text with its masks and what was chosen so far; padding at the end of rows.
    - ``lengths [B]``: real tokens of each row.
    - ``positions [B * P]``: places of the slots; ``valid [B * P]``: which of them count.
    - ``chosen [B * P]``: tokens chosen so far, V where none is yet.
    - ``hidden_states [B * P * H]``: the teacher's last hidden states at the slots.
    - ``candidates [B * P * k]``: its most likely tokens; ``probabilities [B * P * k]``: of these.
    - ``progress``: :data:`PROGRESS`.
    """
    rows, slots, width, vocab, listed, hidden = of[1:]

    def ids(count: int, high: int) -> spaces.Box:
        return spaces.Box(0, high, (count,), np.int64)

    return spaces.Dict(
        {
            "input_ids": ids(rows * width, vocab - 1),
            "lengths": ids(rows, width),
            "positions": ids(rows * slots, width - 1),
            "valid": spaces.MultiBinary(rows * slots),
            "chosen": ids(rows * slots, vocab),
            "hidden_states": spaces.Box(-HIDDEN_LIMIT, HIDDEN_LIMIT, (rows * slots * hidden,), np.float32),
            "candidates": ids(rows * slots * listed, vocab - 1),
            "probabilities": spaces.Box(0.0, 1.0, (rows * slots * listed,), np.float32),
            "progress": spaces.Box(-1.0, 1.0, (len(PROGRESS),), np.float32),
        }
    )


def observe(problem: Problem, state: DistillState) -> dict[str, np.ndarray] | np.ndarray:
    """Fresh host arrays ``[N, ...]`` of the space."""
    count, kept = len(state.seeds), state.decision_state
    closed = np.clip((state.loss_reset - state.loss) / state.gap_scale, -1.0, 1.0)
    warmup = problem.config.optimizer_config.warmup
    progress = np.stack(
        [
            state.updates / state.budget,
            1.0 - state.updates / state.budget,
            optim.learning_rate_factor(state.updates, state.budget, warmup),
            closed,
            kept.filled / problem.reader.slots,
        ],
        axis=-1,
    )
    view = kept.view
    hidden, candidates, probabilities = to_host(
        view.hidden.float().clamp(-HIDDEN_LIMIT, HIDDEN_LIMIT),
        view.candidates,
        view.log_candidates.float().exp().clamp(max=1.0),
    )
    values: dict[str, Any] = {
        "input_ids": text.masked_ids(problem, state),
        "lengths": problem.train.lengths[state.next_rows[:, 0]],
        "positions": kept.positions,
        "valid": kept.valid.astype(np.int8),
        "chosen": np.where(kept.chosen < 0, problem.reader.model.facts.vocab_size, kept.chosen),
        "hidden_states": np.nan_to_num(hidden),
        "candidates": candidates,
        "probabilities": probabilities,
        "progress": progress.astype(np.float32),
    }
    if problem.config.observation == "flat":
        return np.concatenate([values[name].reshape(count, -1) for name in FLAT], axis=1, dtype=np.float32)
    return {name: np.array(value).reshape(count, -1) for name, value in values.items()}
