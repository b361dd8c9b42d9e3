"""Time and memory of reading, cutting and tokenising tables of the size of QQP and MNLI, by rows.

Rows are made up: words as frequent as Zipf's law has them, and in pairs every third question repeats one of an earlier
row, so that rows hang together through questions as those of QQP do. Every cell runs in a process of its own. A stage
that takes n log n takes 2.1 times as long for twice as many rows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common
from benchmarks.children import answer, in_child
from benchmarks.growth import peak_resident, reset_peak, resident
from kd_env import DistillEnv, build_problem
from kd_env.core import checks
from kd_env.core.files import atomic_write
from kd_env.data.loading import get_task, load_train
from kd_env.data.splits import cut
from kd_env.data.tables import draw, make_buckets, start_stream, tokenize
from kd_env.decisions.options import env_config
from kd_env.models.pretrained import load_tokenizer

STAGES = {
    "read": "read the file",
    "cut": "cut by content",
    "tokenise": "tokenise",
    "epoch": "order of an epoch",
    "build": "all, with the teacher's logits",
    "step": "reset and step",
}
COLUMNS = {"pair": ["question1", "question2"], "single": ["sentence"]}


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 1
    """Processes of every cell; medians are reported."""
    rows: tuple[int, ...] = (100_000, 200_000, 400_000)
    """Rows of the official train split."""
    kinds: tuple[str, ...] = ("pair", "single")
    """``pair`` (two texts, as QQP) and ``single`` (one, as SST-2)."""
    words: int = 12
    """Words of a text on average."""
    vocab: int = 30522
    """Words of the vocabulary."""
    max_length: int = 64
    """Tokens a row is cut to."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "rows": common.each(checks.whole(2000)),
        "kinds": common.each(checks.one_of(*COLUMNS)),
        "words": checks.whole(2),
        "vocab": checks.whole(50),
        "max_length": checks.whole(8),
    }


def run(options: Options) -> common.Result:
    """Measure every cell in processes of its own."""
    rows = []
    for kind in options.kinds:
        for count in options.rows:
            common.progress(f"large_data: {kind}, {count} rows")
            found = [in_child("large_data", options, kind=kind, count=count) for _ in range(options.repeats)]
            medians = {name: float(np.median([each[name] for each in found])) for name in found[0]}
            spread = common.spread([each["build"] for each in found]) if len(found) > 1 else 0.0
            rows.append({"kind": kind, "rows": count, **medians, "spread": spread})
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Seconds of every stage, and memory."""
    lines = [
        [row["kind"], f"{row['rows']:,}", *(f"{row[stage]:.2f}" for stage in STAGES), f"{row['peak_mib']:.0f}"]
        for row in result["rows"]
    ]
    header = ["kind", "rows", *(f"{label}, s" for label in STAGES.values()), "peak, MiB"]
    return common.markdown(header, lines) + "\n\nPeak: resident memory of the whole process, imports included."


def plot(result: common.Result, path: Path) -> None:
    """Seconds of every stage by rows, beside n log n."""
    kinds = list(dict.fromkeys(row["kind"] for row in result["rows"]))
    figure = common.new_figure(4.2 * len(kinds), 3.6)
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds), sharey=True)), kinds, strict=True):
        rows = sorted((row for row in result["rows"] if row["kind"] == kind), key=lambda row: row["rows"])
        at = np.array([row["rows"] for row in rows])
        for stage, label in STAGES.items():
            axes.plot(at, [row[stage] for row in rows], "o-", label=label)
        axes.plot(at, rows[0]["build"] * at * np.log(at) / (at[0] * np.log(at[0])), "k:", label="n log n")
        axes.set_xscale("log")
        axes.set_yscale("log")
        common.plain_ticks(axes.xaxis, at.tolist())
        common.log_numbers(axes.yaxis)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("rows")
        axes.set_ylabel("s")
        axes.legend(fontsize=6)
        axes.grid(alpha=0.3)
    common.save_figure(figure, path)


def measure(options: Options, kind: str, count: int) -> dict[str, float]:
    """One cell, in a process that did nothing else: seconds of every stage, and MiB."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        spec = common.TaskSpec(options.vocab, options.max_length, 2, 64)
        given = common.write_task(Path(folder), spec) | {
            "columns": {"text": COLUMNS[kind], "label": "label", "kind": "classification", "labels": ["0", "1"]},
            "student": common.student_options(1, 64),
            "terms": ["hard_label", "soft_label"],
            "teacher_source": "online",  # outputs of all rows are another matter
            "feedback_rows": 512,
            "selection_rows": 512,
        }
        write_rows(Path(folder), options, kind, count)
        resident()  # give back what writing took
        reset_peak(torch.device("cpu"))
        seconds = _stages(given)
        times = {"build": time.perf_counter()}
        problem = build_problem(env_config(**given))
        times["step"] = time.perf_counter()
        env = DistillEnv(problem=problem)
        env.reset(seed=0)
        env.step(np.ones(env.action_space.shape, dtype=np.int8))
        ended = time.perf_counter()
    whole = {"build": times["step"] - times["build"], "step": ended - times["step"]}
    return {**seconds, **whole, "peak_mib": peak_resident() / 2**20}


def _stages(given: dict[str, Any]) -> dict[str, float]:
    """Seconds of the stages alone; what they make is given up before the whole is built."""
    seconds = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        made = call()
        seconds[name] = time.perf_counter() - begin
        return made

    task = get_task("custom", given["columns"], given["data_dir"])
    rows = timed("read", lambda: load_train(task, given["data_dir"]))
    splits = timed("cut", lambda: cut(rows, seed=0, feedback_rows=512, selection_rows=512))
    chosen = rows.select(splits.train, rows.labels)
    tokenizer = load_tokenizer(given["teacher"])
    cpu = torch.device("cpu")
    tokens = timed("tokenise", lambda: tokenize(chosen, tokenizer, given["max_length"], cpu, torch.float32))

    def epoch() -> None:
        buckets = make_buckets(tokens.lengths, 16)
        draw(buckets, start_stream(buckets, 0), 1)

    timed("epoch", epoch)
    return seconds


def write_rows(folder: Path, options: Options, kind: str, count: int) -> None:
    """The train split as JSON lines, in place of the few rows of the synthetic task."""
    rng = np.random.default_rng(0)
    columns = COLUMNS[kind]
    shape = (count, len(columns))
    lengths = rng.integers(options.words // 2, options.words + options.words // 2 + 1, size=shape)
    # Zipf's law: the word of rank r is drawn in proportion to 1 / r.
    cumulative = np.cumsum(1.0 / np.arange(1, options.vocab - 4))
    drawn = np.searchsorted(cumulative, rng.random(int(lengths.sum())) * cumulative[-1]) + 5
    ends = np.cumsum(lengths.ravel()).tolist()
    words = drawn.tolist()
    texts = [
        " ".join(f"w{word}" for word in words[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    if len(columns) > 1:
        repeated = np.flatnonzero(rng.random(len(texts)) < 1 / 3)
        for place in repeated[repeated > 0].tolist():
            texts[place] = texts[int(rng.integers(place))]
    labels = rng.integers(2, size=count).tolist()
    lines = (
        json.dumps(
            {
                **dict(zip(columns, texts[row * len(columns) : (row + 1) * len(columns)], strict=True)),
                "label": labels[row],
            }
        )
        for row in range(count)
    )
    atomic_write(folder / "train.jsonl", "\n".join(lines) + "\n")


if __name__ == "__main__":
    answer(Options, measure)
