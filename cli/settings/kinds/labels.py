"""Settings of environments in which students learn the labels of a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cli.settings import probe
from cli.settings.cache import cache_folder, packed_options
from cli.settings.controls import controlled_env
from cli.settings.kinds.base import PolicySpec, Reader, ReadOptions, Settings, Teachers
from cli.settings.kinds.language_models import language_model
from cli.settings.teachers import (
    TASK_KEYS,
    cofinetuned_set,
    single_teacher,
    teacher_list,
)
from kd_env.config.environment import EnvConfig
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.options import env_config

if TYPE_CHECKING:
    from kd_env.finetuning.co_classifier import CoTeacherConfig


AUTO = "auto"


class LabelReader(Reader[EnvConfig]):
    """Knowledge terms, teachers or rows are decided about, and decisions of other distributions."""

    name = "labels"
    of_the_agent = ("action_view", "features", "weighting")

    def defaults(self, c: Mapping[str, Any]) -> dict[str, Any]:
        """As in :class:`Reader`."""
        return {
            "total_timesteps": 9600,
            "num_envs": 16,
            "checkpoint_every": 3200,
            "save_students": 0,
            "evaluation.seeds": 10,
            "evaluation.deterministic": True,
        }

    def read(self, c: dict[str, Any], agent: PolicySpec) -> ReadOptions:
        """As in :class:`Reader`."""
        if c["env"].get("objective") == "text" and c["control"] in ("shuffled_feedback", "teacher_is_student"):
            raise ValueError(
                f"control={c['control']} is about feedback labels or kept outputs of the teacher, of which "
                "objective=text has none; possible: none, shuffled_reward, untrained."
            )
        c = {**c, "env": controlled_env(_with_terms(c["env"]), c["control"])}
        cofinetuned: CoTeacherConfig | None = None
        teachers: Teachers
        if c["cofinetuned"] is None:
            teachers = _teachers(c)
        else:
            folders, cofinetuned = cofinetuned_set(c)
            teachers = tuple(folders.items())
        env = with_ready(_env(c), c, teachers)
        chosen = {**c["env"]["optimizer"], "learning_rate": env.optimizer_config.rate}
        resolved = {**c["env"], "features": list(env.features), "optimizer": chosen}
        plain = dataclasses.asdict(env)
        left = [key for key, value in resolved.items() if value == AUTO and key in plain]
        resolved |= {key: plain[key] for key in left if env.objective == "text" or key == "reward"}
        return ReadOptions(env, resolved, teachers, agent, cofinetuned)

    def ranks_students(self, c: Mapping[str, Any]) -> bool:
        """As in :class:`Reader`: not where they learn masked text."""
        return bool(c["env"].get("objective") != "text")

    def check(self, settings: Settings[EnvConfig]) -> Settings[EnvConfig]:
        """As in :class:`Reader`."""
        return probe.check(settings)


def with_feedback(env: EnvConfig) -> EnvConfig:
    """The problem of the rules that are trained on train and feedback rows."""
    return dataclasses.replace(env, train_on="train+feedback")


def _teachers(c: Mapping[str, Any]) -> Teachers:
    """The teachers that are there or have to be made one by one, by name; none for packaged ones."""
    if c["teachers"] is not None:
        return teacher_list(c)
    if c["env"].get("objective") == "text":
        return language_model(c)
    teacher = c["teacher"]
    if teacher["name_or_path"] and c["env"].get("learning_teacher", {}).get("init", "finetuned") != "finetuned":
        raise ValueError(
            f"teacher.name_or_path={teacher['name_or_path']} would be fine-tuned first, for nothing: with "
            f"env.learning_teacher.init={c['env']['learning_teacher']['init']} the teacher starts without a head. Give "
            "the encoder as teacher.path."
        )
    return single_teacher(c)


def with_ready(env: EnvConfig, c: Mapping[str, Any], teachers: Teachers) -> EnvConfig:
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
        raise ValueError(f"env.id={identity!r} is not known to the main job; valid: {', '.join(native)}.")
    return str(native[identity])


def _with_terms(env: Mapping[str, Any]) -> dict[str, Any]:
    """The section with the terms of the decision where they are ``auto``, as a plug-in's are."""
    if env["terms"] != AUTO or env.get("objective") == "text":
        return dict(env)
    terms = DECISIONS[_decision(env["id"])].defaults({}).get("terms", EnvConfig.terms)
    return {**env, "terms": list(terms)}


def _env(c: Mapping[str, Any]) -> EnvConfig:
    task, env = c["task"], dict(c["env"])
    identity = env.pop("id")
    decision = _decision(identity)
    _check_view(c, decision)
    for name, views in DECISIONS[decision].view_options.items():
        if env["action_view"] not in views:
            env.pop(name, None)  # of a preset: what is given and not read is refused
    if env.get("objective") == "text":
        return _text_env(c, env, decision)
    for name in ("features", "reward"):
        if env[name] == AUTO:
            del env[name]
    options = {
        **env,
        "decision": decision,
        "task": task["name"],
        **{key: task[key] for key in TASK_KEYS},
        "label_noise": task["label_noise"],
        "noise_seed": task["noise_seed"],
        "student": c["student"],
        "teacher_source": env.pop("teacher_source", c["teacher"]["source"]),
        "teacher_check": str(c["teacher"]["check"]),
        "cache_dtype": c["teacher"]["cache_dtype"],
        "cache_dir": str(cache_folder(c["cache_dir"]) / "teacher_outputs"),
        "device": str(c["device"]),
        "show_progress": bool(c["progress"]),
    }
    return env_config(**options)


def _text_env(c: Mapping[str, Any], env: Mapping[str, Any], decision: str) -> EnvConfig:
    """Options under which students learn masked text; what is ``auto`` is left to decision and objective."""
    task = c["task"]
    options = {key: value for key, value in env.items() if value != AUTO}
    if task["label_noise"]:
        options["label_noise"] = task["label_noise"]
    if c["teacher"]["source"] != "cached":  # the default of the group teacher, which has no meaning here
        options["teacher_source"] = c["teacher"]["source"]
    rows = {key: task[key] for key in TASK_KEYS if key != "columns"}
    options |= packed_options(c, options)
    return env_config(
        decision=decision, task=task["name"], **rows, student=c["student"], device=str(c["device"]), **options
    )


def _check_view(c: Mapping[str, Any], decision: str) -> None:
    """Refuse what the agent's preset brings and the environment has not; nobody typed it."""
    view, chosen = c["agent"]["action_view"], c["env"]["action_view"]
    fitting = [name for name in DECISIONS if view in DECISIONS[name].view_names()]
    if c["env"].get("weighting", "batch") == "sample":
        fitting = [name for name in fitting if "weighting" in DECISIONS[name].options]
    if decision in fitting or chosen != view or not fitting:
        return
    preset = c["presets"].get("agent", c["agent"]["name"])
    raise ValueError(
        f"agent={preset} is for {' or '.join(f'env={name}' for name in fitting)} (it acts row by row or on teachers, "
        f"in action_view={view!r}), but the environment is env={decision}; choose another agent or environment."
    )
