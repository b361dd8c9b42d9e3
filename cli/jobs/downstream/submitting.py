"""``kd-env glue submission=true`` and ``check=``: the files that the GLUE server takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.jobs.downstream.asked import MAJORITY, Asked
from cli.jobs.downstream.cells import Cell
from cli.settings.options import folder_name
from kd_env.data.files.places import find_tables
from kd_env.data.tasks import GLUE
from kd_env.evaluation.downstream import submission
from kd_env.evaluation.downstream.submission import FILES, ServerFile, answers, check_submission, file_text, zipped
from kd_files.writing import atomic_write

if TYPE_CHECKING:
    from kd_env.evaluation.downstream.unlabelled import SplitFacts

FOLDER, README = "submission", "README.md"
_REMEDY = "delete it, and it is made again"


class Source(NamedTuple):
    """Whose predictions a file holds."""

    cell: Cell
    record: Path
    found: Mapping[str, Any]
    """What the record says."""
    several: bool
    """Whether it was chosen among others."""


def check_files(value: Any, words: Sequence[str]) -> Path:
    """``kd-env glue check=<zip>``: say how a submission departs from what the GLUE server takes; its path.

    Raises:
        ValueError: it departs from it, nothing is there, or other options are given with it.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"check={value!r} must be a zip of predictions for the GLUE server, or a folder of its files.")
    if len(words) > 1:
        others = ", ".join(word.split("=", 1)[0] for word in words if not word.startswith("check="))
        raise ValueError(f"check={value} reads that alone; leave {others} out.")
    path = Path(value).expanduser()
    problems = check_submission(path)
    for problem in problems:
        print(problem, flush=True)
    if problems:
        raise ValueError(f"{path} is not what the GLUE server takes: {len(problems)} departures (above).")
    print(f"{path} has what the GLUE server takes: {', '.join(file.name for file in FILES)}.", flush=True)
    return path


def read_tests(asked: Asked, options: Mapping[str, Any]) -> dict[str, SplitFacts]:
    """Test splits that are there for the tasks, by title; empty where no predictions are asked for.

    Raises:
        ValueError: none is there, one that cannot be read, other rows than those of predictions that are kept, or
            names that are no names of folders.
    """
    if not options["submission"]:
        return {}
    from kd_env.evaluation.downstream.unlabelled import facts_of

    for name, _, _ in asked.cells:
        try:
            folder_name(name)
        except ValueError:
            raise ValueError(f"students={name!r}: with submission=true a name is that of a folder, too.") from None
    files = {file.title: file for cell in asked.every_cell for file in cell.tests(options)}
    if not files:
        wanted = ", ".join(f"{file.place}/{file.split}" for file in FILES if file.task in asked.tasks) or "of GLUE"
        raise ValueError(
            f"submission=true: data_dir={options['data_dir']!r} has no test split of {', '.join(asked.tasks)}; "
            f"expected {wanted} (parquet, csv, tsv, jsonl), whose labels may be absent or -1."
        )
    facts = {title: facts_of(file, options["data_dir"]) for title, file in files.items()}
    for cell in asked.every_cell:
        if cell.finished(options):
            _check_same_rows(cell, options, facts)
    return facts


def _check_same_rows(cell: Cell, options: Mapping[str, Any], facts: Mapping[str, SplitFacts]) -> None:
    """Refuse predictions that are kept, and belong to other rows than those that are there now."""
    for path, record in zip(cell.files(options), cell.records(options), strict=True):
        for file in cell.tests(options):
            if record["test"].get(file.title, {}).get("texts") != facts[file.title].texts:
                folder = cell.predicted(path, file.title).parent
                raise ValueError(
                    f"{folder} holds predictions for other rows than {file.place}/{file.split} has now; delete it, and "
                    "they are made again."
                )


def submit(asked: Asked, options: Mapping[str, Any], facts: Mapping[str, SplitFacts]) -> tuple[str, ...]:
    """Write folder and zip of each name; what came of it, in words.

    Raises:
        ValueError: predictions that cannot be read.
    """
    return tuple(
        _submit(name, asked, options, facts) for name in dict.fromkeys(name for name, _, _ in asked.cells if facts)
    )


def _submit(name: str, asked: Asked, options: Mapping[str, Any], facts: Mapping[str, SplitFacts]) -> str:
    sources = {task: _source(name, task, asked, options) for task in GLUE}
    contents, missing, lines = {}, {}, []
    for file in FILES:
        source = sources[file.task]
        if isinstance(source, str) or file.title not in facts:
            missing[file] = source if isinstance(source, str) else f"no {file.place}/{file.split} in data_dir"
            continue
        contents[file.name] = file_text(answers(file, _logits(source, file)))
        lines.append(f"| {file.name} | {facts[file.title].rows:,} | {_words(source, file)} |")
    filled = {}
    if options["submission_incomplete"] == MAJORITY:
        for file, why in missing.items():
            label, how = _filler(file, options["data_dir"])
            rows = facts[file.title].rows if file.title in facts else submission.ROWS[file.title]
            contents[file.name] = file_text([label] * rows)
            filled[file] = f"no predictions but {how}, {label}, in every line: {why}"
            lines.append(f"| {file.name} | {rows:,} | **{filled[file]}** |")
    folder = asked.folder / FOLDER / name
    contents = {file.name: contents[file.name] for file in FILES if file.name in contents}
    _write_files(folder, contents)
    told = _zip(folder, contents, {file: why for file, why in missing.items() if file not in filled})
    if filled:
        titles = ", ".join(file.title for file in filled)
        told += (
            f" {titles} hold no predictions but one label of train: what the server says of them, and its average, is "
        )
        told += f"no result of {name}."
    odd = [
        one.numbering for title, one in facts.items() if one.numbering and not isinstance(sources[_task(title)], str)
    ]
    if odd:
        told += f" Lines are numbered in the order of the test files, which is not what they say: {'; '.join(odd)}."
    head = f"# Predictions of {name} for the GLUE server\n\n{told}\n\n| file | rows | whose |\n| --- | --- | --- |\n"
    atomic_write(folder / README, head + "".join(f"{line}\n" for line in lines))
    return f"{name}: {told}"


def _task(title: str) -> str:
    return next(file.task for file in FILES if file.title == title)


def _source(name: str, task: str, asked: Asked, options: Mapping[str, Any]) -> Source | str:
    """The fine-tuning, or classifier, that selection rows prefer; or why there is none."""
    cells = [cell for (one, other, _), cell in asked.cells.items() if (one, other) == (name, task)]
    if not cells:
        return f"no model of {task}"
    if waiting := [cell.name for cell in cells if not cell.finished(options)]:
        return f"{', '.join(waiting)} not finished"
    found = [
        (cell, path, record)
        for cell in cells
        for path, record in zip(cell.files(options), cell.records(options), strict=True)
    ]
    if len(found) == 1:
        return Source(*found[0], False)
    if not all("selection" in record for _, _, record in found):
        return f"several classifiers of {task}, and no train split to choose one by: name each apart"
    if other := [str(cell.student.folder) for cell, _, record in found if record.get("cut") is False]:
        return (
            f"several classifiers of {task}, and {', '.join(other)} may have been trained on the selection rows that "
            "would choose: give the split_seed, feedback_rows and selection_rows of their training, or name each apart"
        )

    def worth(one: tuple[Cell, Path, Mapping[str, Any]]) -> tuple[float, float]:
        scores = one[2]["selection"]["selection"]
        return scores[GLUE[task].metrics[0]], -scores["loss"]

    return Source(*max(found, key=worth), True)


def _logits(source: Source, file: ServerFile) -> Any:
    from kd_files.reading import damaged
    from kd_files.tensors import read_tensors

    path = source.cell.predicted(source.record, file.title)
    logits = read_tensors(path, _REMEDY).get("logits")
    shape = (source.found["test"][file.title]["rows"], max(1, len(file.labels)))
    if logits is None or tuple(logits.shape) != shape:
        raise damaged(path, f"it holds no logits of {shape[0]} rows and {shape[1]} classes", _REMEDY)
    return logits.double().numpy()


def _words(source: Source, file: ServerFile) -> str:
    """Whose predictions, and why these."""
    found, task = source.found, GLUE[file.task]
    seed = f", fine-tuned with seed {found['seed']}" if "seed" in found else ""
    if not source.several:
        return f"{source.cell.student.folder}{seed}"
    scores = found["selection"]["selection"]
    metric = task.metrics[0]
    return f"{source.cell.student.folder}{seed}: the best {metric} on selection rows ({100 * scores[metric]:.1f})"


def _filler(file: ServerFile, data_dir: str | None) -> tuple[str, str]:
    """What stands in every line of a file without predictions, and what that is."""
    from kd_env.data.loading import load_train

    task = GLUE[file.task]
    if data_dir is not None and not find_tables(data_dir, file.task, "train"):
        return (file.labels[0], "the first label") if file.labels else ("2.500", "the middle of the scores")
    labels = load_train(task, data_dir).labels
    if not file.labels:
        return f"{labels.mean():.3f}", "the mean score of train"
    counts = [int((labels == place).sum()) for place in range(len(file.labels))]
    return file.labels[counts.index(max(counts))], "the most frequent label of train"


def _write_files(folder: Path, contents: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if file.name not in contents:
            (folder / file.name).unlink(missing_ok=True)
    for name, text in contents.items():
        atomic_write(folder / name, text)


def _zip(folder: Path, contents: Mapping[str, str], missing: Mapping[ServerFile, str]) -> str:
    """Write the zip where the server would take it, and none else; what came of it."""
    path = folder.with_name(f"{folder.name}.zip")
    path.unlink(missing_ok=True)  # of files that were otherwise
    if missing:
        told = "; ".join(f"{file.title} ({why})" for file, why in missing.items())
        return (
            f"No zip was made, for the server takes all {len(FILES)} files or none. Missing: {told}. Those that are "
            f"there lie in {folder}; submission_incomplete=majority fills the others with the most frequent label of "
            "train."
        )
    fresh = folder.with_name(f".{folder.name}.zip")
    atomic_write(fresh, zipped(contents))
    problems = check_submission(fresh, submission.ROWS)
    if problems:
        fresh.unlink()
        return f"No zip was made, for the server would not take it: {' '.join(problems)} The files lie in {folder}."
    fresh.replace(path)
    return f"{path} has all that the GLUE server takes (checked)."
