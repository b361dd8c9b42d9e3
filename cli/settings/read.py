"""The resolved configuration as checked options of the parts: environment, teacher, agent, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.runs import folder as runs
from cli.runs.former import with_former_rate
from cli.runs.paths import with_absolute_paths
from cli.settings.controls import check_control, read_interventions
from cli.settings.kinds.base import PolicySpec, Settings
from cli.settings.kinds.catalog import reader_of
from cli.settings.kinds.kept_students import kept_students
from cli.settings.options import folder_name
from kd_env.core import checks

_MOST_STUDENTS = 100_000
"""Of a training or an evaluation: each has parameters of its own."""
_OF_THE_JOB = {
    "seed": "seed=... of the job is the agent's, too",
    "device": "agent_device=... says where its networks are",
    "env": "env=... says what it acts in",
}
"""What an agent is made with beside its hyper-parameters."""


def with_defaults(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A composed configuration with what its environment takes where nothing is given."""
    c = {**resolved, "env": dict(resolved["env"]), "evaluation": dict(resolved["evaluation"])}
    for key, value in reader_of(c["env"]["id"]).defaults(c).items():
        *section, name = key.split(".")
        values = c[section[0]] if section else c
        if values[name] in (None, "auto"):
            values[name] = value
    return c


def read_settings(resolved: Mapping[str, Any]) -> Settings[Any]:
    """Check a composed configuration, and make its paths absolute.

    Raises:
        ValueError: the first value that is out of range or does not fit, with the remedy.
    """
    from agents import agent_kind

    c = with_defaults(resolved)
    c = with_absolute_paths(c)
    reader = reader_of(c["env"]["id"])
    _check_numbers(c)
    check_control(c["control"], agent_kind(str(c["agent"]["name"])) == "rule")
    read = reader.read(c, _agent(c["agent"]))
    name = folder_name(c["name"] or default_name(c))
    seeds = reader.evaluation_seeds(c)
    check_pause(c, seeds)
    return Settings(
        kind=reader.name,
        resolved={**c, "name": name, "env": read.resolved},
        env=read.env,
        teachers=read.teachers,
        agent=read.agent,
        rules=_rules(c["evaluation"]["rules"], read.agent),
        run_folder=Path(c["runs_dir"]) / name,
        evaluation_seeds=seeds,
        cofinetuned=read.cofinetuned,
        interventions=read_interventions(c["evaluation"]["interventions"]),
    )


def read_begun(resolved: Mapping[str, Any]) -> Settings[Any]:
    """As :func:`read_settings`, of a job that goes on in its run folder where ``resume`` says so.

    Raises:
        ValueError: as there.
    """
    settings = read_settings(resolved)
    if not settings.resolved["resume"]:
        return settings
    before = runs.begun_config(settings.run_folder)
    return settings if before is None else read_settings(with_former_rate(before, resolved))


def check(settings: Settings[Any]) -> Settings[Any]:
    """Check names, options and pairs of algorithm and action view; fills in ``evaluation.rules=auto``.

    Raises:
        ValueError: what does not exist or does not fit, with the remedy.
    """
    return reader_of(settings.resolved["env"]["id"]).check(settings)


def _agent(c: Mapping[str, Any]) -> PolicySpec:
    _refuse_of_the_job("agent.options", c["options"])
    return PolicySpec(str(c["name"]), dict(c["options"]), agent_label(c))


def _refuse_of_the_job(where: str, options: Mapping[str, Any]) -> None:
    for key, instead in _OF_THE_JOB.items():
        if key in options:
            raise ValueError(f"{where}: {key} is no option of a policy: {instead}; leave it out.")


def _rules(given: Any, agent: PolicySpec) -> tuple[PolicySpec, ...] | None:
    if given == "auto":
        return None
    if not isinstance(given, list):
        raise ValueError(f"evaluation.rules={given!r} must be auto or a list, for example [all,soft_label_only].")
    found: list[PolicySpec] = []
    for item in given:
        taken = [rule.label for rule in found]
        options = dict(item) if isinstance(item, Mapping) else {"name": item}
        if not isinstance(options.get("name"), str):
            raise ValueError(f"evaluation.rules holds {item!r}; write a name, or {{name: fixed, weights: {{...}}}}.")
        name = str(options.pop("name"))
        _refuse_of_the_job("evaluation.rules", options)
        same = sum(rule.name == name for rule in found)
        label = options.pop("label", f"{name}_{same + 1}" if same else name)
        # A rule that the run's agent is, too, is judged once.
        if not isinstance(label, str) or label in taken or (label == agent.label and name != agent.name):
            raise ValueError(
                f"evaluation.rules holds {item!r}, but label={label!r} must be text that no other policy has."
            )
        found.append(PolicySpec(name, options, label))
    return tuple(found)


def agent_label(c: Mapping[str, Any]) -> str:
    """What tables and run folders call the agent of the section ``agent``: its name, or the label of its preset."""
    return str(c.get("label") or c["name"])


def default_name(c: Mapping[str, Any]) -> str:
    """Name of the run folder where none is given: <experiment or task>[-<regime>]-<agent>[-<control>]-seed<seed>."""
    what = c["presets"].get("experiment") or c["task"]["name"]
    what = "-".join([what, *([c["presets"]["regime"]] if "regime" in c["presets"] else [])])
    control = "" if c["control"] == "none" else f"-{c['control']}"
    return f"{what}-{agent_label(c['agent'])}{control}-seed{c['seed']}".replace("/", "-")


def check_pause(c: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Refuse a pause that would never come, or whose students are those of the training or of the report.

    Args:
        c: complete configuration.
        seeds: of the evaluation.

    Raises:
        ValueError: with the remedy.
    """
    from agents import agent_kind

    pause, total, name = c["pause"], c["total_timesteps"], c["agent"]["name"]
    if pause["at"] is None:
        return
    at = f"pause.at={pause['at']}"
    if agent_kind(str(name)) == "rule" or c["control"] == "untrained":
        raise ValueError(f"{at}: agent {name!r} with control={c['control']} is not trained; leave pause.at out.")
    if total is not None and pause["at"] >= total:
        raise ValueError(f"{at} is not before the end of the training, total_timesteps={total}; lower it.")
    judged = range(pause["first_seed"], pause["first_seed"] + pause["seeds"])
    others = (("evaluation", seeds), ("training", range(c["seed"], c["seed"] + c["num_envs"])))
    for what, taken in others:
        if not set(judged).isdisjoint(taken):
            raise ValueError(
                f"pause.first_seed={pause['first_seed']} with pause.seeds={pause['seeds']} takes seeds of the {what} "
                f"({taken[0]} to {taken[-1]}); choose another pause.first_seed."
            )


def _check_numbers(c: Mapping[str, Any]) -> None:
    evaluation = c["evaluation"]
    least = 1 if c["agent"].get("from") is None else 0  # the policy of another run may be judged as it is
    lows = {
        "seed": (c["seed"], 0),
        "num_envs": (c["num_envs"], 1),
        "checkpoint_every": (c["checkpoint_every"], 0),
        "evaluation.seeds": (evaluation["seeds"], 1),
        "evaluation.first_seed": (evaluation["first_seed"], 0),
        **({} if evaluation["jobs"] == "auto" else {"evaluation.jobs": (evaluation["jobs"], 1)}),
        # Left out where the length of an episode decides.
        **({} if c["total_timesteps"] is None else {"total_timesteps": (c["total_timesteps"], least)}),
    }
    for name, (value, low) in lows.items():
        checks.whole(low)(name, value)
    for name, value in (("num_envs", c["num_envs"]), ("evaluation.seeds", evaluation["seeds"])):
        checks.whole(1, _MOST_STUDENTS)(name, value)
    reader = reader_of(c["env"]["id"])
    kept_students(c["save_students"], evaluation["seeds"], reader.ranks_students(c))
    checks.boolean("evaluation.deterministic", evaluation["deterministic"])
