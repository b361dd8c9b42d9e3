"""A step of the tutor's environment: against a hand-written loop, one slot at a time, and its memory.

*Joint*: the time of a step over that of a plain PyTorch loop with the same two passes of the teacher and the same
update of the student, on the same texts with the same tokens; the loop is given its slots, the environment draws them
as well. Losses, rewards and students are required to agree first. *Sequential*: the time of a whole text, slot by slot,
over that of a joint step. Ratios are medians over rounds, with the least and the greatest. *Memory*: what one joint
step needs above what was held before it, beside the logits of every token and those of the slots; each loop in a
process of its own (resident memory on a CPU, the allocator's on CUDA).

``text`` is the embedded text with its packaged teacher, or any ``text`` with ``encoder``; ``random`` are rows of random
words with a random teacher.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from benchmarks import common, growth
from benchmarks.bare_tutor import LOOPS, agree, next_text, start
from benchmarks.children import answer, in_child
from kd_env.core import checks
from kd_env.core.files import atomic_write
from kd_env.data.toy import masked_lm_folder
from kd_env.decisions.options import env_config
from kd_env.envs.build import build_problem
from kd_env.envs.environments import TutorTokenEnv
from kd_env.mdp.problem import Problem
from kd_env.models.architecture import new_encoder

AIM = 1.15
SETTINGS = ("text", "random")
HELD_OUT = 16
"""Feedback rows, and as many selection rows, of random text; none is evaluated while a step is timed."""
CHECKED = 4
"""Updates of both loops that are compared before anything is timed."""


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    settings: tuple[str, ...] = SETTINGS
    """Texts and teachers: ``text``, ``random``."""
    text: str = "toy"
    """Of ``text``: ``toy``, a GLUE task or a folder of text files."""
    data_dir: str = ""
    """Folder of GLUE, for a task of it."""
    encoder: str = ""
    """Folder of a masked language model (BERT); empty takes the packaged one."""
    hidden: tuple[int, ...] = (32, 128)
    """Widths of the student, multiples of the teacher's heads."""
    layers: int = 1
    """Layers of the student."""
    batch: tuple[int, ...] = (16,)
    """Rows of a batch."""
    length: tuple[int, ...] = (64,)
    """Tokens of random rows; other rows are cut to the greatest."""
    vocab: int = 30522
    """Words of random text."""
    teacher_layers: int = 2
    """Layers of the random teacher."""
    teacher_hidden: int = 128
    """Width of the random teacher."""
    teacher_every: tuple[int, ...] = (1, 2, 4)
    """Slots between two passes of the teacher, one at a time; all slots of a row are measured as well."""
    memory_batch: int = 128
    """Rows of the step whose memory is measured."""
    memory_length: int = 128
    """Tokens of its rows, which are random."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "settings": common.each(checks.one_of(*SETTINGS)),
        "text": checks.text,
        "data_dir": checks.text,
        "encoder": checks.text,
        "hidden": common.each(checks.whole(8)),
        "layers": checks.whole(1),
        "batch": common.each(checks.whole(1)),
        "length": common.each(checks.whole(8)),
        "vocab": checks.whole(50),
        "teacher_layers": checks.whole(1),
        "teacher_hidden": checks.whole(8),
        "teacher_every": common.each(checks.whole(1)),
        "memory_batch": checks.whole(1),
        "memory_length": checks.whole(8),
    }

    def check(self) -> None:
        """See the base class; a text needs a teacher, and students of random ones have as many heads as these."""
        super().check()
        if not self.encoder and masked_lm_folder(self.text) is None:
            raise ValueError(f"text={self.text!r} comes without a teacher; give encoder=<folder of a masked BERT>.")
        heads = common.heads(self.teacher_hidden)
        for width in self.hidden:
            if width % heads:
                checks.refuse("hidden", width, f"a multiple of the {heads} heads of a teacher of {self.teacher_hidden}")


class Cell(NamedTuple):
    """What is measured at a time."""

    setting: str
    hidden: int
    batch: int
    length: int


def run(options: Options) -> common.Result:
    """Measure every cell, then memory."""
    rows: list[dict[str, Any]] = []
    for setting in options.settings:
        lengths = options.length if setting == "random" else (max(options.length),)
        for length, batch, hidden in itertools.product(lengths, options.batch, options.hidden):
            rows += _measure(options, Cell(setting, hidden, batch, length))
    memory = []
    for loop in LOOPS:
        common.progress(f"tutor_step: memory of {loop}")
        memory.append(_in_child(options, loop))
    return {"rows": rows, "memory": memory, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Joint steps, sequential texts, memory."""
    joint = [row for row in result["rows"] if row["mode"] == "joint"]
    sequential = [row for row in result["rows"] if row["mode"] == "sequential"]
    header = ["text", "tokens", "vocabulary", "batch", "slots", "hidden"]
    one = common.markdown(
        [*header, "bare loop, ms", "env step, ms", "ratio", "least to greatest", "loss difference"],
        [
            [
                *_place(row),
                common.ms(row["base"]),
                common.ms(row["seconds"]),
                *_ratio(row),
                f"{row['loss_difference']:.0e}",
            ]
            for row in joint
        ],
    )
    other = common.markdown(
        [*header, "teacher_every", "teacher passes", "ms a text", "over joint", "least to greatest"],
        [
            [
                *_place(row),
                str(row["teacher_every"]),
                str(row["passes"]),
                common.ms(row["seconds"]),
                *_ratio(row),
            ]
            for row in sequential
        ],
    )
    sizes = [
        ["logits of every token", f"{result['memory'][0]['whole_mib']:.0f}"],
        ["logits at the slots", f"{result['memory'][0]['slots_mib']:.0f}"],
        *([f"one step, {row['loop']}", f"{row['step_mib']:.0f}"] for row in result["memory"]),
    ]
    given, slots = result["facts"]["options"], result["memory"][0]["slots"]
    memory = common.markdown(["memory", "MiB"], sizes)
    return (
        f"{one}\n\nAim: a ratio of at most {AIM:.2f}. No evaluation in either.\n\n{other}\n\nA joint step takes two "
        f"passes of the teacher.\n\n{memory}\n\nBatch {given['memory_batch']}, length {given['memory_length']}, "
        f"{slots} slots, vocabulary {given['vocab']}, hidden {given['hidden'][0]}."
    )


def plot(result: common.Result, path: Path) -> None:
    """Ratios of joint steps, cost of sequential texts, memory."""
    figure = common.new_figure(12.0, 3.8)
    ratios, costs, memory = figure.subplots(1, 3)
    joint = [row for row in result["rows"] if row["mode"] == "joint"]
    labels = [f"{row['setting']}\n{row['tokens']:.0f} x {row['batch']}\nhidden {row['hidden']}" for row in joint]
    for at, row in enumerate(joint):
        low, high = row["ratio"] - row["ratio_min"], row["ratio_max"] - row["ratio"]
        ratios.errorbar([at], [row["ratio"]], yerr=[[low], [high]], fmt="o", color="C0", capsize=3)
        own = [r for r in result["rows"] if r["mode"] == "sequential" and r["cell"] == row["cell"]]
        label = labels[at].replace("\n", ", ")
        costs.plot([r["passes"] for r in own], [r["ratio"] for r in own], "o-", label=label)
    ratios.axhline(AIM, color="black", linestyle=":", label=f"aim {AIM:.2f}")
    ratios.set_xticks(range(len(joint)), labels, fontsize=7)
    ratios.set_ylabel("env step / bare loop")
    costs.set_xlabel("teacher passes a text")
    costs.set_ylabel("sequential text / joint step")
    for axes in (ratios, costs):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    first = result["memory"][0]
    names = ["logits of\nevery token", "logits at\nthe slots", *(f"step,\n{row['loop']}" for row in result["memory"])]
    memory.bar(names, [first["whole_mib"], first["slots_mib"], *(row["step_mib"] for row in result["memory"])])
    memory.tick_params(axis="x", labelsize=7)
    memory.set_ylabel("MiB")
    common.save_figure(figure, path)


def _place(row: Mapping[str, Any]) -> list[str]:
    return [
        row["setting"],
        f"{row['tokens']:.0f}",
        str(row["vocab"]),
        str(row["batch"]),
        str(row["slots"]),
        str(row["hidden"]),
    ]


def _ratio(row: Mapping[str, Any]) -> list[str]:
    return [f"**{row['ratio']:.3f}**", f"{row['ratio_min']:.3f} to {row['ratio_max']:.3f}"]


# -- time --------------------------------------------------------------------------------------------------------------


def _measure(options: Options, cell: Cell) -> list[dict[str, Any]]:
    """The row of the joint mode, and one for every way to go on slot by slot."""
    common.progress(f"tutor_step: {cell.setting}, hidden {cell.hidden}, batch {cell.batch}, length {cell.length}")
    problem = build(options, cell)
    slots, texts = problem.reader.slots, _actions(problem)
    joint, bare = start(problem)
    worst = agree(joint, bare, [next(texts) for _ in range(CHECKED)], options.precision)
    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: bare.step(next_text(joint), next(texts)),
        "joint": lambda: joint.step(next(texts).ravel()),
    }
    every = sorted({min(count, slots) for count in options.teacher_every} | {slots})
    for count in every:
        env = TutorTokenEnv(problem=problem, mode="sequential", teacher_every=count)
        env.reset(seed=0)
        calls[f"sequential {count}"] = lambda env=env: _whole_text(env, next(texts))  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in calls}
    clocks = {name: _remembered(common.clocked(call, problem.device), times[name]) for name, call in calls.items()}
    spread = common.interleaved(clocks, options.repeats).spread
    shared = {
        **cell._asdict(),
        "cell": "-".join(map(str, cell)),
        "tokens": float(problem.train.lengths.mean()),
        "vocab": problem.reader.model.facts.vocab_size,
        "slots": slots,
        "spread": spread,
    }
    rows = [{**shared, "mode": "joint", "passes": 2, "loss_difference": worst, **_over(times["joint"], times["bare"])}]
    for count in every:
        passes = 2 + (slots - 1) // count
        found = _over(times[f"sequential {count}"], times["joint"])
        rows.append({**shared, "mode": "sequential", "teacher_every": count, "passes": passes, **found})
    return rows


def _over(times: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Medians of both, and their ratio round by round, without the first, which does not count."""
    ratios = np.asarray(times[1:]) / np.asarray(base[1:])
    return {
        "seconds": float(np.median(times[1:])),
        "base": float(np.median(base[1:])),
        "ratio": float(np.median(ratios)),
        "ratio_min": float(ratios.min()),
        "ratio_max": float(ratios.max()),
    }


def _remembered(call: Callable[[], float], times: list[float]) -> Callable[[], float]:
    def run() -> float:
        times.append(call())
        return times[-1]

    return run


def _whole_text(env: TutorTokenEnv, tokens: np.ndarray) -> None:
    for slot in range(tokens.shape[1]):
        env.step(tokens[:, slot])


# -- problems ----------------------------------------------------------------------------------------------------------


def build(options: Options, cell: Cell) -> Problem:
    """The problem of a cell, without evaluations, in episodes that do not end while they are measured."""
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as folder:
        if cell.setting == "random":
            given = write_text(Path(folder), options, cell)
        else:
            teacher = options.encoder or masked_lm_folder(options.text)
            given = {"text": options.text, "data_dir": options.data_dir or None, "teacher": str(teacher)}
        heads = int(AutoConfig.from_pretrained(given["teacher"], trust_remote_code=False).num_attention_heads)
        student = {"num_hidden_layers": options.layers, "hidden_size": cell.hidden, "num_attention_heads": heads}
        return build_problem(
            env_config(
                decision="tutor_token",
                **given,
                student=student,
                max_length=cell.length,
                batch_size=cell.batch,
                evaluation_rows=HELD_OUT,
                evaluate_every=0,
                budget=100_000,
                optimizer={"learning_rate": 1e-4, "warmup": 0.0},
                precision=options.precision,
                device=options.device,
            )
        )


def write_text(folder: Path, options: Options, cell: Cell) -> dict[str, Any]:
    """Write full-length rows of random words and a random masked language model; the options that name them."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(f"w{index}" for index in range(len(special), options.vocab))]
    config = BertConfig(
        vocab_size=options.vocab,
        hidden_size=options.teacher_hidden,
        num_hidden_layers=options.teacher_layers,
        num_attention_heads=common.heads(options.teacher_hidden),
        intermediate_size=4 * options.teacher_hidden,
        max_position_embeddings=cell.length,
    )
    with common.no_bars():
        new_encoder(BertForMaskedLM, config).save_pretrained(folder / "teacher")
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder / "teacher")
    # A tenth of a folder's texts is held back for reports.
    count = 4 * (cell.batch + HELD_OUT)
    drawn = np.random.default_rng(0).integers(len(special), options.vocab, size=(count, cell.length - 2))
    lines = [" ".join(words[token] for token in row) for row in drawn]
    (folder / "text").mkdir()
    atomic_write(folder / "text" / "lines.txt", "\n".join(lines) + "\n")
    held_out = {"feedback_rows": HELD_OUT, "selection_rows": HELD_OUT}
    return {"text": str(folder / "text"), "teacher": str(folder / "teacher"), **held_out}


def _actions(problem: Problem) -> itertools.cycle[np.ndarray]:
    """Random ordinary tokens ``[B, P]``, drawn beforehand."""
    rng = np.random.default_rng(0)
    shape = (16, problem.config.batch_size, problem.reader.slots)
    return itertools.cycle(rng.choice(problem.reader.tokens.candidates, size=shape))


# -- memory ------------------------------------------------------------------------------------------------------------


def measure_memory(options: Options, loop: str) -> dict[str, Any]:
    """In a process that did nothing else: MiB that one step of the environment or of the loop needs."""
    torch.set_num_threads(options.threads)
    cell = Cell("random", options.hidden[0], options.memory_batch, options.memory_length)
    problem = build(options, cell)
    env, bare = start(problem)
    tokens = next(_actions(problem))
    step: Callable[[], object] = (
        (lambda: env.step(tokens.ravel())) if loop == "env" else (lambda: bare.step(next_text(env), tokens))
    )
    step()  # what is made once, for all steps, is no part of one
    device = problem.device
    on_gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated(device) if on_gpu else growth.resident()
    growth.reset_peak(device)
    step()
    common.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else growth.peak_resident()
    vectors = {"whole_mib": cell.batch * cell.length, "slots_mib": cell.batch * problem.reader.slots}
    sizes = {name: count * problem.reader.model.facts.vocab_size * 4 / 2**20 for name, count in vectors.items()}
    return {"loop": loop, "slots": problem.reader.slots, "step_mib": (peak - held) / 2**20, **sizes}


def _in_child(options: Options, loop: str) -> dict[str, Any]:
    return in_child("tutor_step", options, loop=loop)


if __name__ == "__main__":
    answer(Options, measure_memory)
