"""What the benchmarks share: options, a synthetic task, interleaved timing, the hardware, tables and figures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from kd_env.core import checks
from kd_env.core.files import atomic_write
from kd_env.models.architecture import new_encoder
from kd_env.models.devices import resolve_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = dict[str, Any]
"""``rows`` (one flat mapping per measured cell) and ``facts`` (what holds for all of them)."""

TERMS: tuple[Any, ...] = (
    "hard_label",
    {"name": "soft_label", "temperature": 2.0},
    {"name": "hidden_states", "distance": "mse"},
    "relation",
)
FEATURES = ("progress", "remaining_budget", "learning_rate", "term_losses", "gap", "previous_action")
FEEDBACK_ROWS, SELECTION_ROWS = 128, 16
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest relative difference of losses that are called equal; autocast rounds at other places in every loop."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""``processor`` is the time of this process alone, for a CPU that others use too."""
STEADY = 0.1
"""Largest spread of repeated times that is passed over in silence."""


@dataclass(frozen=True)
class Options:
    """What every benchmark takes."""

    threads: int = 1
    """Threads of PyTorch in this process."""
    repeats: int = 20
    """Timed rounds; in each of them everything that is compared takes its turn. Medians over rounds are reported."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu`` or ``cuda``."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast of the forward passes)."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "threads": checks.whole(1),
        "repeats": checks.whole(1),
        "device": checks.text,
        "precision": checks.one_of("fp32", "bf16"),
    }

    def check(self) -> None:
        """Raise ``ValueError`` for the first value outside its range, before any work."""
        checks.check_fields("", self, {**Options.RANGES, **self.RANGES})
        resolve_device(self.device)


def check_encoder(data_dir: str, encoder: str) -> None:
    """Refuse real rows without an encoder to read them, or the other way round; raises ``ValueError``."""
    if bool(data_dir) != bool(encoder):
        raise ValueError(f"data_dir={data_dir!r} and encoder={encoder!r} go together; give both.")


def each(check: checks.Check) -> checks.Check:
    """A list that is not empty, every entry of which passes ``check`` and stands in it once."""

    def run(name: str, value: Any) -> None:
        if not isinstance(value, tuple) or not value or len(set(value)) < len(value):
            checks.refuse(name, value, "a list of different values, for example [1,2]")
        for entry in value:
            check(name, entry)

    return run


# -- the synthetic task ------------------------------------------------------------------------------------------------


class TaskSpec(NamedTuple):
    """Sizes of a synthetic task."""

    vocab: int
    length: int  # tokens of every row, specials included
    teacher_layers: int
    teacher_hidden: int
    rows: int = 600  # of the train split, before feedback and selection rows are cut off


def heads(hidden: int) -> int:
    """Attention heads of about 64 units that divide the width."""
    return next(count for count in range(max(1, hidden // 64), 0, -1) if hidden % count == 0)


def write_task(folder: Path, spec: TaskSpec) -> dict[str, Any]:
    """Write full-length rows of random words and a random teacher; the options of an environment on them.

    Rewards come from the divergence to the teacher, since a random one is no better than a student on labels.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    words = [*special.values(), *(f"w{index}" for index in range(5, spec.vocab))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.teacher_hidden,
        num_hidden_layers=spec.teacher_layers,
        num_attention_heads=heads(spec.teacher_hidden),
        intermediate_size=4 * spec.teacher_hidden,
        max_position_embeddings=max(128, spec.length),
    )
    teacher = folder / "teacher"
    with no_bars():
        new_encoder(BertForSequenceClassification, config).save_pretrained(teacher)
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(teacher)
    rng = np.random.default_rng(0)
    for split, count in (("train", spec.rows), ("validation", 32)):
        drawn = rng.integers(5, spec.vocab, size=(count, spec.length))  # cut to length - 2 words by the tokeniser
        lines = [
            json.dumps({"text": " ".join(words[token] for token in row), "label": index % 2})
            for index, row in enumerate(drawn)
        ]
        atomic_write(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
    return {
        "task": "custom",
        "data_dir": str(folder),
        "columns": {"text": ["text"], "label": "label", "kind": "classification"},
        "teacher": str(teacher),
        "teacher_check": "none",  # its weights are drawn by seed
        "max_length": spec.length,
        "feedback_rows": FEEDBACK_ROWS,
        "selection_rows": SELECTION_ROWS,
        "evaluation_rows": FEEDBACK_ROWS,
        "gap": "divergence",
        "features": FEATURES,
        "terms": TERMS,
        "term_scale": "none",
        "evaluate_every": 0,
        "budget": 100_000,  # no episode ends while it is measured
        "learning_rate": 1e-4,
    }


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """No progress bars of transformers, which come for the smallest file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def student_options(layers: int, hidden: int) -> dict[str, Any]:
    """A fresh student of these sizes."""
    return {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads(hidden)}


# -- time --------------------------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    """Wait for the device: on CUDA a call returns before its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clocked(
    call: Callable[[], object], device: torch.device, timer: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """The same call, which then returns its seconds."""

    def run() -> float:
        synchronize(device)
        begin = timer()
        call()
        synchronize(device)
        return timer() - begin

    return run


class Times(NamedTuple):
    """Seconds of several calls that took turns."""

    medians: dict[str, float]
    spread: float  # the largest of their interquartile ranges, over the median


def interleaved(calls: Mapping[str, Callable[[], float]], repeats: int) -> Times:
    """Seconds of each call over ``repeats`` rounds A, B, C, A, B, C, ... after one that does not count.

    What else the machine does meets all of them alike, and ratios of the medians are of one run.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(call())
    medians = {name: statistics.median(found) for name, found in times.items()}
    return Times(medians, max(spread(found) for found in times.values()))


def spread(times: Sequence[float]) -> float:
    """Interquartile range over the median: what an idle machine keeps small."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float((high - low) / middle)


def unrest(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence for results that something else on the machine has disturbed; empty where the times were steady."""
    worst = max(float(row["spread"]) for row in rows)
    if worst <= STEADY:
        return ""
    return (
        f"Times of one call vary by up to {worst:.0%} (interquartile range over median): the machine was not idle, or "
        "the work is too short to be timed; measure again, or raise repeats."
    )


def require_equal(what: str, losses: Mapping[str, Sequence[float]], tolerance: float) -> float:
    """The largest relative difference of the losses of several loops to those of the first.

    Raises:
        AssertionError: it is larger than ``tolerance`` (or not a number), so that a comparison of times would mean
            nothing.
    """
    reference, *others = losses
    worst = 0.0
    for name in others:
        mine, theirs = np.asarray(losses[reference]), np.asarray(losses[name])
        difference = float(np.max(np.abs(theirs - mine) / np.abs(mine)))
        if not difference <= tolerance:
            raise AssertionError(
                f"{what}: the losses of {name!r} differ from those of {reference!r} by up to {difference:.1e} "
                f"(relative; allowed {tolerance:.0e}): they do not do the same work. {reference}: {mine.tolist()}; "
                f"{name}: {theirs.tolist()}"
            )
        worst = max(worst, difference)
    return worst


def progress(text: str) -> None:
    """One line for a person who waits."""
    print(text, file=sys.stderr, flush=True)


# -- facts, tables, figures --------------------------------------------------------------------------------------------


def facts(options: Options) -> dict[str, Any]:
    """Hardware, versions and options of a run."""
    from importlib.metadata import version

    chosen = resolve_device(options.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{cores} cores of {_processor()}"]
    if chosen.type == "cuda":
        parts.insert(0, f"{torch.cuda.get_device_name(chosen)} (host: {parts.pop()})")
    parts += [f"Python {platform.python_version()}", f"PyTorch {torch.__version__}"]
    parts += [f"transformers {version('transformers')}", f"{options.threads} thread(s)", options.precision]
    plain = {field.name: getattr(options, field.name) for field in fields(options)}
    return {"hardware": ", ".join(parts), "options": plain}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def ms(seconds: float) -> str:
    """Milliseconds with three significant digits or more."""
    value = seconds * 1e3
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def new_figure(width: float, height: float) -> Figure:
    """A figure without pyplot: no display, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic_write(path, buffer.getvalue())


def plain_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks at exactly these values, with plain numbers also on a logarithmic axis."""
    from matplotlib.ticker import NullLocator

    axis.set_ticks(list(values), [f"{value:g}" for value in values])
    axis.set_minor_locator(NullLocator())


def log_numbers(axis: Any) -> None:
    """Plain numbers 1, 2, 5, 10, ... on a logarithmic axis in place of powers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
