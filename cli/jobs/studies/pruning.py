"""``pruning=median``: agents of a study that are worth less than the median at a pause are trained no further.

Whole agents, never single trainings of one: a study's trainings of an agent are a sample of what it may become, and an
agent of which only the good ones go on would be told better than it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from cli.jobs.kinds.paused import Paused, pause_seeds, read_paused
from cli.jobs.studies.decision import read_pruning
from cli.jobs.studies.training import Training
from cli.runs import folder as runs
from cli.runs.checkpoints import steps_made
from cli.settings.read import check, check_pause

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.comparison import Pruning

NONE, MEDIAN = "none", "median"
"""Values of ``pruning``."""
FEWEST = 3
"""Agents of which a median leaves one out and keeps more."""
_OTHER = "or choose another name with name=..."


def pausing(trainings: Sequence[Training], options: Mapping[str, Any]) -> list[Training]:
    """The trainings that pause: of the agents that learn, without rules that are searched and without controls.

    Args:
        trainings: of the study, the first with its rules.
        options: of the study; without pruning none pauses.

    Raises:
        ValueError: there are too few agents, or no checkpoints, or a pause does not fit.
    """
    if options["pruning"] == NONE:
        return []
    c = trainings[0].settings.resolved
    if c["env"].get("protocol") == "joint":
        raise ValueError(
            "pruning=median has trainings pause and go on, and with env.protocol=joint there are no checkpoints: leave "
            "pruning out, or set env.protocol=frozen."
        )
    free = [training for training in trainings if training.settings.resolved["control"] == "none"]
    learning = [training for training in free if training.settings.agent.name != "searched"]
    labels = list(dict.fromkeys(_label(training) for training in learning))
    if len(labels) < FEWEST:
        raise ValueError(
            f"pruning=median compares agents that learn (without controls), and agents=... names {len(labels)} of them "
            f"({', '.join(labels) or 'none'}): name at least {FEWEST}, or leave pruning out."
        )
    share, total = options["pruning_at"], c["total_timesteps"]
    at = math.ceil(share * total)
    if at == total:
        raise ValueError(f"pruning_at={share} of total_timesteps={total} is no step before the last; lower it.")
    found = [training.with_values("pause", at=at) for training in learning]
    for training in found:
        check_pause(training.settings.resolved, training.settings.evaluation_seeds)
    for label in labels:  # whoever is the first that goes on judges the rules; the first of all is checked with them
        first = next(training for training in found if _label(training) == label)
        if first.folder != trainings[0].folder:
            check(first.with_rules_of(trainings[0]).settings)
    return found


def decided(study: Path, options: Mapping[str, Any], paused: Sequence[Training]) -> Pruning | None:
    """The decision of a study that was made before; None where none was.

    Args:
        study: its folder.
        options: of it.
        paused: :func:`pausing`.

    Raises:
        ValueError: it was made for other options, or none was and a training has gone on since its pause.
    """
    pruning = read_pruning(study)
    if pruning is None:
        for training in paused:
            _refuse_later(training)
        return None
    if (options["pruning"], options["pruning_at"]) != (MEDIAN, pruning.share):
        raise ValueError(f"{study} was begun with pruning=median pruning_at={pruning.share}: give the same, {_OTHER}")
    agents = {_label(training) for training in paused}
    before = {agent.agent for agent in pruning.agents}
    if agents != before:
        raise ValueError(
            f"{study} was pruned among {', '.join(sorted(before))}, and agents=... names {', '.join(sorted(agents))}: "
            f"name the same, {_OTHER}"
        )
    if not set(pruning.seeds).isdisjoint(paused[0].settings.evaluation_seeds):
        raise ValueError(
            f"{study} was pruned by students of the seeds {pruning.seeds[0]} to {pruning.seeds[-1]}, and evaluation."
            "first_seed and evaluation.seeds take some of them for the report: choose others."
        )
    return pruning


def pause_words(paused: Sequence[Training]) -> str:
    """What happens first, for the progress."""
    labels, pause = dict.fromkeys(map(_label, paused)), paused[0].settings.resolved["pause"]
    return (
        f"At step {pause['at']} the trainings of {', '.join(labels)} pause and are judged on the selection rows by "
        f"{pause['seeds']} students each; agents below the median are trained no further."
    )


def unjudged(paused: Sequence[Training]) -> list[Training]:
    """Those that have not come to their pause, or are not judged there."""
    return [training for training in paused if _paused(training) is None]


def decide(study: Path, options: Mapping[str, Any], paused: Sequence[Training]) -> Pruning:
    """Prune the agents below the median; every training is judged at its pause."""
    from kd_env.evaluation.comparing.comparison import PausedAgent, Pruning

    agents: dict[str, list[tuple[Training, Paused]]] = {}
    for training in paused:
        found = _paused(training)
        assert found is not None, "its process has ended without an error"
        agents.setdefault(_label(training), []).append((training, found))
    values = {label: fmean(found.value for _, found in members) for label, members in agents.items()}
    middle = median(values.values())
    pause = paused[0].settings.resolved["pause"]
    return Pruning(
        study=study.name,
        share=options["pruning_at"],
        at=pause["at"],
        median=middle,
        seeds=pause_seeds(pause),
        agents=tuple(
            PausedAgent(
                agent=label,
                value=values[label],
                trainings=tuple(found.value for _, found in members),
                steps=tuple(found.steps for _, found in members),
                runs=tuple(training.folder.name for training, _ in members),
                pruned=values[label] < middle,
            )
            for label, members in agents.items()
        ),
    )


def going_on_with(trainings: Sequence[Training], pruning: Pruning | None) -> list[Training]:
    """Those that are not of a pruned agent, the first with the rules that the first of all had; its controls stay."""
    pruned = {agent.agent for agent in pruning.agents if agent.pruned} if pruning is not None else set()
    kept = [t for t in trainings if t.settings.resolved["control"] != "none" or _label(t) not in pruned]
    return kept if kept[0] is trainings[0] else [kept[0].with_rules_of(trainings[0]), *kept[1:]]


def _label(training: Training) -> str:
    return training.settings.agent.label


def _paused(training: Training) -> Paused | None:
    pause = training.settings.resolved["pause"]
    return read_paused(training.folder, pause["at"], pause_seeds(pause))


def _refuse_later(training: Training) -> None:
    """Refuse a training that was begun without its pause and has come to a later step."""
    at, before = training.settings.resolved["pause"]["at"], runs.begun_config(training.folder)
    steps = steps_made(training.folder)
    if before is not None and steps >= at and before.get("pause", {}).get("at") != at:
        raise ValueError(
            f"{training.folder} has made {steps} steps without the pause of pruning=median at step {at}: its agent "
            f"would be compared at a later step than others. Leave pruning out, {_OTHER}"
        )
