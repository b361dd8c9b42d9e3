"""``kd-env report``: runs, a study or a grid study as one HTML file, with its figures and tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.compare import find_runs, read_runs
from cli.jobs.pages.reading import problem_of, unfinished
from cli.jobs.studies.decision import is_pruned, prunings_of
from cli.jobs.studies.outcome import page_of, read_outcome
from cli.jobs.studies.record import STUDY, read_record
from cli.runs import folder as runs
from cli.settings.options import split_folders

if TYPE_CHECKING:
    from kd_env.evaluation.pages.contents import Problem, Study


def report(overrides: Sequence[str], command: str) -> Path:
    """``kd-env report runs/a [more folders or patterns]``; the page.

    Raises:
        ValueError: no run, a folder without results, runs that cannot be compared, or a report that is there.
    """
    from kd_env.evaluation.pages.write import FIGURES, PAGE, TABLES, write_page

    options, patterns = split_folders("report", overrides)
    if not patterns:
        raise ValueError("Name runs or a study: kd-env report runs/quick-study, or runs=[runs/a,runs/b].")
    out = _out(options, patterns)
    there = [out / name for name in (PAGE, FIGURES, TABLES) if (out / name).exists()]
    if out.is_file() or (there and not options["overwrite"]):
        raise ValueError(
            f"{there[0] if there else out} exists; replace the report with overwrite=true, or choose another place "
            "with out=..."
        )
    page = write_page(out, read_study(patterns, out, command))
    print(f"Written to {page}", flush=True)
    return page


def read_study(patterns: Sequence[str], out: Path, command: str) -> Study:
    """What folders of runs, of studies or of one grid study hold.

    Raises:
        ValueError: nothing that has results, or runs that cannot be compared.
    """
    from kd_env.evaluation.pages.contents import Study

    if len(patterns) == 1 and (Path(patterns[0]).expanduser() / STUDY).is_file():
        return _grid(Path(patterns[0]).expanduser(), out, command)
    folders, left_out, named = list[Path](), list[str](), list[str]()
    for pattern in patterns:
        place = Path(pattern).expanduser()
        if (place / STUDY).is_file():
            raise ValueError(f"{place} is a grid study, whose problems have a report of their own: name it alone.")
        if place.is_dir() and not (place / runs.CONFIG).is_file():
            done, missing = finished(place)
            folders += done
            left_out += missing
        else:
            named.append(pattern)
    folders += find_runs(named) if named else []
    folders = list({folder.resolve(): folder for folder in folders}.values())
    problem = _problem(folders, out)
    title = f"{Path(patterns[0]).name}: {problem.name}" if len(patterns) == 1 else problem.name
    return Study(title, command, (problem,), tuple(left_out))


def finished(study: Path) -> tuple[list[Path], list[str]]:
    """The runs of a study's folder that have results, and a sentence for each that has none yet.

    Raises:
        ValueError: none has.
    """
    begun = sorted(path.parent for path in study.glob(f"*/{runs.CONFIG}"))
    if not begun:
        raise ValueError(
            f"{study} holds neither a run ({runs.CONFIG}) nor runs in folders; name the folder of a run or of a study."
        )
    kept = [folder for folder in begun if not is_pruned(folder)]
    done = [folder for folder in kept if (folder / runs.RESULTS).is_file()]
    missing = [unfinished(folder) for folder in kept if folder not in done]
    if not done:
        raise ValueError(f"No run of {study} has results yet. {missing[0] if missing else ''}")
    return done, missing


def _problem(folders: Sequence[Path], out: Path, name: str | None = None) -> Problem:
    from dataclasses import replace

    from kd_env.evaluation.comparing.compare import compare

    read = read_runs(folders)
    return problem_of(read, replace(compare(read), prunings=prunings_of(folders)), out, name)


def _grid(folder: Path, out: Path, command: str) -> Study:
    record = read_record(folder)
    assert record is not None, "its file is there"
    done, left_out = dict[str, list[Path]](), list[str]()
    for entry in record["problems"]:
        place = folder / entry["folder"]
        if not place.is_dir() or not any(place.glob(f"*/{runs.RESULTS}")):
            left_out.append(f"{place} has no results yet and is left out: go on with the command of the study.")
            continue
        done[entry["folder"]], missing = finished(place)
        left_out += missing
    if not done:
        raise ValueError(f"No problem of {folder} has results yet. {left_out[0] if left_out else ''}")
    return page_of(record, read_outcome(record, done), out, command, left_out)


def _out(options: Mapping[str, Any], patterns: Sequence[str]) -> Path:
    if options["out"] is not None:
        return Path(str(options["out"])).expanduser()
    if len(patterns) == 1 and Path(patterns[0]).expanduser().is_dir():
        place = Path(patterns[0]).expanduser()
        return place / "report" if (place / runs.CONFIG).is_file() else place
    mark = hashlib.sha256("\n".join(sorted(patterns)).encode()).hexdigest()
    return Path(str(options["runs_dir"])).expanduser() / f"report-{mark[:10]}"
