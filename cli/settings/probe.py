"""Checks that need no data and no model: an environment that has only names and spaces, for agents to be made on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cli.settings.controls import agent_options
from cli.settings.kinds.base import PolicySpec, Settings
from kd_env.config.environment import EnvConfig
from kd_env.core.clusters.packages import require
from kd_env.core.registry import unknown_name
from kd_env.core.types import FeatureSlice
from kd_env.data import toy
from kd_env.data.loading import get_task
from kd_env.decisions.base import Parts
from kd_env.decisions.catalog import DECISIONS, check_decision, in_view, make_decision
from kd_env.knowledge import TERMS, reads_teacher, term_entries
from kd_env.mdp.influence.rows import feedback_rows
from kd_env.mdp.observations.layout import FEATURES

STUDENT_FEATURES = ("student_on_batch", "row_student")


class ProbeEnv(VectorEnv[Any, Any, Any]):
    """Action space, names and episode length of an environment that is not built yet. It is never stepped.

    Every observation feature has one entry (one a row where it describes rows, three where rules look at the student's
    loss, entropy and confidence, which regression has not), so that sizes of networks mean nothing.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, config: EnvConfig, num_envs: int, teacher_names: Sequence[str]) -> None:
        self.num_envs = num_envs
        entries = term_entries(config.terms)
        self.term_names = tuple(entry.name for entry in entries)
        self.teacher_names, self.reference_teacher = tuple(teacher_names), teacher_names[0]
        taught = tuple(reads_teacher(TERMS[entry.kind]) for entry in entries)
        self.decision = make_decision(config, Parts(self.term_names, self.teacher_names, taught))
        self.action_names, self.action_view = self.decision.action_names, config.action_view
        self.teacher_updates = config.teacher_updates
        self._noisy, self._masked = config.label_noise > 0, config.objective == "text"
        self.weighting, self.batch_size = config.weighting, config.batch_size
        self.row_features = tuple(name for name in config.features if FEATURES[name].per_row)
        labels = get_task(config.task, config.columns, config.data_dir) if config.objective != "text" else None
        regression = labels is not None and labels.regression
        self.num_labels = 1 if labels is None else labels.num_labels
        self.observation_layout, start = {}, 0
        for name in config.features:
            width = 3 if name in STUDENT_FEATURES and not regression else 1
            shape = (config.batch_size, width) if name in self.row_features else (width,)
            stop = start + int(np.prod(shape))
            self.observation_layout[name] = FeatureSlice(start, stop, shape, 0.0, 1.0)
            start = stop
        self.episode_steps = -(-config.budget // config.updates_per_step)
        self.single_observation_space = spaces.Box(0.0, 1.0, (start,), np.float32)
        self.single_action_space = self.decision.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def right_rows(self) -> Any:
        """Exists where labels were made wrong, because rules ask whether it does."""
        return self.row_influence if self._noisy else None

    @property
    def teacher_answers(self) -> Any:
        """Exists where rows have labels, because rules ask whether it does."""
        return None if self._masked else self.row_influence

    def row_influence(self) -> Any:
        """Exists, because rules ask whether it does."""
        raise RuntimeError("A probe has no rows.")

    def get_state(self) -> Any:
        """Exists, because rules ask whether it does."""
        raise RuntimeError("A probe has no state.")

    def set_state(self, state: Any) -> None:
        """Exists, because rules ask whether it does."""
        raise RuntimeError("A probe has no state.")


def require_own_agents() -> None:
    """Refuse another distribution's top-level package of the same name.

    Raises:
        ValueError: with where the foreign package lies.
    """
    import agents

    if not hasattr(agents, "make_agent") or not hasattr(agents, "RULES"):
        place = getattr(agents.__spec__, "origin", None)
        raise ValueError(
            f"The package {agents.__name__!r} of kd-env is needed, but it is the one at {place}, of another "
            "distribution. Install kd-env in a virtual environment of its own."
        )


def check(settings: Settings[EnvConfig]) -> Settings[EnvConfig]:
    """Check names, options and pairs of algorithm and action view; fills in ``evaluation.rules=auto``.

    Raises:
        ValueError: what does not exist or does not fit, with the remedy.
    """
    from agents import agent_kind, make_agent
    from kd_env.envs.process import check_names
    from kd_env.envs.workers import VECTORIZATIONS
    from kd_env.evaluation.judging.dev import check_dev
    from kd_env.evaluation.judging.tables import check_texts
    from kd_env.models.devices import resolve_device

    config, resolved = settings.env, settings.resolved
    resolve_device(config.device)
    if resolved["vectorization"] not in VECTORIZATIONS:
        raise ValueError(unknown_name("vectorization", resolved["vectorization"], VECTORIZATIONS))
    if resolved["vectorization"] == "ray":
        require("ray", "ray", "vectorization=ray")
    _check_dropout(settings)
    if config.objective == "text":
        check_names(config, regression=False)
        check_texts(config)
    else:
        task = get_task(config.task, config.columns, config.data_dir)
        check_names(config, task.regression)
        check_dev(task, config.data_dir)
    kind = agent_kind(settings.agent.name)
    if kind == "rule":
        _check_rule(settings.agent.name, config)
    probe = ProbeEnv(config, int(resolved["num_envs"]), teacher_names(settings))
    if kind == "rule":
        make_agent(settings.agent.name, probe, seed=0, **settings.agent.options)
    else:
        options = {**settings.agent.options, **agent_options(resolved["control"], 0)}
        _check_warm_up(settings, make_agent(settings.agent.name, probe, seed=0, device="cpu", **options))
    return dataclasses.replace(settings, rules=_rules(settings), interventions=_interventions(settings, probe))


def _check_warm_up(settings: Settings[EnvConfig], agent: Any) -> None:
    """Refuse a training that ends before the agent begins to learn."""
    total = settings.resolved["total_timesteps"]
    for owner, name in (("config", "warmup_steps"), ("model", "learning_starts")):
        steps = getattr(getattr(agent, owner, None), name, 0)
        if 0 < total <= steps and settings.resolved["control"] != "untrained":
            raise ValueError(
                f"total_timesteps={total} ends within the {steps} random steps that {settings.agent.name} begins with: "
                f"nothing would be learned. Set total_timesteps above {steps}, or agent.options.{name} below {total}."
            )


def teacher_names(settings: Settings[EnvConfig]) -> tuple[str, ...]:
    """Names of the teachers, before they are there."""
    if settings.teachers:
        return tuple(name for name, _ in settings.teachers)
    name = settings.env.task
    return tuple(toy.teacher_set(name)) if DECISIONS[settings.env.decision].many_teachers else (name,)


def _check_dropout(settings: Settings[EnvConfig]) -> None:
    """Refuse a training with dropout that would stack its students, before a teacher is made."""
    from agents import agent_kind

    dropout, count = settings.env.dropout, settings.resolved["num_envs"]
    if not dropout or count == 1 or agent_kind(settings.agent.name) == "rule":
        return
    # auto might stack: the size of an update is not known yet.
    if settings.resolved["vectorization"] not in ("processes", "ray"):
        raise ValueError(
            f"{dropout} needs a process for each of the num_envs={count} students, since stacked ones have no "
            f"generator per replica: set vectorization=processes (or {dropout.split('=')[0]}=0)."
        )


def beside(spec: PolicySpec, env: EnvConfig) -> dict[str, Any]:
    """What is other in the environment of a rule that decides something else and is judged beside: none in most cases.

    Raises:
        ValueError: there is nothing to choose for it, so that it does what plain rules of the run's decision do.
    """
    from agents.rules.catalog import rule_class

    rule = rule_class(spec.name)
    if env.decision not in rule.beside:
        return {}
    if len(env.terms) == 1:
        raise ValueError(
            f"The rule {spec.name!r} chooses one of several terms, and terms={list(env.terms)} is all there is: every "
            f"rule trains on it alone. Leave {spec.name!r} out."
        )
    owned = {name: getattr(EnvConfig, name) for name in DECISIONS[env.decision].options}
    features = tuple(dict.fromkeys(("progress", *rule.needs_features)))
    return {**owned, "decision": rule.decision, "action_view": rule.views[0], "features": features}


def rule_view(spec: PolicySpec, env: EnvConfig, teachers: Sequence[str]) -> str:
    """The action view in which a rule acts: the agent's where it can, else the first that it can be expressed in.

    Raises:
        ValueError: no view can express it (the message is that of the first that was tried), or it has no reward or
            too few feedback rows to look at.
    """
    from agents import make_rule
    from agents.rules.catalog import rule_class

    _check_rule(spec.name, env)
    views = rule_class(spec.name).views
    own = dataclasses.replace(env, **beside(spec, env))
    errors = []
    for view in dict.fromkeys([*(v for v in views if v == own.action_view), *views]):
        try:
            viewed = in_view(own, view)
            check_decision(viewed)
            make_rule(spec.name, ProbeEnv(viewed, 1, teachers), **spec.options)
        except ValueError as error:
            errors.append(error)
        else:
            return view
    raise errors[0]


def _check_rule(name: str, env: EnvConfig) -> None:
    """Refuse a rule that looks at more feedback rows, or at more steps' rewards, than are evaluated."""
    from agents.rules.catalog import rule_class

    if rule_class(name).asks_influence:
        if env.objective == "text":
            raise ValueError(
                f"The rule {name!r} asks for the influence of labelled rows on the loss of feedback labels, of which "
                "objective='text' has none; choose another rule."
            )
        feedback_rows(env, min(env.evaluation_rows, env.feedback_rows or env.evaluation_rows))
    if rule_class(name).reads_every_reward and env.evaluate_every != 1:
        raise ValueError(
            f"The rule {name!r} reads the reward of every step, but env.evaluate_every={env.evaluate_every} leaves "
            f"steps without any; set env.evaluate_every=1 or leave {name!r} out."
        )


def _interventions(settings: Settings[EnvConfig], probe: ProbeEnv) -> tuple[str, ...]:
    """The single interventions on the agent's policy, or those that have a meaning for it."""
    from agents import agent_kind
    from kd_env.evaluation.judging.interventions import INTERVENTIONS, interventions_of

    name, given = settings.agent.name, settings.interventions
    if agent_kind(name) == "rule" or name == "searched":
        if given:
            raise ValueError(
                f"evaluation.interventions={list(given)} are about what an agent has learned to do when, and "
                f"{settings.agent.label!r} always does what it is told; leave them out, or choose another agent."
            )
        return ()
    if given is not None:
        return interventions_of(given, probe.decision, settings.env)
    found: list[str] = []
    for each in INTERVENTIONS:
        try:
            found += interventions_of([each], probe.decision, settings.env)
        except ValueError:
            continue  # auto means those that fit
    return tuple(found)


def _rules(settings: Settings[EnvConfig]) -> tuple[PolicySpec, ...]:
    from agents import RULES

    if settings.rules is not None:
        for spec in settings.rules:
            try:
                rule_view(spec, settings.env, teacher_names(settings))
            except ValueError as error:
                raise ValueError(f"evaluation.rules: {error}") from error
        return settings.rules
    fitting = []
    for name in RULES:
        spec = PolicySpec(name, {}, name)
        try:
            rule_view(spec, settings.env, teacher_names(settings))
        except ValueError:
            continue  # auto means those that fit
        fitting.append(spec)
    return tuple(fitting)
