"""What a registered study found: a comparison for each problem, and what became of its hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.compare import read_runs
from cli.jobs.pages.reading import problem_of
from cli.jobs.studies.grid import Planned
from cli.jobs.studies.record import concluded
from kd_env.core.files import without_infinities
from kd_files.writing import atomic_write, write_json

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.comparison import Comparison
    from kd_env.evaluation.comparing.hypotheses import Hypothesis, Outcome
    from kd_env.evaluation.comparing.runs import Run
    from kd_env.evaluation.comparing.transfer import Transfer, TransferCell
    from kd_env.evaluation.pages.contents import Study

SUMMARY, NUMBERS = "study.md", "hypotheses.json"


def conclude(folder: Path, planned: Sequence[Planned], command: str) -> None:
    """Compare the finished cells of every problem, and write and print what the study shows so far."""
    from kd_env.evaluation.comparing.report import write_comparison
    from kd_env.evaluation.pages.write import write_page

    record = concluded(folder, planned)
    done = {one.problem.name: [training.folder for training in one.trainings if training.finished()] for one in planned}
    found = read_outcome(record, {name: folders for name, folders in done.items() if folders})
    for name, comparison in found.comparisons.items():
        write_comparison(folder / name, comparison, command)
    text = summary(record, found, command)
    atomic_write(folder / SUMMARY, text)
    numbers = [{**asdict(outcome), "verdict": outcome.verdict, "holds": outcome.holds} for outcome in found.outcomes]
    write_json(folder / NUMBERS, without_infinities({"hash": record["hash"], "hypotheses": numbers}))
    if found.comparisons:
        write_page(folder, page_of(record, found, folder, command))
    print(f"{text}\nWritten to {folder / SUMMARY}", flush=True)


@dataclass(frozen=True)
class Found:
    """What the finished cells of a study show."""

    runs: Mapping[str, Sequence[Run]]
    """By problem."""
    comparisons: Mapping[str, Comparison]
    outcomes: Sequence[Outcome]
    transfer: Sequence[TransferCell]


def read_outcome(record: Mapping[str, Any], folders: Mapping[str, Sequence[Path]]) -> Found:
    """Read the finished runs of every problem, and what became of the hypotheses that the record holds.

    Raises:
        ValueError: runs of one problem that cannot be compared.
    """
    from kd_env.evaluation.comparing.compare import compare
    from kd_env.evaluation.comparing.hypotheses import outcomes
    from kd_env.evaluation.comparing.transfer import transfer_cells

    read = {name: read_runs(list(each)) for name, each in folders.items()}
    comparisons = {name: compare(each) for name, each in read.items()}
    found = outcomes(hypotheses_of(record), read, comparisons)
    return Found(read, comparisons, found, transfer_cells(transfers_of(record), read, comparisons))


def page_of(record: Mapping[str, Any], found: Found, out: Path, command: str, left_out: Sequence[str] = ()) -> Study:
    """The report of a study as its parts.

    Args:
        record: of its registration.
        found: by its finished cells.
        out: folder of the report.
        command: how the job was called.
        left_out: sentences about runs without results.
    """
    from kd_env.evaluation.pages.contents import Registration, Study

    problems = [problem_of(found.runs[name], each, out, name) for name, each in found.comparisons.items()]
    departures = tuple(map(str, record["departures"]))
    registration = Registration(str(record["hash"]), str(record["registered"]), departures)
    return Study(
        str(record["name"]),
        command,
        tuple(problems),
        tuple(left_out),
        registration,
        tuple(found.outcomes),
        tuple(found.transfer),
    )


def hypotheses_of(record: Mapping[str, Any]) -> list[Hypothesis]:
    """The hypotheses of a study; where one names no problems, it is about all of its block that have the agent."""
    from kd_env.evaluation.comparing.hypotheses import BEST_RULE, Hypothesis

    found = []
    for one in record["registration"]["hypotheses"]:
        block = [
            str(problem["folder"])
            for problem in record["problems"]
            if problem["block"] == one["block"] and one["agent"] in problem["agents"]
        ]
        problems = tuple(one.get("problems", block))
        found.append(Hypothesis(one["name"], one["says"], one["agent"], one.get("above", BEST_RULE), problems))
    return found


def transfers_of(record: Mapping[str, Any]) -> list[Transfer]:
    """Policies of one problem on another, as the record of a study holds them."""
    from kd_env.evaluation.comparing.transfer import Transfer

    return [
        Transfer(one["agent"], one["source"], problem["folder"], one["label"], one["continued"])
        for problem in record["problems"]
        for one in problem["transfers"]
    ]


def summary(record: Mapping[str, Any], found: Found, command: str) -> str:
    """Markdown: departures first, then the verdict, the hypotheses, and the headline of every problem."""
    from kd_env.evaluation.comparing.hypotheses import table, verdict
    from kd_env.evaluation.comparing.transfer import matrices

    registration = record["registration"]
    blocks = [
        *record["departures"],
        verdict(found.outcomes),
        f"Study {record['name']}, registered as {record['hash'][:12]} on {record['registered']}, before any cell.",
        f"Primary: {registration['primary']}. Units: {registration['units']}. Smallest difference that matters: "
        f"{registration['smallest_difference']}. Stopping: {registration['stopping']}",
        f"```sh\n{command}\n```",
        table(found.outcomes),
        *(f"- {one.hypothesis.name}: {one.hypothesis.says}" for one in found.outcomes),
        *(f"{title}\n\n{_markdown([header, *rows])}" for title, header, rows in matrices(found.transfer)),
        "Every problem, by itself:",
        *(f"- `{name}`: {each.headline or 'no rule was judged.'}" for name, each in found.comparisons.items()),
    ]
    return "\n\n".join(blocks) + "\n"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([header, "| --- " * len(lines[0]) + "|", *rows])
