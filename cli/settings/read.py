"""The resolved configuration as checked options of the parts: environment, teacher, agent, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.runs import folder as runs
from cli.settings.controls import check_control, controlled_env
from cli.settings.teachers import TASK_KEYS, cache_folder, cofinetuned_set, teacher_config, teacher_list
from kd_env.config.environment import EnvConfig
from kd_env.data.loading import get_task
from kd_env.data.tasks import EMBEDDED
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.options import env_config

if TYPE_CHECKING:
    from kd_env.finetuning.classifier import TeacherConfig
    from kd_env.finetuning.co_classifier import CoTeacherConfig


@dataclass(frozen=True)
class PolicySpec:
    """An agent or a rule by name, with its options."""

    name: str
    options: dict[str, Any]
    label: str
    """Its name in tables; differs from ``name`` where one rule stands twice."""


@dataclass(frozen=True)
class Settings:
    """Everything that the main job needs, checked."""

    resolved: dict[str, Any]
    """The configuration as it is written to ``config.yaml``."""
    env: EnvConfig
    """Of training; ``teacher`` and ``teachers`` are None where some are made first, or packaged ones are used."""
    teachers: tuple[tuple[str, str | TeacherConfig], ...]
    """Teachers that are named or made first: name, and folder or options of the fine-tuning; empty for packaged
    ones."""
    agent: PolicySpec
    rules: tuple[PolicySpec, ...] | None
    """None until :func:`cli.settings.probe.check` has found those that fit (``auto``)."""
    run_folder: Path
    evaluation_seeds: tuple[int, ...]
    cofinetuned: CoTeacherConfig | None = None
    """Options of the set that is co-fine-tuned first; ``teachers`` are the folders that its members will have."""


def read_settings(resolved: Mapping[str, Any]) -> Settings:
    """Check a composed configuration.

    Raises:
        ValueError: the first value that is out of range or does not fit, with the remedy.
    """
    from agents import agent_kind

    c = dict(resolved)
    _check_numbers(c)
    check_control(c["control"], agent_kind(str(c["agent"]["name"])) == "rule")
    c["env"] = controlled_env(c["env"], c["control"])
    agent = _agent(c["agent"])
    cofinetuned: CoTeacherConfig | None = None
    teachers: tuple[tuple[str, str | TeacherConfig], ...]
    if c["cofinetuned"] is None:
        teachers = _teachers(c)
    else:
        folders, cofinetuned = cofinetuned_set(c)
        teachers = tuple(folders.items())
    env = with_ready(_env(c), c, teachers)
    evaluation = c["evaluation"]
    first = evaluation["first_seed"]
    seeds = tuple(range(first, first + evaluation["seeds"]))
    # Replica i is trained from seed + i.
    if set(range(c["seed"], c["seed"] + c["num_envs"])) & set(seeds):
        raise ValueError(
            f"seed={c['seed']} with num_envs={c['num_envs']} trains on evaluation seeds ({seeds[0]} to {seeds[-1]}); "
            "choose another seed or evaluation.first_seed."
        )
    chosen = {**c["env"]["optimizer"], "learning_rate": env.optimizer_config.rate}
    name = c["name"] or default_name(c)
    if not isinstance(name, str) or name != Path(name).name or name.startswith("."):
        raise ValueError(f"name={name!r} must be a plain folder name; set runs_dir=... for another place.")
    return Settings(
        resolved={**c, "name": name, "env": {**c["env"], "features": list(env.features), "optimizer": chosen}},
        env=env,
        teachers=teachers,
        agent=agent,
        rules=_rules(evaluation["rules"], agent),
        run_folder=Path(c["runs_dir"]).expanduser() / name,
        evaluation_seeds=seeds,
        cofinetuned=cofinetuned,
    )


def read_begun(resolved: Mapping[str, Any]) -> Settings:
    """As :func:`read_settings`, of a job that goes on in its run folder where ``resume`` says so.

    Raises:
        ValueError: as there.
    """
    settings = read_settings(resolved)
    if not settings.resolved["resume"]:
        return settings
    return read_settings(runs.with_former_rate(settings.run_folder, resolved))


def with_feedback(env: EnvConfig) -> EnvConfig:
    """The problem of the rules that are trained on train and feedback rows."""
    return dataclasses.replace(env, train_on="train+feedback")


def _teachers(c: Mapping[str, Any]) -> tuple[tuple[str, str | TeacherConfig], ...]:
    """The teachers that are there or have to be made one by one, by name; none for packaged ones."""
    if c["teachers"] is not None:
        return teacher_list(c)
    teacher, task = c["teacher"], c["task"]["name"]
    if teacher["name_or_path"] and c["env"].get("learning_teacher", {}).get("init", "finetuned") != "finetuned":
        raise ValueError(
            f"teacher.name_or_path={teacher['name_or_path']} would be fine-tuned first, for nothing: with "
            f"env.learning_teacher.init={c['env']['learning_teacher']['init']} the teacher starts without a head. Give "
            "the encoder as teacher.path."
        )
    if teacher["path"] and teacher["name_or_path"]:
        raise ValueError(
            "teacher.path (fine-tuned already) and teacher.name_or_path (to be fine-tuned) are both given; set one of "
            "them to null."
        )
    if teacher["path"]:
        return ((task, str(teacher["path"])),)
    if task in EMBEDDED and not teacher["name_or_path"]:
        return ()
    # resume=true|false of the main job is about the agent; a half-made teacher is always finished.
    return ((task, teacher_config({**c, "resume": True}, None)),)


def with_ready(env: EnvConfig, c: Mapping[str, Any], teachers: Sequence[tuple[str, str | TeacherConfig]]) -> EnvConfig:
    """The environment's options with the teachers, where none is left to be made by itself."""
    ready = [(name, folder) for name, folder in teachers if isinstance(folder, str)]
    if not ready or len(ready) < len(teachers):
        return env
    if c["teachers"] is None and c["cofinetuned"] is None:
        return dataclasses.replace(env, teacher=ready[0][1])
    return dataclasses.replace(env, teachers=tuple({"name": name, "path": folder} for name, folder in ready))


def _decision(identity: str) -> str:
    """What is decided in the environment of an id, by the name that it was registered with."""
    import gymnasium

    import kd_env  # noqa: F401 - registers the environments

    known = {
        name: spec.kwargs.get("decision") for name, spec in gymnasium.registry.items() if name.startswith("kd_env/")
    }
    native = {name: decision for name, decision in known.items() if "action_view" not in gymnasium.spec(name).kwargs}
    if native.get(identity) is None:
        raise ValueError(
            f"env.id={identity!r} is not known to the main job; valid: "
            f"{', '.join(name for name, decision in native.items() if decision)}."
        )
    return str(native[identity])


def _env(c: Mapping[str, Any]) -> EnvConfig:
    task, env = c["task"], dict(c["env"])
    identity = env.pop("id")
    decision = _decision(identity)
    if env["features"] == "auto":
        env["features"] = list(default_features(task, decision, str(env.get("weighting", "batch"))))
    options = {
        **env,
        "decision": decision,
        "task": task["name"],
        **{key: task[key] for key in TASK_KEYS},
        "label_noise": task["label_noise"],
        "student": c["student"],
        "teacher_source": env.pop("teacher_source", c["teacher"]["source"]),
        "cache_dtype": c["teacher"]["cache_dtype"],
        "cache_dir": str(cache_folder(c["cache_dir"]) / "teacher_outputs"),
        "device": str(c["device"]),
        "show_progress": bool(c["progress"]),
    }
    return env_config(**options)


def default_features(task: Mapping[str, Any], decision: str, weighting: str) -> tuple[str, ...]:
    """The default features that have a meaning for the task: entropy and agreement have none in regression."""
    from kd_env.mdp.observations.layout import FEATURES

    names = DECISIONS[decision].features_for({"weighting": weighting})
    if not get_task(task["name"], task["columns"], task["data_dir"]).regression:
        return names
    return tuple(name for name in names if not FEATURES[name].classification_only)


def _agent(c: Mapping[str, Any]) -> PolicySpec:
    if not isinstance(c["options"], Mapping):
        raise ValueError(
            f"agent.options={c['options']!r} must hold options by name, as agent.options.learning_rate=0.001."
        )
    return PolicySpec(str(c["name"]), dict(c["options"]), agent_label(c))


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
    """Name of the run folder where none is given: <experiment or task>-<agent>[-<control>]-seed<seed>."""
    what = c["presets"].get("experiment") or c["task"]["name"]
    control = "" if c["control"] == "none" else f"-{c['control']}"
    return f"{what}-{agent_label(c['agent'])}{control}-seed{c['seed']}".replace("/", "-")


def _check_numbers(c: Mapping[str, Any]) -> None:
    evaluation = c["evaluation"]
    lows = {
        "seed": (c["seed"], 0),
        "num_envs": (c["num_envs"], 1),
        "total_timesteps": (c["total_timesteps"], 1),
        "checkpoint_every": (c["checkpoint_every"], 0),
        "save_students": (c["save_students"], 0),
        "evaluation.seeds": (evaluation["seeds"], 1),
        "evaluation.first_seed": (evaluation["first_seed"], 0),
        **({} if evaluation["jobs"] == "auto" else {"evaluation.jobs": (evaluation["jobs"], 1)}),
        **({} if c["threads"] is None else {"threads": (c["threads"], 1)}),
    }
    for name, (value, low) in lows.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {low}.")
    if c["save_students"] > evaluation["seeds"]:
        raise ValueError(
            f"save_students={c['save_students']} is more than evaluation.seeds={evaluation['seeds']}: only judged "
            "students are kept. Lower it, or raise evaluation.seeds."
        )
    for name, value in (
        ("resume", c["resume"]),
        ("progress", c["progress"]),
        ("evaluation.deterministic", evaluation["deterministic"]),
    ):
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be true or false.")
