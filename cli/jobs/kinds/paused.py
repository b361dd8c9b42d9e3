"""A training that pauses: its policy on the selection split, in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.common.storage import read_header
from cli.jobs.kinds.base import Job
from cli.jobs.progress import show_progress
from cli.runs.objective import gap_closed_together
from kd_files.manifest import check_manifest
from kd_files.reading import read_json
from kd_files.writing import new_folder, write_json

PAUSE, RESULT = "pause", "result.json"
"""Folder in a run folder, and the file in it."""


@dataclass(frozen=True)
class Paused:
    """What a policy was worth when its training paused."""

    at: int
    """Step of the training that was asked for."""
    steps: int
    """At which it came to its pause: the first report of its agent from there on."""
    seeds: tuple[int, ...]
    """Of the students, other ones than those of the report."""
    gap_closed: tuple[float, ...]
    """Of each student on the selection rows; -1 where it diverged."""
    gap_size: tuple[float, ...]
    """``D`` of each student there."""

    @property
    def value(self) -> float:
        """Gap closed by all students together."""
        return gap_closed_together(self.gap_closed, self.gap_size)


def pause_seeds(pause: Any) -> tuple[int, ...]:
    """Seeds of the students of a pause, from the section of the configuration."""
    return tuple(range(pause["first_seed"], pause["first_seed"] + pause["seeds"]))


def judge_pause(job: Job[Any, Any], problem: Any, checkpoint: Path) -> None:
    """Judge the policy in a checkpoint on the selection rows, write what it is worth and print it."""
    from kd_env.evaluation.judging.episodes import judge_on_selection
    from kd_env.evaluation.judging.results import SELECTION

    c, label = job.settings.resolved, job.settings.agent.label
    result = judge_on_selection(
        problem,
        label,
        job.trained(problem, checkpoint),
        pause_seeds(c["pause"]),
        deterministic=c["evaluation"]["deterministic"],
        progress=show_progress(1) if c["progress"] else None,
    )
    scores = result.splits[SELECTION]
    assert scores.gap_size is not None, "it was judged just now"
    paused = Paused(
        at=c["pause"]["at"],
        steps=int(read_header(checkpoint)["num_timesteps"]),
        seeds=pause_seeds(c["pause"]),
        gap_closed=tuple(scores.gap_closed.tolist()),
        gap_size=tuple(scores.gap_size.tolist()),
    )
    write_paused(job.settings.run_folder, paused)
    print(
        f"Paused at step {paused.steps}: {label} closes {paused.value:.3f} of the gap on the selection rows "
        f"({len(paused.seeds)} students). With pause.at=null and resume=true the training goes on.",
        flush=True,
    )


def write_paused(run: Path, paused: Paused) -> None:
    """Keep what a run was worth when it paused in its folder."""
    with new_folder(run / PAUSE) as folder:
        write_json(folder / RESULT, asdict(paused))


def read_paused(run: Path, at: int, seeds: Sequence[int]) -> Paused | None:
    """What a run was worth when it paused at a step, by students of some seeds; None where that is not known.

    Raises:
        DamagedFile: it is damaged.
    """
    folder = run / PAUSE
    if not folder.is_dir():
        return None
    remedy = f"delete {folder}, and the policy is judged again"
    check_manifest(folder, remedy)
    values = read_json(folder / RESULT, remedy, {"at": int, "steps": int, "seeds": list, "gap_closed": list})
    if "gap_size" not in values:  # of a former version, which weighed all students alike: it is judged again
        return None
    numbers = (tuple(values[key]) for key in ("seeds", "gap_closed", "gap_size"))
    paused = Paused(values["at"], values["steps"], *numbers)
    return paused if (paused.at, paused.seeds) == (at, tuple(seeds)) else None
