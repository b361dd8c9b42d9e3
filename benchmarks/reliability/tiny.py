"""Jobs of some seconds that the harnesses kill and damage, and what has to be the same after them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from kd_env.testing import tiny_task

_NUMBERS = {"results.json": "policies", "comparison.json": "entries"}
"""Files of results, and the key of what does not depend on where they are."""


class Job(NamedTuple):
    """One command of kd-env."""

    name: str
    words: tuple[str, ...]
    """With ``{runs}`` for the folder of its runs."""
    again: tuple[str, ...]
    """Added where it goes on."""
    folder: str
    """What it writes, in the folder of its runs."""
    first: str | None = None
    """Name of a job that has to be finished before."""

    def command(self, runs: Path, more: tuple[str, ...] = ()) -> list[str]:
        """The words of the command line."""
        return [word.replace("{runs}", str(runs)) for word in (*self.words, *more)]


def jobs(folder: Path) -> dict[str, Job]:
    """The jobs by name, on data that is written into ``folder``."""
    tiny = tiny_task(folder / "tiny")
    problem = (
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"cache_dir={folder / 'cache'}", "progress=false"),
        *("task.feedback_rows=32", "task.selection_rows=32"),
    )
    run = (
        *problem,
        *(f"teacher.path={tiny['teacher']}", "student=toy_small", "student.hidden_size=8", "runs_dir={runs}"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "num_envs=4", "total_timesteps=1024"),
        *("checkpoint_every=128", "evaluation.seeds=4", "evaluation.rules=[all,soft_label_only]", "threads=1"),
    )
    own = ("agent.options.n_steps=3",)  # no whole episodes: checkpoints stand in the middle of some
    dqn = ("agent=sb3/dqn", "agent.options.learning_starts=8", "agent.options.buffer_size=64")
    study = tuple(word for word in run if not word.startswith("threads"))
    teacher = (f"teacher.name_or_path={tiny['teacher']}", "output={runs}/teacher", "teacher.epochs=12", "threads=1")
    made = [
        Job("train", ("train", *run, *own, "name=run"), ("resume=true",), "run"),
        Job("dqn", ("train", *run, *dqn, "name=dqn"), ("resume=true",), "dqn"),
        Job("evaluate", ("evaluate", "run={runs}/run", "evaluation.seeds=40"), (), "run/evaluations/1", "train"),
        Job("teacher", ("teacher", *problem, *teacher), (), "teacher"),
        Job("study", ("study", *study, "agents=[actor_critic]", "trainings=2", "jobs=2", "name=study"), (), "study"),
    ]
    return {job.name: job for job in made}


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished folder holds, without times, places and how often it went on."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors" and "checkpoint" not in path.parts:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in _NUMBERS:
            try:
                rows = json.loads(path.read_bytes())[_NUMBERS[path.name]]
                found[name] = [{key: value for key, value in row.items() if key != "runs"} for row in rows]
            except (ValueError, LookupError, TypeError, AttributeError):
                found[name] = "not to be read"
    return found
