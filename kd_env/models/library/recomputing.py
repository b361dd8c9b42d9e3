"""Blocks whose activations are computed again on the way back instead of being kept (Chen et al., arXiv 1604.06174).

A block is then computed twice in an update, and what lies between two blocks is all that is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from kd_env.models.library.attention import recorder


def recompute(module: nn.Module) -> bool:
    """Let the blocks of a model be computed again on the way back while ``recorder.recompute`` says so.

    Returns:
        Whether the model has blocks that can; others are left as they are.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks: list[Any] = [block for block in module.modules() if isinstance(block, GradientCheckpointingLayer)]
    for block in blocks:
        if not isinstance(block, _Recomputed):
            block.__class__ = _recomputed(type(block))
    return bool(blocks)


class _Recomputed(nn.Module):
    """What a block of the library becomes: a class of its own, so that copies of the block are blocks of their own."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if not recorder.recompute:
            return super().forward(*inputs, **options)
        inside = _Inside(self)
        # Those of this call: on the way back the module holds its own again.
        params = dict(inside.named_parameters())
        before = (recorder.wanted, recorder.layer, recorder.eager, recorder.first_token)
        calls = 0

        def run(tensors: dict[str, Tensor], *inputs: Any) -> Any:
            nonlocal calls
            calls += 1
            with _as_at_first(before, again=calls > 1):
                return functional_call(inside, tensors, inputs, options)

        return checkpoint(run, params, *inputs, use_reentrant=False, preserve_rng_state=self.training)


_KINDS: dict[Any, Any] = {}


def _recomputed(kind: Any) -> Any:
    if kind not in _KINDS:
        _KINDS[kind] = type(kind.__name__, (_Recomputed, kind), {})
    return _KINDS[kind]


class _Inside(nn.Module):
    """A block as its forward pass alone: the library counts a block's calls, and of two would record both."""

    def __init__(self, block: _Recomputed) -> None:
        super().__init__()
        self.block = block

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return super(_Recomputed, self.block).forward(*inputs, **options)


@contextmanager
def _as_at_first(before: tuple[Any, int, bool, bool], *, again: bool) -> Iterator[None]:
    """The recorder as it was when the block was first called; what is recorded again is dropped."""
    if not again:
        recorder.recompute = False
        try:
            yield
        finally:
            recorder.recompute = True
        return
    now = vars(recorder).copy()
    recorder.wanted, recorder.layer, recorder.eager, recorder.first_token = before
    recorder.recompute, recorder.tensors = False, {}
    try:
        yield
    finally:
        vars(recorder).update(now)
