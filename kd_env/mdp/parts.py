"""The parts in which the rows of a batch are computed, for want of memory or since other processes compute the rest.

With ``data_parallel`` every rank has a share of the rows, and with ``micro_batch_size`` it computes that in pieces.
What is computed is that of the whole batch: losses are means over all its rows, and running scales read all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kd_env.config.environment import EnvConfig
from kd_env.core import trees
from kd_env.knowledge import Term
from kd_env.numerics.ranks import Ranks

Tree = TypeVar("Tree")


class InParts(Protocol):
    """A problem, as far as the parts of its batches are concerned."""

    @property
    def config(self) -> EnvConfig:
        """Its options."""

    @property
    def ranks(self) -> Ranks:
        """The processes that share the rows."""


def in_parts(problem: InParts) -> bool:
    """Whether a batch is not computed at once, in this process alone."""
    micro = problem.config.micro_batch_size
    return problem.ranks.world > 1 or (micro is not None and micro < problem.config.batch_size)


def pieces(problem: InParts, count: int) -> list[slice]:
    """The pieces of ``count`` rows that this process computes, in order; all at once where nothing says otherwise."""
    own = problem.ranks.share(count)
    size = problem.config.micro_batch_size or count
    return [slice(start, min(start + size, own.stop)) for start in range(own.start, own.stop, size)]


def part(tree: Tree, piece: slice) -> Tree:
    """Some rows of fields ``[N, B, ...]``."""
    return trees.map_leaves(lambda leaf: leaf[:, piece], tree)


def joined(problem: InParts, found: Sequence[Tree]) -> Tree:
    """Fields ``[N, B, ...]`` of the whole batch, from those of this process's pieces ``[N, b, ...]`` of it."""
    own = found[0] if len(found) == 1 else trees.map_leaves(lambda *leaves: torch.cat(leaves, 1), *found)
    return problem.ranks.gather(own, 1)


def by_rows(problem: InParts, count: int, compute: Callable[[slice], Tree]) -> Tree:
    """What is computed of ``count`` rows, each of which is computed by itself, as fields ``[N, B, ...]``.

    Args:
        problem: of which the rows are.
        count: B.
        compute: from a piece of the rows to its fields ``[N, b, ...]``.
    """
    if not in_parts(problem):
        return compute(slice(None))
    return joined(problem, [compute(piece) for piece in pieces(problem, count)])


def row_tokens(attention_mask: Tensor) -> Tensor:
    """Real tokens of each row of the whole batch, ``[N, B]``, from ``[N, B, S]``."""
    return attention_mask.sum(-1)


def check_parts(config: EnvConfig, ranks: Ranks, terms: Sequence[Term], features: Sequence[str]) -> None:
    """Refuse what cannot be computed in parts.

    Args:
        config: options of the environment.
        ranks: that share the rows.
        terms: knowledge terms of all teachers.
        features: names of the observation's features.

    Raises:
        ValueError: ranks that do not divide the batch, terms on several rows at once, or gradients of single terms.
    """
    if config.batch_size % ranks.world:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared alike between {ranks.world} processes; choose a multiple "
            f"of {ranks.world}, or start another number of them."
        )
    if ranks.world == 1 and (config.micro_batch_size or config.batch_size) >= config.batch_size:
        return
    why = (
        f"data_parallel with {ranks.world} processes"
        if ranks.world > 1
        else f"micro_batch_size={config.micro_batch_size}"
    )
    across = next((term.name for term in terms if term.across_rows), None)
    if across is not None:
        raise ValueError(
            f"The knowledge term {across!r} compares the rows of a batch with each other, and {why} computes them "
            "apart; leave the term out, or compute batches whole (micro_batch_size=None, one process)."
        )
    if "gradient_cosines" in features:
        raise ValueError(
            f"The feature 'gradient_cosines' needs the gradient of every term by itself, and {why} computes one for "
            "all; leave the feature out, or compute batches whole."
        )
