"""The trials of a search: what each tries and is worth, kept in the folder of the search, and proposed by Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cli.jobs.tuning.space import distributions
from kd_files.reading import check_keys, read_json
from kd_files.writing import write_json

FILE = "trials.json"
OPEN, COMPLETE, PRUNED, FAILED = "open", "complete", "pruned", "failed"
"""States of a trial."""
FEWEST = 5
"""Complete trials before one is pruned."""
_REMEDY = "delete it, and the search begins anew, or choose another name with name=..."
_TRIAL = {"options": dict, "values": list, "state": str}


@dataclass
class Trial:
    """One set of options."""

    options: dict[str, Any]
    """By name; none are set where there are none."""
    values: list[float] = field(default_factory=list)
    """Gap closed on the selection rows by all students together, after each stage that it came to."""
    state: str = OPEN


@dataclass(frozen=True)
class Search:
    """What makes two searches the same one."""

    search: dict[str, Any]
    stages: tuple[int, ...]
    """Environment steps."""
    seeds: tuple[int, ...]
    """Of the trainings of a trial."""
    search_seed: int
    value: str = "gap_closed_together"
    """What trials are compared by: a former version compared others, which cannot stand beside these."""


def read_trials(folder: Path, search: Search) -> list[Trial]:
    """The trials of a search that was begun before; none where none was.

    Raises:
        DamagedFile: their file is damaged.
        ValueError: they are of another search.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    values = read_json(path, _REMEDY, {"search": dict, "trials": list})
    now = plain(search)
    if "value" not in values["search"]:
        raise ValueError(
            f"{folder} holds a search of a former version, which compared plain means over students: {_REMEDY}."
        )
    changed = [key for key in now if values["search"].get(key) != now[key]]
    if changed:
        raise ValueError(
            f"{folder} holds a search of other {', '.join(changed)}: give the same, or choose another name with "
            "name=..."
        )
    for trial in values["trials"]:
        check_keys(path, trial, _TRIAL, _REMEDY)
    return [Trial(**{key: trial[key] for key in _TRIAL}) for trial in values["trials"]]


def write_trials(folder: Path, search: Search, trials: Sequence[Trial]) -> None:
    """Keep the trials of a search."""
    write_json(folder / FILE, {"search": plain(search), "trials": [asdict(trial) for trial in trials]})


def propose(search: Search, trials: Sequence[Trial], count: int) -> list[Trial]:
    """New trials by what those before were worth: the same ones for the same past.

    The first of all is the agent as it is, with none of the options: a search says whether it found something better.

    Args:
        search: which.
        trials: before, none of them open.
        count: of the new ones.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=search.search_seed + len(trials))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = distributions(search.search)
    states = {COMPLETE: "COMPLETE", PRUNED: "PRUNED", FAILED: "FAIL"}
    for trial in trials:
        study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState[states[trial.state]],
                params=trial.options,
                distributions={name: known[name] for name in trial.options},
                value=trial.values[-1] if trial.state == COMPLETE else None,
                intermediate_values=dict(zip(search.stages, trial.values, strict=False)),
            )
        )
    first = [] if trials else [Trial({})]
    return first + [Trial(dict(study.ask(known).params)) for _ in range(count - len(first))]


def is_behind(trial: Trial, others: Sequence[Trial]) -> bool:
    """Whether a trial is worth less than the median of complete ones after the same stage (Optuna's MedianPruner)."""
    import optuna

    stage = len(trial.values) - 1
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FEWEST)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for other in others:
        if other.state == COMPLETE:
            worth = dict(enumerate(other.values))
            study.add_trial(optuna.create_trial(value=other.values[-1], intermediate_values=worth))
    asked = study.ask()
    asked.report(trial.values[stage], stage)
    return bool(asked.should_prune())


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial that is worth most; None where there is none."""
    return max((trial for trial in trials if trial.state == COMPLETE), key=lambda trial: trial.values[-1], default=None)


def plain(search: Search) -> dict[str, Any]:
    """A search as its file holds it."""
    values: Mapping[str, Any] = asdict(search)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
