"""Settings of the environment in which a tutor writes tokens into text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cli.settings.cache import packed_options
from cli.settings.kinds.base import PolicySpec, Reader, ReadOptions, Settings, Teachers
from cli.settings.kinds.language_models import language_model
from cli.settings.kinds.learning import check_learns
from cli.settings.kinds.token_probe import TokenProbe
from cli.settings.presets import option_comments
from cli.settings.teachers import TASK_KEYS, single_teacher
from kd_env.config.environment import EnvConfig
from kd_env.core.registry import unknown_name
from kd_env.decisions.options import env_config
from kd_env.decisions.tutor_token.options import RECIPES
from kd_env.mdp.objectives.catalog import OBJECTIVES

PROTOCOLS = ("joint", "frozen")
_OF_THE_JOB = ("id", "protocol", "samples")
"""Options of ``env`` that the environment itself has not."""
AUTO = "auto"


def is_joint(c: Mapping[str, Any]) -> bool:
    """Whether the student beside which the agent learns is the one that is judged."""
    return bool(c["env"]["protocol"] == "joint")


class TokenReader(Reader[EnvConfig]):
    """``kd_env/TutorToken-v0``."""

    name = "tokens"
    of_the_agent = (
        *("mode", "teacher_every", "observation", "action_view", "num_candidates", "reward", "evaluate_every"),
        *("evaluation_sample", "sample_paired", "sample_steps", "samples"),
    )

    def defaults(self, c: Mapping[str, Any]) -> dict[str, Any]:
        """As in :class:`Reader`; those of an unknown protocol, which is refused later, are those of ``frozen``."""
        joint = is_joint(c)
        defaults: dict[str, Any] = {
            "num_envs": 1 if joint else 4,
            "checkpoint_every": 1600,
            "save_students": 1 if joint else 0,
            "evaluation.seeds": 1 if joint else 10,
            "evaluation.deterministic": False,
            "env.budget": 800 if joint else 80,
        }
        # The steps of the one episode follow from budget and slots, which only the built problem knows.
        return defaults if joint else {**defaults, "total_timesteps": 3200}

    def read(self, c: dict[str, Any], agent: PolicySpec) -> ReadOptions:
        """As in :class:`Reader`."""
        env = c["env"]
        for key, valid in (("protocol", PROTOCOLS), ("objective", tuple(OBJECTIVES)), ("recipe", tuple(RECIPES))):
            if env[key] not in valid:
                raise ValueError(unknown_name(f"env.{key}", str(env[key]), valid))
        if isinstance(env["samples"], bool) or not isinstance(env["samples"], int) or env["samples"] < 0:
            raise ValueError(f"env.samples={env['samples']!r} must be a whole number of at least 0.")
        _refuse_others(c)
        _refuse_keys(c)
        if is_joint(c):
            _check_joint(c)
        given = {**env, **_views(c, agent.name)}
        teachers = single_teacher(c) if env["objective"] != "text" else language_model(c)
        config = with_ready(env_config(decision="tutor_token", **_options(c, given)), teachers)
        return ReadOptions(config, given, teachers, _with_recipe(agent, env["recipe"]))

    def check(self, settings: Settings[EnvConfig]) -> Settings[EnvConfig]:
        """As in :class:`Reader`."""
        from agents import RULES, agent_kind, make_agent

        config, name = settings.env, settings.agent.name
        _check_devices(settings)
        if settings.interventions:
            raise ValueError(
                f"evaluation.interventions={list(settings.interventions)} replay or force weights, and a tutor writes "
                "tokens into texts that no other student meets; leave them out."
            )
        settings = dataclasses.replace(settings, interventions=())
        if agent_kind(name) == "rule":
            make_agent(name, rule_probe(config), seed=0, **settings.agent.options)
        else:
            probe = TokenProbe(config, int(settings.resolved["num_envs"]))
            known = config.mode == "joint" or isinstance(config.slots, int)  # else only the built one knows the steps
            check_learns(settings, probe, steps_known=known)
        if settings.rules is not None:
            for spec in settings.rules:
                try:
                    make_agent(spec.name, rule_probe(config), seed=0, **spec.options)
                except ValueError as error:
                    raise ValueError(f"evaluation.rules: {error}") from error
            return settings
        fitting = []
        for key in RULES:
            try:
                make_agent(key, rule_probe(config), seed=0)
            except ValueError:
                continue  # auto means those that fit
            fitting.append(PolicySpec(key, {}, key))
        return dataclasses.replace(settings, rules=tuple(fitting))

    def evaluation_seeds(self, c: Mapping[str, Any]) -> tuple[int, ...]:
        """As in :class:`Reader`; with ``protocol=joint`` that of the one student of the training."""
        return (int(c["seed"]),) if is_joint(c) else super().evaluation_seeds(c)


def rule_probe(config: EnvConfig) -> TokenProbe:
    """The probe in which rules act: any token, read by name."""
    return TokenProbe(dataclasses.replace(config, action_view="native", observation="dict"), 1)


def with_ready(config: EnvConfig, teachers: Teachers) -> EnvConfig:
    """The options with the teacher, where it is there."""
    ready = [folder for _, folder in teachers if isinstance(folder, str)]
    return dataclasses.replace(config, teacher=ready[0]) if ready else config


def _options(c: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of :class:`EnvConfig`; what is ``auto`` is left to recipe and data."""
    task, labels = c["task"], env["objective"] != "text"
    left = {key for key, value in env.items() if value == AUTO and key != "precision"}  # whose auto says something
    options = {key: value for key, value in env.items() if key not in _OF_THE_JOB and key not in left}
    options["optimizer"] = {key: value for key, value in env["optimizer"].items() if value != AUTO}
    if labels:
        options |= {"task": task["name"], "columns": task["columns"], "teacher_check": str(c["teacher"]["check"])}
        if env["text"] != AUTO:
            raise ValueError(f"env.text={env['text']!r} is for env.objective=text; labels has the rows of task=...")
    elif env["text"] == AUTO and task["name"] == "custom":
        raise ValueError("task=custom names no texts: give env.text=<folder of .txt files>, or env.objective=labels.")
    elif env["text"] == AUTO:
        options["task"] = task["name"]
    else:
        options["text"] = env["text"]
    options |= packed_options(c, options)
    same = {key: task[key] for key in TASK_KEYS if key != "columns"}
    return {**options, **same, "student": c["student"], "device": str(c["device"])}


def _views(c: Mapping[str, Any], agent: str) -> dict[str, str]:
    """Action view and observation: as given, else what the agent can take."""
    from agents import agent_kind
    from agents.sb3.algorithms import BOX, DISCRETE, MULTI_DISCRETE, algorithm
    from kd_env.decisions.catalog import DECISIONS

    preset = option_comments(f"agent/{c['presets']['agent']}")
    usual = next(value for key, value, _ in preset if key.rsplit(".", 1)[-1] == "action_view")
    if c["agent"]["action_view"] != usual:
        raise ValueError(
            f"agent.action_view={c['agent']['action_view']} is of other environments; with env=tutor_token choose the "
            "view by env.action_view=native, candidates, discrete or box."
        )
    kind = agent_kind(agent)
    if agent == "tutor" or kind == "rule":
        views = {"action_view": "native", "observation": "dict"}
    else:
        takes = algorithm(agent.removeprefix("sb3/")).actions if kind == "sb3" else (MULTI_DISCRETE,)
        first = next(each for each in (MULTI_DISCRETE, DISCRETE, BOX) if each in takes)
        of_kind = dict(reversed(DECISIONS["tutor_token"].views))
        views = {"action_view": of_kind[first], "observation": "flat"}
    return {key: value if c["env"][key] == AUTO else str(c["env"][key]) for key, value in views.items()}


def _with_recipe(agent: PolicySpec, recipe: str) -> PolicySpec:
    if agent.name != "tutor" or recipe == "modified":
        return agent
    return dataclasses.replace(agent, options={"recipe": recipe, **agent.options})


def _refuse_others(c: Mapping[str, Any]) -> None:
    """Refuse options of the main job that have no meaning here."""
    for key in ("teachers", "cofinetuned"):
        if c[key] is not None:
            raise ValueError(f"{key} names several teachers, and env=tutor_token has one: give teacher.path.")
    if c["task"]["label_noise"]:
        raise ValueError(f"task.label_noise={c['task']['label_noise']} is not for env=tutor_token; leave it out.")
    if c["teacher"]["source"] == "student":
        raise ValueError("teacher.source=student is not for env=tutor_token, whose teacher reads every edited text.")
    if c["control"] in ("shuffled_feedback", "teacher_is_student"):
        raise ValueError(
            f"control={c['control']} is about feedback labels and knowledge terms, which env=tutor_token has not; "
            "possible: none, shuffled_reward, untrained."
        )
    if c["evaluation"]["jobs"] not in ("auto", 1):
        raise ValueError(
            f"evaluation.jobs={c['evaluation']['jobs']} is not for env=tutor_token, whose students are judged "
            "together; leave it out."
        )
    if c["vectorization"] not in ("auto", "stacked"):
        raise ValueError(
            f"vectorization={c['vectorization']!r} is not for env=tutor_token, whose replicas are stacked; leave "
            "it out."
        )


def _refuse_keys(c: Mapping[str, Any]) -> None:
    """Refuse options of other environments, which only presets can bring."""
    known = {key.split(".")[0] for key, _, _ in option_comments("env/tutor_token")}
    for key in c["env"]:
        if key not in known:
            names = [f"{group}={c['presets'][group]}" for group in ("experiment", "agent") if group in c["presets"]]
            raise ValueError(
                f"{' '.join(names)} sets env.{key}, which env=tutor_token has not: it is for other environments. Use "
                "agent=tutor, actor_critic, reinforce or one of sb3/..., and no experiment of another environment."
            )


def _check_joint(c: Mapping[str, Any]) -> None:
    """Refuse what one student beside one agent cannot have."""
    joint = "env.protocol=joint"
    if c["num_envs"] != 1:
        raise ValueError(
            f"num_envs={c['num_envs']}: with {joint} an agent learns beside one student; leave num_envs out, or set "
            "env.protocol=frozen."
        )
    if c["evaluation"]["seeds"] != 1:
        raise ValueError(
            f"evaluation.seeds={c['evaluation']['seeds']} are fresh students of env.protocol=frozen; with {joint} "
            "every training has one student, which is judged: make several trainings (kd-env study), and leave it out."
        )
    if c["env"]["max_episode_steps"] is not None:
        raise ValueError(
            f"env.max_episode_steps={c['env']['max_episode_steps']} would cut the one episode of {joint}; leave it out "
            "and set env.budget."
        )
    if c["pause"]["at"] is not None:
        raise ValueError(
            f"pause.at={c['pause']['at']}: a pause judges a policy on fresh students, and with {joint} there is one "
            "student, beside which it learns; leave it out, or set env.protocol=frozen."
        )
    if c["control"] == "untrained":
        raise ValueError(
            f"control=untrained leaves no student to be judged with {joint}, where it learns while the agent does; set "
            "env.protocol=frozen."
        )


def _check_devices(settings: Settings[EnvConfig]) -> None:
    from kd_env.models.devices import resolve_device

    resolve_device(settings.env.device)
    dropout, count = settings.env.student_config.dropout, settings.resolved["num_envs"]
    if dropout and count > 1:
        raise ValueError(
            f"student.dropout={dropout} needs single environments: stacked students have no generator per replica. Set "
            "student.dropout=0 or num_envs=1."
        )
