"""The upper part of a student, which goes on from what its frozen layers said."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kd_env.core.types import Batch, Signal
from kd_env.models.encoder import Encoder
from kd_env.models.students.cut import layer_list

_CLOSE = 1e-5
_REMEDY = "set student.cache_frozen=false"


class _Passed(nn.Module):
    """Stands in the place of a frozen module: its output has come as an input."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """The hidden states: the first floating tensor, since a mask comes behind them."""
        tensors = (value for value in (*given, *named.values()) if isinstance(value, Tensor))
        return next(value for value in tensors if value.is_floating_point())


def with_upper(student: Encoder, batch: Batch, signals: Iterable[Signal]) -> Encoder:
    """The student with its upper part apart, over the same tensors.

    Args:
        student: frozen up to some depth.
        batch: some rows, to compare both on.
        signals: what is read of the student.

    Raises:
        ValueError: signals of layers that do not run, an architecture whose lower layers learn in part, or one whose
            upper part says something else than the whole.
    """
    depth, wanted = student.facts.frozen_depth, frozenset(signals)
    assert depth is not None
    here = Signal("hidden_states", depth)
    for signal in sorted(wanted):
        lower = depth if signal.kind in ("hidden_states", "cls") else depth + 1
        if 0 <= signal.layer < lower:
            raise ValueError(
                f"student.cache_frozen=True keeps the output of layer {depth} alone, and a knowledge term reads "
                f"{signal.kind} of layer {signal.layer}, which does not run then; leave that term or layer out "
                f"(layer_map), or {_REMEDY}."
            )
    upper = dataclasses.replace(student, upper=_without_frozen(student.module, student.facts.num_layers, depth))
    name = type(student.module).__name__
    params = {name: student.module.get_parameter(name).detach().requires_grad_() for name in student.trainable}
    states = student.forward(params, batch, {here}).hidden_states[depth]
    if states.requires_grad:
        raise ValueError(f"Frozen layers of a {name} read tensors that learn, so that nothing can be kept; {_REMEDY}.")
    with torch.no_grad():
        whole = student.forward({}, batch, wanted)
        try:
            part = upper.forward({}, batch._replace(states={depth: states}), wanted)
        except Exception as error:  # whatever an unknown architecture makes of hidden states in place of tokens
            raise ValueError(f"The upper layers of a {name} cannot be run alone ({error}); {_REMEDY}.") from error
    for ours, theirs in zip(_tensors(part), _tensors(whole), strict=True):
        if not torch.allclose(ours, theirs, rtol=_CLOSE, atol=_CLOSE * float(theirs.abs().max())):
            raise ValueError(f"The upper layers of a {name} say something else alone than in the whole; {_REMEDY}.")
    return upper


def _tensors(output: Any) -> list[Tensor]:
    return [output.logits, *(value for kind in output[1:] for _, value in sorted(kind.items()))]


def _without_frozen(module: Any, blocks: int, depth: int) -> Any:
    """A copy over the same tensors, in which what is frozen passes on what it is given."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    built = copy.deepcopy(module, shared)
    owner = built
    for step in layer_list(module, blocks).split("."):
        for name in list(owner._modules):
            if name == step:
                break
            owner._modules[name] = _Passed()  # comes before the blocks: embeddings, and a map behind them
        owner = getattr(owner, step)
    for place in range(depth):
        owner[place] = _Passed()
    return built
