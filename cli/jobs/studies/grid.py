"""The cells of a pre-registered study: blocks of tasks by regimes by students, agents by controls by trainings in each.

A *problem* is what runs are compared on: a task under a regime with a student, in the environment of its block. Its
trainings are those of an ordinary study, in a folder of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from cli.jobs.studies.agents import agent_overrides, quoted
from cli.jobs.studies.planning import Kind, Known, check_controls, composed, expand, run_folders, seeds_of
from cli.jobs.studies.registration import Registration
from cli.jobs.studies.training import Training
from cli.settings.compose import compose
from cli.settings.read import agent_label
from kd_env.core.registry import unknown_name
from kd_env.data.tasks import EMBEDDED

_OF_THE_GRID = ("from", "controls", "steps")
"""Of an entry of ``agents`` in a study file, beside what one of an ordinary study has."""
_OF_FILES = ("task.data_dir=", "teacher.name_or_path=", "teacher.path=")
"""Options of the command line that an embedded task has no use for."""


@dataclass(frozen=True)
class Problem:
    """One problem, and what is trained on it."""

    name: str
    """Of its folder."""
    block: str
    task: str
    regime: str
    student: str | None
    """None: that of the task or experiment."""
    overrides: tuple[str, ...]
    """Of the main job, for every training."""
    agents: tuple[Mapping[str, Any], ...]
    values: Mapping[str, Any]
    """Of its block."""


@dataclass(frozen=True)
class Planned:
    """A problem with its trainings."""

    problem: Problem
    trainings: tuple[Training, ...]
    needs: tuple[tuple[Path, ...], ...]
    """Of each training, the run folders with whose policy it begins; at most one."""


def problems_of(registration: Registration) -> list[Problem]:
    """Every problem of the study, with the agents of its block and those that are transferred to it.

    Raises:
        ValueError: two problems of one name, or a transfer that names none or an agent that is not trained there.
    """
    found: dict[str, Problem] = {}
    for block in registration.blocks:
        students = block["students"] or [None]
        for task, regime, student in product(block["tasks"], block["regimes"], students):
            name = "-".join([block["name"], task, *([] if regime == "none" else [regime])])
            name += f"-{student}" if len(students) > 1 else ""
            if name in found:
                raise ValueError(f"{registration.place}: two problems would be called {name!r}; rename a block.")
            overrides = (
                *(
                    f"{key}={value}"
                    for key, value in (("task", task), ("regime", regime), ("student", student))
                    if value
                ),
                *registration.values.get("options", []),
                *block["options"],
                *block["by_task"].get(task, []),
                f"evaluation.seeds={block['seeds']}",
                *([] if block["rules"] is None else [f"evaluation.rules={quoted(block['rules'])}"]),
            )
            agents = tuple(map(_entry, block["agents"]))
            found[name] = Problem(name, block["name"], task, regime, student, overrides, agents, block)
    for transfer in registration.values.get("transfer", []):
        _add_transfer(found, transfer, registration.place)
    return list(found.values())


def kinds_of(
    registration: Registration, folder: Path, given: Sequence[str]
) -> list[tuple[Problem, list[tuple[Kind, dict[str, Any]]]]]:
    """Every problem with its kinds of trainings and their configurations; no file of a task is read.

    Args:
        registration: of the study.
        folder: of it; each problem has one in it.
        given: overrides of the command line, which change no number.

    Raises:
        ValueError: what does not fit, with the name of the problem.
    """
    problems = {problem.name: problem for problem in problems_of(registration)}
    first_seed = registration.values.get("first_seed", 0)
    found, known = [], Known()
    for problem in problems.values():
        count, kinds = problem.values["trainings"], list[Kind]()
        with _named(registration, problem):
            for entry in problem.agents:
                sources = _sources(entry, problems, folder, given, count, first_seed, known)
                controls = entry.get("controls", problem.values["controls"] if not sources else ["none"])
                kinds += [Kind(_overrides(problem, entry, control, given), sources) for control in controls]
            made = composed(kinds, known)
            check_controls(sorted({str(resolved["control"]) for _, resolved in made}), made[0][1]["evaluation"])
        found.append((problem, made))
    return found


def plan_grid(registration: Registration, folder: Path, given: Sequence[str], threads: int) -> list[Planned]:
    """The trainings of every problem, composed and checked; arguments as of :func:`kinds_of`.

    Raises:
        ValueError: as there, and what does not fit the files of a task.
    """
    return [
        plan_problem(registration, problem, kinds, folder, threads)
        for problem, kinds in kinds_of(registration, folder, given)
    ]


def plan_problem(
    registration: Registration,
    problem: Problem,
    kinds: Sequence[tuple[Kind, Mapping[str, Any]]],
    folder: Path,
    threads: int,
) -> Planned:
    """The trainings of one problem of :func:`kinds_of`; raises as :func:`plan_grid`."""
    count, first_seed = problem.values["trainings"], registration.values.get("first_seed", 0)
    with _named(registration, problem):
        place = folder / problem.name
        trainings = expand(kinds, place, trainings=count, first_seed=first_seed, threads=threads)
    needs = (kind.sources[index : index + 1] for kind, _ in kinds for index in range(count))
    return Planned(problem, tuple(trainings), tuple(needs))


@contextmanager
def _named(registration: Registration, problem: Problem) -> Iterator[None]:
    """Errors say which problem of which study they are of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"study={registration.place}: the problem {problem.name}: {error}") from error


def stages(planned: Sequence[Planned]) -> list[list[Training]]:
    """All trainings, in an order in which those with whose policies others begin come first.

    Raises:
        ValueError: a training begins with what no training of the study makes, or in a circle.
    """
    left = {
        training.folder: (training, needs)
        for one in planned
        for training, needs in zip(one.trainings, one.needs, strict=True)
    }
    every, done, found = set(left), set[Path](), list[list[Training]]()
    for folder, (_, needs) in left.items():
        for need in needs:
            if need not in every:
                raise ValueError(f"{folder} begins with the policy of {need}, which is no training of this study.")
    while left:
        ready = [folder for folder, (_, needs) in left.items() if done.issuperset(needs)]
        if not ready:
            raise ValueError(f"These trainings wait for one another: {', '.join(map(str, left))}.")
        found.append([left.pop(folder)[0] for folder in ready])
        done.update(ready)
    return found


def _overrides(problem: Problem, entry: Mapping[str, Any], control: str, given: Sequence[str]) -> tuple[str, ...]:
    """Of the main job, for the trainings of one agent under one control."""
    # A control has learned nothing to look into, and a policy as another problem learned it is looked into there.
    tried = problem.values["interventions"] if control == "none" and entry.get("steps") != 0 else []
    return (
        *problem.overrides,
        *agent_overrides({key: value for key, value in entry.items() if key not in _OF_THE_GRID}),
        *([f"total_timesteps={entry['steps']}"] if "steps" in entry else []),
        f"evaluation.interventions={quoted(tried)}",
        *(text for text in given if problem.task not in EMBEDDED or not text.startswith(_OF_FILES)),
        f"control={quoted(control)}",
    )


def _sources(
    entry: Mapping[str, Any],
    problems: Mapping[str, Problem],
    folder: Path,
    given: Sequence[str],
    count: int,
    first_seed: int,
    known: Known,
) -> tuple[Path, ...]:
    """The run folders with whose policies the trainings of an agent begin, one each; none where they begin as drawn."""
    source = entry.get("from")
    if source is None:
        return ()
    if not isinstance(source, Mapping) or {*source} != {"problem", "agent"}:
        raise ValueError(f"from={source!r} must be {{problem: ..., agent: ...}}, an agent of this study.")
    if source["problem"] not in problems:
        raise ValueError(f"from: {unknown_name('problem', str(source['problem']), problems)}")
    other = problems[source["problem"]]
    if other.values["trainings"] < count:
        raise ValueError(
            f"its {count} trainings begin with those of {other.name}, of which there are {other.values['trainings']}."
        )
    trained = _trained(other, source["agent"])
    ((_, resolved),) = composed([Kind(_overrides(other, trained, "none", given))], known)
    # As the folders of the trainings themselves are, whatever runs_dir is seen from.
    return tuple(run_folders(resolved, folder.absolute() / other.name, seeds_of(resolved, count, first_seed)))


def _entry(item: Any) -> Mapping[str, Any]:
    return item if isinstance(item, Mapping) else {"name": item}


def label_of(entry: Mapping[str, Any]) -> str:
    """What the tables call the agent of an entry: its label, or that of its preset."""
    return str(entry["label"]) if entry.get("label") else _preset_label(str(entry["name"]))


@cache
def _preset_label(name: str) -> str:
    return agent_label(compose("config", ("experiment=none", *agent_overrides({"name": name})))["agent"])


def _trained(problem: Problem, agent: str) -> Mapping[str, Any]:
    """The entry of an agent that a problem trains as it is drawn, by its label; raises ``ValueError`` for others."""
    labels = {label_of(entry): entry for entry in problem.agents if entry.get("from") is None}
    if agent not in labels:
        raise ValueError(unknown_name(f"agent of {problem.name}:", str(agent), labels))
    return labels[agent]


def _add_transfer(problems: dict[str, Problem], transfer: Mapping[str, Any], place: str) -> None:
    """To each of the named problems the policies that were learned on the others, as they are and continued."""
    agent, names = transfer["agent"], transfer["problems"]
    for name in names:
        if name not in problems:
            raise ValueError(f"{place}: transfer: {unknown_name('problem', str(name), problems)}")
    learned = {name: _trained(problems[name], agent) for name in names}
    for target in names:
        for source in names:
            if source == target:
                continue
            entry = {**learned[source], "from": {"problem": source, "agent": agent}}
            label = f"{agent}_from_{source}"
            added = [{**entry, "label": label, "steps": 0}]
            if transfer.get("continued", False):
                added.append({**entry, "label": f"{label}_continued"})
            problems[target] = replace(problems[target], agents=(*problems[target].agents, *added))
