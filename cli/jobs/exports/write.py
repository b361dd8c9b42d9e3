"""The files of a student that ships, read back and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cli.jobs.exports.options import ExportOptions
from kd_env.core.files import without_infinities
from kd_env.core.types import Floats
from kd_env.data.loading import load_train
from kd_env.data.tables import Table
from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.judging.tables import JudgedTables, judged_tables
from kd_env.evaluation.shipping.card import model_card
from kd_env.evaluation.shipping.facts import INT8, ONNX, RECORD, STUDENT, TEACHER, Cost, Facts
from kd_env.evaluation.shipping.latency import Timed, batches, latencies
from kd_env.evaluation.shipping.loading import ONNX_FILES
from kd_env.evaluation.shipping.models import (
    input_names,
    inputs_of,
    megabytes,
    onnx_model,
    parameters,
    predict,
    read_classifier,
    torch_model,
    write_classifier,
)
from kd_env.evaluation.shipping.onnx_files import write_int8, write_onnx
from kd_env.evaluation.shipping.parity import Parity, parity, words
from kd_env.mdp.assets import label_width
from kd_env.mdp.problem import Problem
from kd_env.models.pretrained import load_tokenizer, local_folder
from kd_files.writing import atomic_write, write_json

_EXAMPLE_ROWS = 4


class Shipped(NamedTuple):
    """What was written, and what was found of it."""

    module: Any
    """The student as it is read back."""
    judged: JudgedTables
    logits: Mapping[str, Floats]
    """Its logits ``[R, C]`` by split."""
    costs: Mapping[str, Cost]
    parity: Mapping[str, Parity]


def write_files(student: Path, problem: Problem, folder: Path, options: ExportOptions) -> Shipped:
    """Write weights, tokenizer and ONNX files, and measure what was written.

    Args:
        student: folder that it was saved in.
        problem: that it was distilled in.
        folder: is there.
        options: of the command.

    Raises:
        ValueError: an ONNX file that says something else than the student.
    """
    judged = judged_tables(problem)
    write_classifier(student, folder, problem.task)
    module, table = read_classifier(str(folder)), judged.tables[SELECTION]
    names, model = input_names(module.config, load_tokenizer(str(folder))), torch_model(module)
    logits = {split: predict(model, each, names) for split, each in judged.tables.items()}
    files = _onnx_files(module, table, names, folder, options)
    for path in folder.rglob("*"):
        if path.is_file():  # weights are saved for their owner alone: a server under another name could not read them
            path.chmod(0o644)
    whole = {STUDENT: Timed(model, table, names)}
    timed = whole | {name: Timed(onnx_model(path), table, names) for name, path in files.items()}
    width, found = label_width(problem.task), dict[str, Parity]()
    for name in files:
        found[name] = parity(logits[SELECTION], predict(timed[name].model, table, names), width)
        print(f"{name}: {words(found[name])}", flush=True)
    if ONNX in found and not found[ONNX].difference <= options.tolerance:
        raise ValueError(
            f"The ONNX file says something else than the student: {words(found[ONNX])}, and "
            f"tolerance={options.tolerance:g}. Nothing is written; try another opset=..., raise tolerance=..., or "
            "leave out onnx=true."
        )
    costs = _costs(problem, module, timed, {STUDENT: folder, **files}, options)
    return Shipped(module, judged, logits, costs, found)


def write_texts(folder: Path, facts: Facts) -> None:
    """Write the card, and a record of what it says as plain values."""
    atomic_write(folder / "README.md", model_card(facts))
    write_json(folder / RECORD, without_infinities(dataclasses.asdict(facts)))


def _onnx_files(
    module: Any, table: Table, names: tuple[str, ...], folder: Path, options: ExportOptions
) -> dict[str, Path]:
    if not options.onnx:
        return {}
    files = {name: folder / path for name, path in ONNX_FILES.items() if name == ONNX or options.int8}
    files[ONNX].parent.mkdir()
    rows = next(table.chunks(_EXAMPLE_ROWS))
    write_onnx(module, inputs_of(table, rows, names), files[ONNX], options.opset)
    if options.int8:
        write_int8(files[ONNX], files[INT8])
    return files


def _costs(
    problem: Problem, module: Any, timed: Mapping[str, Timed], places: Mapping[str, Path], options: ExportOptions
) -> dict[str, Cost]:
    """Costs of the reference teacher and of every model of the student, by name."""
    source = local_folder(problem.reference.folder)
    teacher = read_classifier(str(source))
    names = input_names(teacher.config, problem.reference.tokenizer)
    everyone = {TEACHER: Timed(torch_model(teacher), _teacher_table(problem), names), **timed}
    total = batches(len(everyone), options.repeats)
    with tqdm(total=total, desc="timing", unit="batch", disable=not options.progress) as bar:
        times = latencies(everyone, options.repeats, bar.update)
    counts = {TEACHER: parameters(teacher), **dict.fromkeys(timed, parameters(module))}
    return {
        name: Cost(counts[name], megabytes(place), times[name]) for name, place in {TEACHER: source, **places}.items()
    }


def _teacher_table(problem: Problem) -> Table:
    """The selection rows in the tokens of the reference teacher."""
    if not problem.reference.foreign:
        return problem.selection
    texts = load_train(problem.task, problem.config.data_dir)
    return problem.tokenize(texts.select(problem.splits.selection, texts.labels), for_teacher=True)
