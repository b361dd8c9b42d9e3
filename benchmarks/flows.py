"""Flows between layers (the term ``relation``) compared from products of tokens, against the matrices themselves.

Loss and gradient of one step between two layers, for students whose layers go through trained maps to the teacher's
width. Both are required to agree before anything is timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from kd_env.core import checks
from kd_env.knowledge import relations
from kd_env.models.devices import resolve_device

WAYS = {"matrices": relations.flow_distance_by_matrices, "tokens": relations.flow_distance_by_tokens}


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    widths: tuple[int, ...] = (64, 384, 768)
    """Widths of the teacher."""
    lengths: tuple[int, ...] = (13, 32, 64, 96, 128)
    """Tokens of every row."""
    replicas: int = 1
    """Stacked students."""
    hidden: int = 32
    """Width of the students."""
    batch: int = 16
    """Rows of a batch."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "widths": common.each(checks.whole(8)),
        "lengths": common.each(checks.whole(2)),
        "replicas": checks.whole(1),
        "hidden": checks.whole(1),
        "batch": checks.whole(1),
    }

    def check(self) -> None:
        """As of every benchmark; raises ``ValueError``, also for a precision that flows do not have."""
        super().check()
        if self.precision != "fp32":
            raise ValueError(f"precision={self.precision!r}: flows are compared in fp32 at least; leave it out.")


def run(options: Options) -> common.Result:
    """Measure every width with every length."""
    rows = [_cell(options, width, length) for width in options.widths for length in options.lengths]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds of a loss and its gradient."""
    lines = [
        [
            str(row["width"]),
            str(row["length"]),
            common.ms(row["matrices"]),
            common.ms(row["tokens"]),
            f"**{row['ratio']:.2f}** [{row['low']:.2f}, {row['high']:.2f}]",
            row["taken"],
        ]
        for row in result["rows"]
    ]
    heads = ["teacher's width", "tokens", "matrices, ms", "products of tokens, ms", "matrices / tokens", "taken"]
    return common.markdown(heads, lines) + "\n\nMedian of paired rounds, in brackets their quartiles."


def plot(result: common.Result, path: Path) -> None:
    """The ratio by the number of tokens."""
    figure = common.new_figure(5.0, 3.5)
    axes = figure.subplots()
    for width in dict.fromkeys(row["width"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["width"] == width]
        axes.plot([row["length"] for row in own], [row["ratio"] for row in own], "o-", label=f"width {width}")
    axes.axhline(1.0, color="black", linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    common.plain_ticks(axes.xaxis, sorted({row["length"] for row in result["rows"]}))
    axes.set_xlabel("tokens of a row")
    axes.set_ylabel("matrices / tokens")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    common.save_figure(figure, path)


def _cell(options: Options, width: int, length: int) -> dict[str, Any]:
    common.progress(f"flows: width {width}, {length} tokens")
    device = resolve_device(options.device)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    rows = (options.replicas, options.batch, length)
    maps = [drawn(options.replicas, options.hidden, width).mul_(options.hidden**-0.5).requires_grad_() for _ in "lu"]
    layers, teacher = [drawn(*rows, options.hidden) for _ in "lu"], (drawn(*rows, width), drawn(*rows, width))
    mask = torch.ones(rows, dtype=torch.bool, device=device)

    def call(way: str) -> tuple[Tensor, ...]:
        student = (layers[0] @ maps[0][:, None], layers[1] @ maps[1][:, None])
        loss = torch.func.vmap(WAYS[way])(student, teacher, mask).mean(-1)
        return loss.detach(), *torch.autograd.grad(loss.sum(), maps)

    found = {way: [float(value.double().norm()) for value in call(way)] for way in WAYS}
    common.require_equal("flows", found, common.TOLERANCE["fp32"])
    calls = {way: common.clocked(partial(call, way), device) for way in WAYS}
    rounds = [{way: timed() for way, timed in calls.items()} for _ in range(options.repeats + 1)][1:]
    low, middle, high = np.quantile([each["matrices"] / each["tokens"] for each in rounds], [0.25, 0.5, 0.75])
    medians = {way: float(np.median([each[way] for each in rounds])) for way in WAYS}
    spread = max(common.spread([each[way] for each in rounds]) for way in WAYS)
    taken = "tokens" if device.type == "cpu" and relations.by_tokens(width, width, length) else "matrices"
    cell = {"width": width, "length": length, **medians, "taken": taken}
    return {**cell, "ratio": middle, "low": low, "high": high, "spread": spread}
