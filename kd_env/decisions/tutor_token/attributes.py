"""What environments show of the text that is filled, for agents and rules that write tokens (``env.unwrapped``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kd_env.decisions.tutor_token import text
from kd_env.mdp.objectives.reading import SlotView
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState

State = Callable[[], DistillState]
"""Gives the present state; raises ``RuntimeError`` before the first reset."""


def log_probabilities(problem: Problem, state: DistillState) -> Tensor:
    """The teacher's log-probabilities of every token at every slot, ``[N, B, P, V]`` on the device of the run.

    For agents that stay near the teacher; made anew at every call and in no observation.
    """
    view: SlotView = state.decision_state.view
    with torch.no_grad():
        logits: Tensor = problem.reader.model.decode(view.features)
        return logits - view.log_partition[..., None]


def original_tokens(problem: Problem, state: DistillState) -> Tensor:
    """The tokens of the text at every slot, ``[N, B, P]``; in no observation. For rules that change nothing."""
    tokens = text.originals(problem, state.next_rows[:, 0], state.decision_state.positions)
    return torch.as_tensor(tokens, device=problem.device)


ATTRIBUTES: Mapping[str, Callable[[Problem, State], Any]] = MappingProxyType(
    {
        "mode": lambda problem, _: problem.config.mode,
        "slots": lambda problem, _: problem.reader.slots,
        "vocab_size": lambda problem, _: problem.reader.model.facts.vocab_size,
        "ordinary_tokens": lambda problem, _: problem.reader.tokens.candidates.copy(),
        "num_candidates": lambda problem, _: problem.config.num_candidates,
        "hidden_size": lambda problem, _: problem.reader.model.facts.hidden_size,
        "log_probabilities": lambda problem, state: lambda: log_probabilities(problem, state()),
        "original_tokens": lambda problem, state: lambda: original_tokens(problem, state()),
        "student_errors": lambda problem, state: lambda tokens: text.student_errors(problem, state(), tokens),
    }
)
"""``mode``: joint or sequential; ``slots`` P of a row; ``vocab_size`` V; ``ordinary_tokens``: ids without the special
ones; ``num_candidates`` k; ``hidden_size`` H of the teacher. ``log_probabilities()`` and ``original_tokens()`` are the
functions above; ``student_errors(tokens [N, B, P])`` is :func:`kd_env.decisions.tutor_token.text.student_errors`, one
forward pass that changes no state."""
