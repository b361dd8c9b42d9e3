"""What a registered study found: a comparison for each problem, and what became of its hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.compare import read_runs
from cli.jobs.studies.grid import Planned
from cli.jobs.studies.record import concluded
from kd_env.core.files import without_infinities
from kd_files.writing import atomic_write, write_json

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.comparison import Comparison
    from kd_env.evaluation.comparing.hypotheses import Hypothesis, Outcome

SUMMARY, NUMBERS = "study.md", "hypotheses.json"


def conclude(folder: Path, planned: Sequence[Planned], command: str) -> None:
    """Compare the finished cells of every problem, and write and print what the study shows so far."""
    from kd_env.evaluation.comparing.compare import compare
    from kd_env.evaluation.comparing.hypotheses import outcomes
    from kd_env.evaluation.comparing.report import write_comparison

    record = concluded(folder, planned)
    judged, comparisons = {}, {}
    for one in planned:
        done = [training.folder for training in one.trainings if training.finished()]
        if done:
            judged[one.problem.name] = read_runs(done)
            comparisons[one.problem.name] = compare(judged[one.problem.name])
            write_comparison(folder / one.problem.name, comparisons[one.problem.name], command)
    found = outcomes(hypotheses_of(record["registration"], planned), judged, comparisons)
    text = summary(record, found, comparisons, command)
    atomic_write(folder / SUMMARY, text)
    numbers = [{**asdict(outcome), "verdict": outcome.verdict, "holds": outcome.holds} for outcome in found]
    write_json(folder / NUMBERS, without_infinities({"hash": record["hash"], "hypotheses": numbers}))
    print(f"{text}\nWritten to {folder / SUMMARY}", flush=True)


def hypotheses_of(registration: Mapping[str, Any], planned: Sequence[Planned]) -> list[Hypothesis]:
    """The hypotheses of a study; where one names no problems, it is about all of its block that have the agent."""
    from kd_env.evaluation.comparing.hypotheses import BEST_RULE, Hypothesis

    found = []
    for one in registration["hypotheses"]:
        block = [
            each.problem.name
            for each in planned
            if each.problem.block == one["block"]
            and any(training.settings.agent.label == one["agent"] for training in each.trainings)
        ]
        problems = tuple(one.get("problems", block))
        found.append(Hypothesis(one["name"], one["says"], one["agent"], one.get("above", BEST_RULE), problems))
    return found


def summary(
    record: Mapping[str, Any], found: Sequence[Outcome], comparisons: Mapping[str, Comparison], command: str
) -> str:
    """Markdown: departures first, then the verdict, the hypotheses, and the headline of every problem."""
    from kd_env.evaluation.comparing.hypotheses import table

    registration = record["registration"]
    held = [outcome.hypothesis.name for outcome in found if outcome.holds]
    verdict = (
        f"{len(held)} of {len(found)} hypotheses hold: {', '.join(held)}."
        if held
        else f"None of the {len(found)} hypotheses holds: nothing learned is shown to be above the best rules."
    )
    blocks = [
        *record["departures"],
        verdict,
        f"Study {record['name']}, registered as {record['hash'][:12]} on {record['registered']}, before any cell.",
        f"Primary: {registration['primary']}. Units: {registration['units']}. Smallest difference that matters: "
        f"{registration['smallest_difference']}. Stopping: {registration['stopping']}",
        f"```sh\n{command}\n```",
        table(found),
        *(f"- {one.hypothesis.name}: {one.hypothesis.says}" for one in found),
        "Every problem, by itself:",
        *(f"- `{name}`: {comparison.headline or 'no rule was judged.'}" for name, comparison in comparisons.items()),
    ]
    return "\n\n".join(blocks) + "\n"
